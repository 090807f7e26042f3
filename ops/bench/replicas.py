"""How much memory each further replica of ``abstream work --replicas N`` takes, with an adapter in service.

The replicas run as an operator starts them, on a Redis of their own, and are looked at when each has answered. What
several processes map counts for each in part, so that the sum is what the machine has to have (Linux).
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redis import Redis

from ...schemas import AbstractSubmitted, AbstreamError, Streams
from ...schemas.streams import to_fields
from ..embedded import embedded_redis
from .engine import example_abstracts
from .machine import machine

ABSTRACTS = 8  # of a replica, sent again until each has answered some
READ_COUNT = 2
PATIENCE_SECONDS = 300
LOOK_SECONDS = 0.2
STREAMS = Streams()
KIB_OF_A_MIB = 1024


@dataclass(frozen=True)
class Held:
    """Memory in MiB.

    Attributes:
        rss: all that is there.
        share: the same, but what several processes have is divided among them.
        private: what no other process has.
    """

    rss: float
    share: float
    private: float


def measure(model: str, dtype: str, counts: Sequence[int], out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything, and return the results as plain data.

    Args:
        model: ``nano``, or ``small`` of random weights.
        dtype: of the weights in service.
        counts: of replicas, more than one of them.
        out: of the random model and of the logs.
        say: called after each.

    Raises:
        AbstreamError: the replicas do not answer.
    """
    flags = ["--dtype", dtype, *_model_flags(model, out)]
    held: dict[int, list[Held]] = {}
    for count in sorted(counts):
        with replicas(count, flags, out) as processes:
            held[count] = list(map(memory_of, processes))
        say(f"{count} replicas: {sum(one.share for one in held[count]):.0f} MiB")
    least, most = min(held), max(held)
    return {
        "bench": "replicas",
        "machine": machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "model": model,
        "dtype": dtype,
        "replicas_mib": {str(count): [asdict(one) for one in each] for count, each in held.items()},
        "further_mib": (_total(held[most]).share - _total(held[least]).share) / (most - least),
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown."""
    yield f"| replicas ({found['model']}, {found['dtype']}) | all together, MiB | private to one | RSS of one |"
    yield "|---|---|---|---|"
    for count, each in found["replicas_mib"].items():
        total = _total(Held(**one) for one in each)
        yield f"| {count} | {total.share:.0f} | {total.private / len(each):.0f} | {total.rss / len(each):.0f} |"
    yield ""
    yield f"Each further replica takes {found['further_mib']:.0f} MiB."


def memory_of(process: int) -> Held:
    """What a process holds now."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    private = kib["Private_Clean"] + kib["Private_Dirty"]
    return Held(*(value / KIB_OF_A_MIB for value in (kib["Rss"], kib["Pss"], private)))


@contextmanager
def replicas(count: int, flags: Sequence[str], out: Path) -> Iterator[list[int]]:
    """The processes of ``count`` replicas that have all answered, while the block lasts.

    Raises:
        AbstreamError: they do not.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{count}-replicas.log"
    with embedded_redis() as url, path.open("wb") as log, Redis.from_url(url) as redis:
        command = [sys.executable, "-m", "abstream.ops", "--redis-url", url, "work", *flags]
        own = ["--replicas", str(count), "--threads", "1", "--read-count", str(READ_COUNT)]
        with subprocess.Popen([*command, *own], stdout=log, stderr=log) as process:
            try:
                _until_all_answered(redis, count, process, path)
                yield [process.pid] if count == 1 else _children(process.pid)
            finally:
                process.terminate()


def _until_all_answered(redis: Redis, count: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline, sent = time.monotonic() + PATIENCE_SECONDS, 0
    while len(_who_answered(redis)) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            raise AbstreamError(f"of {count} replicas, {len(_who_answered(redis))} answered: see {log}")
        if redis.xlen(STREAMS.predictions) == sent:
            sent += _send(redis, ABSTRACTS * count, sent)
        time.sleep(LOOK_SECONDS)


def _send(redis: Redis, abstracts: int, first: int) -> int:
    for number, abstract in enumerate(example_abstracts(abstracts), first):
        event = AbstractSubmitted(id=str(number), source="urn:abstream:bench", data=abstract)
        fields: dict[Any, Any] = to_fields(event)
        redis.xadd(STREAMS.lane("interactive"), fields)
    return abstracts


def _who_answered(redis: Redis) -> set[str]:
    entries: Any = redis.xrange(STREAMS.predictions)
    return {json.loads(fields[b"event"])["data"]["worker"] for _, fields in entries}


def _children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def _total(each: Iterable[Held]) -> Held:
    return Held(*map(sum, zip(*(asdict(one).values() for one in each), strict=True)))


def _model_flags(model: str, out: Path) -> list[str]:
    """The flags of a model with an adapter on every linear layer; phi3-nano's own is served by default."""
    if model == "nano":
        return []
    import torch

    from ...consumer.engine.weights import locate
    from .random_phi3 import SMALL, adapter_for, write

    folder, adapter = write(SMALL, out / "small", torch.device("cpu")), out / "small-adapter"
    adapter_for(SMALL, locate(str(folder)), adapter)
    return ["--model", str(folder), "--adapter", str(adapter)]
