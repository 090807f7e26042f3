"""How fast the plumbing is: messages a second, CPU of a message, latency at a steady rate, CPU of an idle worker.

Every measurement has a process of its own, and the contestants take turns, so that a slow minute of the machine meets
all of them alike: what counts is the ratio within a round.
"""

import asyncio
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from redis import Redis

from ...consumer.engine import Engine
from ...consumer.engine.fake import FakeEngine
from ...producer.connection import connect
from ...schemas import AbstreamError, Event, Streams
from ...schemas.streams import GROUP, LANES, from_fields, to_fields
from ..embedded import redis_url
from ..logs import configure
from .contestants import CONTESTANTS, example_abstract, example_results, work
from .machine import machine

PACKAGES = ("redis", "hiredis", "pydantic", "prometheus_client", "structlog", "faststream")
WARM_UP_ENTRIES = 1_000
WARM_UP_SECONDS = 1

T = TypeVar("T")
_spawn = get_context("spawn")


@dataclass(frozen=True)
class Throughput:
    """One contestant in one round; CPU microseconds are per message."""

    per_second: float
    client_microseconds: float
    redis_microseconds: float

    @property
    def cpu_microseconds(self) -> float:
        """The CPU time of both ends together: what counts on a machine with other work."""
        return self.client_microseconds + self.redis_microseconds


@dataclass(frozen=True)
class Latency:
    """The time from just before the XADD of an abstract until a subscriber has its result."""

    per_second: int
    p50_milliseconds: float
    p99_milliseconds: float


@dataclass(frozen=True)
class Load:
    """How much is measured.

    Attributes:
        entries: of one contestant in one round.
        rounds: how often each has its turn.
        rate: abstracts a second, for the latency.
        seconds: how long latency is measured, and then the idle worker.
    """

    entries: int
    rounds: int
    rate: int
    seconds: int


