"""Whole workers, from stream to stream, beside the engine alone: on one core, and on all.

The engine alone tokenizes and computes in a loop, in a process of its own that may use one core. So may the one worker,
with all that it does beside computing: what it is slower by is what the stream costs. Then one worker has all cores
(lanes over the same weights), and then there is one for each core (replicas). They take turns, each on a Redis of its
own; all run phi3-nano and its own adapter.
"""

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from redis.asyncio import Redis

from ...consumer.engine import Engine
from ...consumer.memory import settle_memory
from ...producer.connection import connect
from ...schemas import Abstract, AbstractSubmitted, AbstreamError, Streams
from ...schemas.streams import to_fields
from ..chaos.waiting import within
from ..chaos.workers import WorkerProcess, Workers
from ..embedded import embedded_redis
from ..working import load_engine
from .engine import example_abstracts
from .machine import machine

ALONE, ONE_WORKER = "engine alone, one core", "one worker, one core"
LANES, REPLICAS = "one worker, all cores", "a worker for each core"
TEXTS = 64  # different ones, sent again and again under other ids
BATCH = 16  # abstracts of real lengths in a worker's batch
EDGE = 0.1  # of a turn, at its beginning and its end: not all work there
PATIENCE_SECONDS = 120
CLOCK_SECONDS = 1e-3  # that of Redis ticks so often: a few abstracts may be answered between two ticks
LOOK_SECONDS = 0.1  # between two looks, which take time from the workers
STREAMS = Streams()


@dataclass(frozen=True)
class Load:
    """How much is measured.

    Attributes:
        abstracts: of a core in a turn.
        rounds: turns of each.
    """

    abstracts: int
    rounds: int
    dtype: str


@dataclass(frozen=True)
class Turn:
    """The results of one turn; of all times, other work on the core affects CPU time least.

    Attributes:
        cpu_milliseconds: of an abstract, all that the processes do.
        waits: the share of the time in which an engine does not compute.
    """

    per_second: float
    cpu_milliseconds: float
    waits: float


@dataclass(frozen=True)
class Seen:
    """The workers' progress: answers so far, the time, their CPU time, and how long their engines computed."""

    answered: int
    at: float
    cpu: float
    computed: float


