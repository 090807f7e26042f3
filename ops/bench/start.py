"""How long after its process starts each thing is ready: the client, the command line, a worker's first result.

A worker is started as an operator starts it, on a Redis that runs and holds one abstract, with phi3-nano and its own
adapter. On a GPU the first start probes how many tokens a pass takes, and those that follow remember it.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from redis import Redis

from ...schemas import AbstreamError, Streams
from ..embedded import redis_url
from .machine import machine

COMMANDS = {
    "python": ["-c", "pass"],
    "import of the client": ["-c", "from abstream import Abstract, Publisher, Subscriber"],
    "abstream --help": ["-m", "abstream.ops", "--help"],
}
WORKER, FIRST_WORKER = "worker's first result", "worker's first result on a new machine"
WANTED_SECONDS = {"import of the client": 0.3, "abstream --help": 0.3, WORKER: 3.0}
LOOK_MS = 500  # whether a worker is still there; a result comes at once


@dataclass(frozen=True)
class Start:
    """What one start took; CPU is that of the whole process."""

    seconds: float
    cpu_seconds: float


def measure(given_url: str | None, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything, and return the results as plain data.

    Args:
        given_url: of a Redis server; one is started where it is None.
        rounds: starts of each.
        say: called after each.

    Raises:
        Unavailable: there is no Redis.
        AbstreamError: a command fails, or a worker ends without a result.
    """
    starts: dict[str, list[Start]] = {name: [] for name in (*COMMANDS, WORKER)}
    with redis_url(given_url) as url, TemporaryDirectory() as cache:
        first = first_result(url, Path(cache))
        for number in range(rounds):
            for name, taken in starts.items():
                taken.append(first_result(url, Path(cache)) if name == WORKER else run(COMMANDS[name]))
                say(f"round {number + 1} of {rounds}: {name}: {taken[-1].seconds:.2f} s")
    return {
        "bench": "start",
        "machine": machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "rounds": rounds,
        "wanted_seconds": WANTED_SECONDS,
        "starts": {name: [asdict(one) for one in taken] for name, taken in starts.items()},
        "median": {name: asdict(_median(taken)) for name, taken in starts.items()} | {FIRST_WORKER: asdict(first)},
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown: medians."""
    yield "| what | seconds | target | CPU seconds |"
    yield "|---|---|---|---|"
    for name, one in found["median"].items():
        wanted = found["wanted_seconds"].get(name, "")
        yield f"| {name} | {one['seconds']:.2f} | {wanted} | {one['cpu_seconds']:.2f} |"


def run(arguments: list[str]) -> Start:
    """The time of a Python process from start to end.

    Raises:
        AbstreamError: it fails.
    """
    begun, cpu = time.perf_counter(), _cpu_of_the_ended()
    code = subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=False).returncode
    if code:
        raise AbstreamError(f"python {' '.join(arguments)} ended with {code}")
    return Start(time.perf_counter() - begun, _cpu_of_the_ended() - cpu)


def first_result(url: str, cache: Path, *flags: str) -> Start:
    """The time from a worker's start to its first result; ``cache`` is its cache folder, ``flags`` are its own.

    Raises:
        AbstreamError: it ends without.
    """
    streams = Streams(f"bench-{uuid4().hex}")
    command = ["-m", "abstream.ops", f"--redis-url={url}", f"--namespace={streams.namespace}", "work", *flags]
    with Redis.from_url(url, protocol=2) as redis:
        redis.xadd(streams.lane("interactive"), {"title": "Tamoxifen", "abstract": "We followed women with cancer."})
        begun, cpu = time.perf_counter(), _cpu_of_the_ended()
        with subprocess.Popen(
            [sys.executable, *command], stderr=subprocess.DEVNULL, env=os.environ | {"XDG_CACHE_HOME": str(cache)}
        ) as worker:
            while not redis.xread({streams.predictions: "0"}, block=LOOK_MS):
                if worker.poll() is not None:
                    raise AbstreamError(f"a worker ended with {worker.returncode} and no result: see abstream doctor")
            took = time.perf_counter() - begun
            worker.terminate()
        redis.delete(*redis.keys(f"{{{streams.namespace}}}*"))
    return Start(took, _cpu_of_the_ended() - cpu)


def _cpu_of_the_ended() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _median(starts: list[Start]) -> Start:
    return Start(*map(statistics.median, zip(*(asdict(one).values() for one in starts), strict=True)))