def measure(given_url: str | None, load: Load, names: Collection[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything, and return the results as plain data.

    Args:
        given_url: of a Redis server; one is started where it is None.
        load: how much to measure.
        names: beside whom the worker is measured; FastStream is left out where it is not installed.
        say: called after each turn.

    Raises:
        Unavailable: there is no Redis.
        AbstreamError: a contestant left entries unanswered.
    """
    with redis_url(given_url) as url, Redis.from_url(url) as redis:
        rounds = _rounds(redis, url, load, names, say)
        with filled(redis) as streams, serving(url, streams):
            latency = asyncio.run(_latency(url, streams, load))
        with filled(redis) as streams:
            idle = _alone(_idle, url, streams, load.seconds)
        about = _about(redis)
    return {
        "bench": "stream",
        **about,
        **asdict(load),
        "entry_bytes": len(example_abstract(0).to_json()),
        "result_bytes": round(statistics.mean(map(len, example_results()))),
        "turns": {name: [asdict(turn) for turn in turns] for name, turns in rounds.items()},
        "median": {name: asdict(_median(turns)) for name, turns in rounds.items()},
        "worker_to": {name: _compared(rounds["worker"], turns) for name, turns in rounds.items() if name != "worker"},
        "latency": asdict(latency),
        "idle_cpu_share": idle,
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown, with how many times as fast and as cheap the worker is."""
    yield "| in one process | messages/s | client CPU, µs | Redis CPU, µs | worker: times as fast | times as cheap |"
    yield "|---|---|---|---|---|---|"
    for name, one in found["median"].items():
        cells = [f"{one['per_second']:,.0f}", f"{one['client_microseconds']:.1f}", f"{one['redis_microseconds']:.1f}"]
        ratios = [f"{ratio:.2f}" for ratio in found["worker_to"].get(name, {}).values()]
        yield f"| {' | '.join([name, *cells, *(ratios or ['', ''])])} |"
    latency = found["latency"]
    yield ""
    yield (
        f"At {latency['per_second']} messages a second: p50 {latency['p50_milliseconds']:.2f} ms, "
        f"p99 {latency['p99_milliseconds']:.2f} ms. Idle: {100 * found['idle_cpu_share']:.2f} % of a core."
    )


def _rounds(
    redis: Redis, url: str, load: Load, names: Collection[str], say: Callable[[str], None]
) -> dict[str, list[Throughput]]:
    present = [name for name in CONTESTANTS if "FastStream" not in name or find_spec("faststream")]
    found: dict[str, list[Throughput]] = {name: [] for name in present if name == "worker" or name in names}
    for number in range(load.rounds):
        for name, turns in found.items():
            turns.append(_throughput(redis, url, name, load.entries))
            say(f"round {number + 1} of {load.rounds}: {name}: {turns[-1].per_second:,.0f} messages/s")
    return found


def _throughput(redis: Redis, url: str, name: str, entries: int) -> Throughput:
    to_fields = CONTESTANTS[name].to_fields
    with filled(redis, WARM_UP_ENTRIES, to_fields) as first, filled(redis, entries, to_fields) as streams:
        turn = _alone(_answer_all, name, url, ((first, WARM_UP_ENTRIES), (streams, entries)))
        answered = redis.xlen(streams.predictions)
    if answered != entries:
        raise AbstreamError(f"{name} published {answered} results for {entries} entries")
    return turn


def _answer_all(name: str, url: str, lanes: Sequence[tuple[Streams, int]]) -> Throughput:
    """Answer one lane after the other; return what the last took, with imports and caches warm."""
    _log_as_usual()
    with Redis.from_url(url) as redis:
        for streams, entries in lanes:
            begun, client, server = time.perf_counter(), time.process_time(), _cpu_seconds(redis)
            asyncio.run(CONTESTANTS[name].answer(url, streams, entries))
        took = time.perf_counter() - begun
        client, server = time.process_time() - client, _cpu_seconds(redis) - server
    return Throughput(entries / took, 1e6 * client / entries, 1e6 * server / entries)


async def _latency(url: str, streams: Streams, load: Load) -> Latency:
    redis, sent, took, rate = connect(url), dict[str, float](), list[float](), load.rate
    events = [example_abstract(number) for number in range(rate * (WARM_UP_SECONDS + load.seconds))]

    async def publish() -> None:
        begun = time.perf_counter()
        for number, event in enumerate(events):
            await asyncio.sleep(begun + number / rate - time.perf_counter())
            fields: dict[Any, Any] = to_fields(event)
            sent[event.id] = time.perf_counter()
            await redis.xadd(streams.lane("interactive"), fields)

    publishing, since = asyncio.create_task(publish()), "0"
    while len(took) < len(events):
        replies: Any = await redis.xread({streams.predictions: since}, block=1_000)
        now = time.perf_counter()
        for entry_id, fields in replies[0][1] if replies else []:
            took.append(now - sent[from_fields(fields).causationid or ""])
            since = entry_id
    await publishing
    await redis.aclose()
    centiles = statistics.quantiles(took[rate * WARM_UP_SECONDS :], n=100)
    return Latency(rate, 1_000 * centiles[49], 1_000 * centiles[98])


def _serve(url: str, streams: Streams, make_engine: Callable[[], Engine]) -> None:
    """``abstream work`` with an instant engine."""
    _log_as_usual()
    asyncio.run(work(url, streams, make_engine(), burst=False))


def _idle(url: str, streams: Streams, seconds: int) -> float:
    """The share of a core that a worker takes while there is nothing to do."""
    _log_as_usual()

    async def rest() -> float:
        working = asyncio.create_task(work(url, streams, FakeEngine(), burst=False))
        await asyncio.sleep(WARM_UP_SECONDS)
        begun = time.process_time()
        await asyncio.sleep(seconds)
        spent = time.process_time() - begun
        os.kill(os.getpid(), signal.SIGTERM)
        await working
        return spent / seconds

    return asyncio.run(rest())


def _alone(function: Callable[..., T], *arguments: Any) -> T:
    """What ``function`` returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=_spawn) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def serving(url: str, streams: Streams, make_engine: Callable[[], Engine] = FakeEngine) -> Iterator[None]:
    """A worker in a process of its own, while the block lasts."""
    process = _spawn.Process(target=_serve, args=(url, streams, make_engine))
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


@contextmanager
def filled(
    redis: Redis, entries: int = 0, to_fields: Callable[[Event], dict[str, bytes]] = to_fields
) -> Iterator[Streams]:
    """A fresh namespace with the given number of abstracts to answer, removed at the end."""
    streams = Streams(f"bench-{uuid4().hex}")
    for lane in LANES:
        redis.xgroup_create(streams.lane(lane), GROUP, id="0", mkstream=True)
    for begin in range(0, entries, 1_000):
        with redis.pipeline(transaction=False) as pipe:
            for number in range(begin, min(begin + 1_000, entries)):
                fields: dict[Any, Any] = to_fields(example_abstract(number))
                pipe.xadd(streams.lane("interactive"), fields)
            pipe.execute()
    try:
        yield streams
    finally:
        redis.delete(*redis.scan_iter(f"{{{streams.namespace}}}:*", count=1_000))


def _log_as_usual() -> None:
    """Every line is written, to nowhere."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    configure("json")


def _cpu_seconds(redis: Redis) -> float:
    used = redis.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def _median(turns: Sequence[Throughput]) -> Throughput:
    rows = zip(*(asdict(turn).values() for turn in turns), strict=True)
    return Throughput(*map(statistics.median, rows))


def _compared(ours: Sequence[Throughput], others: Sequence[Throughput]) -> dict[str, float]:
    """How many times as fast and as cheap the worker is: medians of the ratios within rounds."""
    pairs = list(zip(ours, others, strict=True))
    return {
        "speed": statistics.median(one.per_second / other.per_second for one, other in pairs),
        "cpu": statistics.median(other.cpu_microseconds / one.cpu_microseconds for one, other in pairs),
    }


def _about(redis: Redis) -> dict[str, Any]:
    installed = [name for name in PACKAGES if find_spec(name)]
    return {
        "machine": machine(),
        "python": platform.python_version(),
        "redis_server": redis.info("server")["redis_version"],
        "versions": {name: version(name) for name in installed},
    }