def measure(load: Load, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything, and return the results as plain data.

    Args:
        load: how much to measure.
        out: of the workers' logs.
        say: called after each turn.

    Raises:
        AbstreamError: a worker does not start, or does not answer.
    """
    cores = sorted(os.sched_getaffinity(0))
    turns, memory = asyncio.run(_run(load, cores, out, say))
    rates = {name: [turn.per_second for turn in taken] for name, taken in turns.items()}
    return {
        "bench": "worker",
        "machine": machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
        **asdict(load),
        "cores": len(cores),
        "turns": {name: [asdict(turn) for turn in taken] for name, taken in turns.items()},
        "median": {name: asdict(_median(taken)) for name, taken in turns.items()},
        "memory_mib": memory,
        "worker_to_engine": _ratio(rates[ONE_WORKER], rates[ALONE]),
        "lanes_to_one": _ratio(rates[LANES], rates[ONE_WORKER]),
        "replicas_to_one": _ratio(rates[REPLICAS], rates[ONE_WORKER]),
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown: medians, and ratios within a round."""
    yield "| what | abstracts/s | CPU ms an abstract | engine waits | memory, MiB |"
    yield "|---|---|---|---|---|"
    for name, one in found["median"].items():
        cells = [f"{one['per_second']:.1f}", f"{one['cpu_milliseconds']:.2f}", f"{one['waits']:.1%}"]
        yield f"| {' | '.join([name, *cells, str(found['memory_mib'].get(name, ''))])} |"
    yield ""
    yield f"One worker to the engine alone: {found['worker_to_engine']:.3f}."
    yield f"On {found['cores']} cores to one core: one worker {found['lanes_to_one']:.2f}, "
    yield f"a worker for each {found['replicas_to_one']:.2f}."


async def _run(
    load: Load, cores: list[int], out: Path, say: Callable[[str], None]
) -> tuple[dict[str, list[Turn]], dict[str, int]]:
    many = len(cores)
    # How many workers, how many threads each has, and how many cores they have together.
    setups = {ONE_WORKER: (1, 1, 1), LANES: (1, many, many), REPLICAS: (many, 1, many)}
    teams: dict[str, tuple[Redis, Workers]] = {}
    turns: dict[str, list[Turn]] = {name: [] for name in (ALONE, *setups)}
    async with AsyncExitStack() as stack:
        with only_on(cores[:1]):  # what is started here may use no other core
            alone = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            alone.submit(_load, load.dtype).result()
        for name, (count, threads, usable) in setups.items():
            flags = {"engine": "torch", "dtype": load.dtype, "threads": threads}
            url = stack.enter_context(embedded_redis())
            redis = await stack.enter_async_context(connect(url))
            with only_on(cores[:usable]):
                workers = Workers(url, count, flags, out / name.replace(", ", "-").replace(" ", "-"), Random(1))
                teams[name] = redis, await stack.enter_async_context(workers)
            await answered(redis, workers.ready(), BATCH * usable)
        for number in range(load.rounds):
            for name, taken in turns.items():
                if name == ALONE:
                    taken.append(await asyncio.wrap_future(alone.submit(_answer_alone, load.abstracts)))
                else:
                    redis, team = teams[name]
                    taken.append(await answered(redis, team.ready(), load.abstracts * setups[name][2]))
                say(f"round {number + 1} of {load.rounds}: {name}: {taken[-1].per_second:.1f} abstracts/s")
        memory = {name: sum(map(own_mib, team.ready())) for name, (_, team) in teams.items()}
    return turns, memory


@contextmanager
def only_on(cores: list[int]) -> Iterator[None]:
    """Confine processes started meanwhile to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def answered(redis: Redis, workers: list[WorkerProcess], abstracts: int, texts: Sequence[Abstract] = ()) -> Turn:
    """What workers do from when a tenth of the abstracts is answered to when a tenth is left; ``texts`` by turns."""
    await redis.xtrim(STREAMS.predictions, maxlen=0, approximate=False)
    await _send(redis, abstracts, texts or example_abstracts(TEXTS))
    marks = [int(abstracts * EDGE), int(abstracts * (1 - EDGE))]
    first, last = [await _seen(redis, workers, count) for count in marks]
    await _seen(redis, workers, abstracts)
    entries: Any = await redis.xrange(STREAMS.predictions)
    begun, ended = (int(entries[count - 1][0].partition(b"-")[0]) / 1e3 for count in marks)
    return Turn(
        per_second=(marks[1] - marks[0]) / max(ended - begun, CLOCK_SECONDS),
        cpu_milliseconds=1e3 * (last.cpu - first.cpu) / max(last.answered - first.answered, 1),
        waits=1 - (last.computed - first.computed) / ((last.at - first.at) * len(workers)),
    )


async def _send(redis: Redis, abstracts: int, texts: Sequence[Abstract]) -> None:
    call = time.time_ns()
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(abstracts):
            event = AbstractSubmitted(
                id=f"{call}-{number}", source="urn:abstream:bench", data=texts[number % len(texts)]
            )
            fields: dict[Any, Any] = to_fields(event)
            pipe.xadd(STREAMS.lane("interactive"), fields)
        await pipe.execute()


async def _seen(redis: Redis, workers: list[WorkerProcess], wanted: int) -> Seen:
    """The workers' progress once the given number of abstracts is answered."""
    has_time = within(PATIENCE_SECONDS)
    while (answered := int(await redis.xlen(STREAMS.predictions))) < wanted:
        if not has_time():
            raise AbstreamError(f"the workers answered {answered} of {wanted} abstracts in {PATIENCE_SECONDS} s")
        await asyncio.sleep(LOOK_SECONDS)
    cpu = sum(worker.cpu_seconds() for worker in workers)
    at, computed = time.perf_counter(), [await worker.metric("abstream_inference_seconds_sum") for worker in workers]
    return Seen(answered, at, cpu, sum(computed))


_engine: Engine


def _load(dtype: str) -> None:
    """In a process of its own: the engine as a worker loads it."""
    global _engine
    settle_memory()
    flags = {"engine": "torch", "model": "phi3-nano", "model_revision": None, "task": None, "adapter": "auto"}
    limits = {"device": "cpu", "max_prompt_tokens": 2_046, "threads": 1}
    _engine = load_engine({**flags, **limits, "dtype": dtype})
    _answer_alone(BATCH)


def _answer_alone(abstracts: int) -> Turn:
    texts = sorted(example_abstracts(TEXTS), key=lambda one: len(one.abstract))  # as a worker packs them
    begun, cpu, computed = time.perf_counter(), time.process_time(), 0.0
    for start in range(0, abstracts, BATCH):
        batch = [_engine.encode(texts[number % TEXTS]) for number in range(start, min(start + BATCH, abstracts))]
        encoded = time.perf_counter()
        _engine.classify(batch)
        computed += time.perf_counter() - encoded
    took = time.perf_counter() - begun
    return Turn(abstracts / took, 1e3 * (time.process_time() - cpu) / abstracts, 1 - computed / took)


def own_mib(worker: WorkerProcess) -> int:
    """Its proportional share of memory (Linux): what processes share is divided among them."""
    lines = Path(f"/proc/{worker.process.pid}/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) // 1024


def _median(turns: list[Turn]) -> Turn:
    return Turn(*map(statistics.median, zip(*(asdict(turn).values() for turn in turns), strict=True)))


def _ratio(some: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(some, others, strict=True))
