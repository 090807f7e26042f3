"""What a switch of adapters costs while abstracts flow, and whether every answer is of the adapter its receipt names.

Workers as an operator starts them, on a private Redis, with phi3-nano. Abstracts come at a steady rate, and two
adapters are released by turns. Afterwards each is loaded once more, outside of any worker, and asked everything again.
"""

import asyncio
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from redis.asyncio import Redis
from safetensors.torch import load_file, save_file

from ...consumer.engine.config import EngineConfig
from ...consumer.engine.merging import Base
from ...consumer.engine.phi3 import Phi3Engine
from ...consumer.engine.scoring import score, softmax
from ...producer.connection import connect
from ...schemas import (
    Abstract,
    AbstractClassified,
    AbstractSubmitted,
    AbstreamError,
    AdapterActivated,
    AdapterRejected,
    Streams,
    VerifiedAdapter,
)  # fmt: skip
from ...schemas.artifacts import ADAPTER_FILES, MANIFEST, seal, verify
from ...schemas.streams import from_fields, to_fields
from ...training.release import release
from ..chaos.workers import Workers
from ..embedded import embedded_redis
from ..files import Tally, usable
from ..settings import adapter_folder, shipped_model
from .machine import machine

MODEL = "phi3-nano"
SOURCE = "urn:abstream:bench"
WARM_UP_SECONDS, PATIENCE_SECONDS = 5, 60
SETTLING_SECONDS = 0.1  # after the last worker's word; what was handed in meanwhile may have waited for it
ROUNDING = 1e-4  # of a probability in float32: what shares a batch changes the order of additions
FIRST_SWITCHES = 10  # after these, memory must not grow


@dataclass(frozen=True)
class Load:
    """How much is measured.

    Attributes:
        rate: abstracts a second.
        pause_seconds: after each switch, without one.
    """

    switches: int
    workers: int
    rate: float
    pause_seconds: float


@dataclass
class Seen:
    """What happened, by the clock of Redis in milliseconds.

    Attributes:
        sent: each abstract by its id.
        windows: from just before each release to when the last worker's word of it was followed by some quiet.
        seconds_to_last: from each release to the last worker's word.
        load_ms: of each worker at each switch.
        memory: of all workers together after each switch, in bytes.
    """

    sent: dict[str, Abstract] = field(default_factory=dict)
    windows: list[tuple[float, float]] = field(default_factory=list)
    seconds_to_last: list[float] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def measure(load: Load, abstracts: Path, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything, and return the results as plain data.

    Args:
        load: how much to measure.
        abstracts: a file of them; they are sent again and again, each time under another id.
        out: of the workers' logs.
        say: called with messages about progress.

    Raises:
        AbstreamError: a worker does not start, or rejects an adapter.
    """
    texts = [record.abstract for record in usable([str(abstracts)], "auto", Tally())]
    with embedded_redis() as url, TemporaryDirectory() as folder:
        adapters = two_adapters(Path(folder))
        seen, results, redis_version = asyncio.run(_run(url, load, texts, adapters, out, Path(folder) / "store", say))
        checked = _checked(seen, [result for _, result in results], adapters)
    answered = Counter(result.causationid for _, result in results)
    return {
        "bench": "switch",
        "machine": machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "redis_server": redis_version,
        **asdict(load),
        "abstracts": len(seen.sent),
        "lost": len(seen.sent.keys() - answered.keys()),
        "duplicated": sum(count - 1 for count in answered.values()),
        **checked,
        **latency(seen.windows, [_span(entry_id, result) for entry_id, result in results]),
        "seconds_to_last_worker": _centiles(seen.seconds_to_last),
        "load_ms": _centiles(seen.load_ms),
        "memory_mib": [round(size / 2**20, 1) for size in seen.memory],
        "memory_growth": growth(seen.memory),
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown."""
    yield "| what | measured |"
    yield "|---|---|"
    for name in ("switches", "abstracts", "lost", "duplicated", "not_of_the_receipts_adapter"):
        yield f"| {name.replace('_', ' ')} | {found[name]} |"
    yield f"| largest difference of a probability from the receipt's adapter | {found['largest_difference']:.1e} |"
    yield f"| share of answers on which the other adapter differs | {found['told_apart']:.0%} |"
    yield f"| p50, p99 between switches, ms | {found['calm_p50_ms']:.0f}, {found['calm_p99_ms']:.0f} |"
    yield f"| p50, p99 during switches, ms | {found['switching_p50_ms']:.0f}, {found['switching_p99_ms']:.0f} |"
    yield f"| p99 during to p99 between | {found['p99_ratio']:.2f} |"
    seconds, load = found["seconds_to_last_worker"], found["load_ms"]
    last = f"release to the last of {found['workers']} workers"
    yield f"| {last}, s: median, worst | {seconds[0]:.2f}, {seconds[1]:.2f} |"
    yield f"| fetch, load and probe on one worker, ms: median, worst | {load[0]:.0f}, {load[1]:.0f} |"
    yield f"| memory of all workers, growth after the first {FIRST_SWITCHES} switches | {found['memory_growth']:+.1%} |"


def two_adapters(folder: Path) -> list[VerifiedAdapter]:
    """The adapter that comes with the model, and one that answers differently: the same with its deltas negated."""
    shipped = adapter_folder("auto", MODEL, own_task=False)
    assert shipped
    first = verify(shipped)
    other = folder / "other"
    other.mkdir()
    (other / ADAPTER_FILES[0]).write_bytes((shipped / ADAPTER_FILES[0]).read_bytes())
    tensors = load_file(shipped / ADAPTER_FILES[1])
    turned = {
        name: -tensor if "lora_B" in name or "embedding_B" in name else tensor for name, tensor in tensors.items()
    }
    save_file(turned, other / ADAPTER_FILES[1], metadata={"format": "pt"})
    manifest = first.manifest.model_copy(update={"version": "turned", "metrics": None, "probes": ()})
    draft = seal(other, manifest)
    engine = _engine(draft)
    probes = tuple(
        probe.model_copy(update={"probabilities": _raw(engine, Abstract(title=probe.title, abstract=probe.abstract))})
        for probe in first.manifest.probes
    )
    (other / MANIFEST).unlink()
    return [first, seal(other, manifest.model_copy(update={"probes": probes}))]


async def _run(
    url: str,
    load: Load,
    texts: Sequence[Abstract],
    adapters: Sequence[VerifiedAdapter],
    out: Path,
    store: Path,
    say: Callable[[str], None],
) -> tuple[Seen, list[tuple[str, AbstractClassified]], str]:
    flags = {"engine": "torch", "model": MODEL, "threads": 1, "guard-abstracts": 0}
    redis, streams, seen = connect(url), Streams(), Seen()
    try:
        async with Workers(url, load.workers, flags, out, Random(1)) as workers:
            publishing = asyncio.create_task(_publish(redis, streams, load.rate, texts, seen))
            await asyncio.sleep(WARM_UP_SECONDS)
            for number, adapter in zip(range(load.switches), cycle(adapters[::-1]), strict=False):
                await _switch(redis, streams, adapter, store, load.workers, seen)
                seen.memory.append(sum(worker.memory_bytes() for worker in workers.ready()))
                if (number + 1) % 10 == 0:
                    say(f"{number + 1} of {load.switches} switches, {seen.memory[-1] / 2**20:.0f} MiB")
                await asyncio.sleep(load.pause_seconds)
            publishing.cancel()
            await _until(lambda: _length(redis, streams.predictions), len(seen.sent), "the last results")
            await workers.stop()
        entries: Any = await redis.xrange(streams.predictions)
        redis_version = (await redis.info("server"))["redis_version"]
    finally:
        await redis.aclose()
    events = [(entry_id.decode(), from_fields(fields)) for entry_id, fields in entries]
    return seen, [(entry_id, one) for entry_id, one in events if isinstance(one, AbstractClassified)], redis_version


async def _publish(redis: Redis, streams: Streams, rate: float, texts: Sequence[Abstract], seen: Seen) -> None:
    begun = time.perf_counter()
    for number, abstract in enumerate(cycle(texts)):
        await asyncio.sleep(begun + number / rate - time.perf_counter())
        event = AbstractSubmitted(id=str(number), source=SOURCE, data=abstract)
        fields: dict[Any, Any] = to_fields(event)
        seen.sent[event.id] = abstract
        await asyncio.shield(redis.xadd(streams.lane("interactive"), fields))


async def _switch(
    redis: Redis, streams: Streams, adapter: VerifiedAdapter, store: Path, workers: int, seen: Seen
) -> None:
    fleet = streams.output("fleet")
    before = await _length(redis, fleet)
    begun, clock = await _now_ms(redis), time.perf_counter()
    await release(redis, streams, adapter.path, store)
    await _until(lambda: _length(redis, fleet), before + workers, "the workers' answers")
    seen.seconds_to_last.append(time.perf_counter() - clock)
    await asyncio.sleep(SETTLING_SECONDS)
    seen.windows.append((begun, await _now_ms(redis)))
    entries: Any = await redis.xrevrange(fleet, count=workers)
    for event in (from_fields(fields) for _, fields in entries):
        if isinstance(event, AdapterRejected):
            raise AbstreamError(f"{event.data.worker} rejected {event.data.digest}: {event.data.reason}")
        if isinstance(event, AdapterActivated) and event.data.probes:
            seen.load_ms.append(event.data.load_ms)


def latency(windows: Sequence[tuple[float, float]], spans: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The latency of abstracts in flight during a switch, and of the others.

    Args:
        windows: when there was a switch.
        spans: from when each abstract was sent to when its answer was there.
    """
    during, calm = list[float](), list[float]()
    for sent, answered in spans:
        touched = any(sent < end and begin < answered for begin, end in windows)
        if touched or not windows or sent > windows[0][0]:  # before the first switch, workers warm up
            (during if touched else calm).append(answered - sent)
    centiles: dict[str, float] = {}
    for name, values in (("calm", calm), ("switching", during)):
        cut = statistics.quantiles(values, n=100, method="inclusive")
        centiles |= {f"{name}_p50_ms": cut[49], f"{name}_p99_ms": cut[98], f"{name}_abstracts": len(values)}
    return centiles | {"p99_ratio": centiles["switching_p99_ms"] / centiles["calm_p99_ms"]}


def growth(memory: Sequence[int]) -> float:
    """The growth from the second ten to the last ten, or as many as there are, by medians."""
    later = memory[FIRST_SWITCHES:] or memory
    return statistics.median(later[-10:]) / statistics.median(later[:10]) - 1


def _checked(
    seen: Seen, results: Sequence[AbstractClassified], adapters: Sequence[VerifiedAdapter]
) -> dict[str, float | int]:
    """Compare every answer with those of the adapter of its receipt, and of the other one, to the same text."""
    engines = {adapter.digest: _engine(adapter) for adapter in adapters}
    known: dict[tuple[str, str], dict[tuple[str, str], float]] = {}

    def probabilities(digest: str, abstract: Abstract) -> dict[tuple[str, str], float]:
        key = digest, abstract.model_dump_json()
        if key not in known:
            engine = engines[digest]
            answers, _ = score(engine.model, engine.classify([engine.encode(abstract)]).logits[0])
            known[key] = {
                (name, label): value for name, one in answers.items() for label, value in one["probabilities"].items()
            }
        return known[key]

    differences, apart = list[float](), 0
    for result in results:
        abstract, digest = seen.sent[str(result.causationid)], str(result.data.model.adapter_digest)
        own = {(name, label): p for name, one in result.data.answers.items() for label, p in one.probabilities.items()}
        differences.append(_distance(own, probabilities(digest, abstract)))
        [other] = engines.keys() - {digest}
        apart += _distance(own, probabilities(other, abstract)) > 10 * ROUNDING
    return {
        "not_of_the_receipts_adapter": sum(one > ROUNDING for one in differences),
        "largest_difference": max(differences),
        "told_apart": apart / len(results),
    }


def _distance(one: dict[tuple[str, str], float], other: dict[tuple[str, str], float]) -> float:
    """The largest difference in a probability; the maximum, where only one was asked a question."""
    return max(abs(one[key] - other[key]) for key in one) if one.keys() == other.keys() else 1.0


def _engine(adapter: VerifiedAdapter) -> Phi3Engine:
    torch.set_num_threads(1)
    config = EngineConfig(model=shipped_model(MODEL), device="cpu")
    return Phi3Engine(config, adapter=adapter, base=Base(config))


def _raw(engine: Phi3Engine, abstract: Abstract) -> dict[str, dict[str, float]]:
    """The uncalibrated probabilities (temperature 1) of every question, asked or not."""
    rows = engine.classify([engine.encode(abstract)]).logits[0]
    questions = engine.model.task.questions
    return {
        one.name: dict(zip(one.labels, softmax(row), strict=True)) for one, row in zip(questions, rows, strict=True)
    }


def _span(entry_id: str, result: AbstractClassified) -> tuple[float, float]:
    """When an abstract was handed in and when its answer was there, by the ids of their entries."""
    sent, answered = (int(one.partition("-")[0]) for one in (str(result.sequence), entry_id))
    return float(sent), float(answered)


def _centiles(values: Sequence[float]) -> tuple[float, float]:
    """Median and worst."""
    return statistics.median(values), max(values)


async def _now_ms(redis: Redis) -> float:
    seconds, microseconds = await redis.time()
    return seconds * 1000 + microseconds / 1000


async def _length(redis: Redis, stream: str) -> int:
    return int(await redis.xlen(stream))


async def _until(length: Callable[[], Any], wanted: int, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while await length() < wanted:
        if time.monotonic() > deadline:
            raise AbstreamError(f"waited {PATIENCE_SECONDS} s in vain for {what}")
        await asyncio.sleep(0.005)
