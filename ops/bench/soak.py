"""Half an hour at a steady load: what grows, and whether the metrics agree at the end with what really happened.

Workers as an operator starts them, on a private Redis, with phi3-nano. First is found how much they answer when more
waits than they can do; then a share of that is published, evenly: both lanes, some of it twice, some of it broken.
Results are kept for a tenth of the time only, so that what is kept has reached its size long before the end.
"""

import asyncio
import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Any

from ...consumer.tasks import end
from ...producer import Publisher
from ...producer.connection import connect
from ...schemas import Abstract, AbstreamError, Lane, Shards, Streams
from ...schemas.streams import EVENT_FIELD, GROUP, LANES, OUTPUTS
from ..chaos.traffic import Watch
from ..chaos.waiting import until, within
from ..chaos.workers import Workers
from ..embedded import embedded_redis
from ..files import Tally, usable
from .machine import machine

PHI3_NANO: Mapping[str, object] = {"engine": "torch", "model": "phi3-nano", "threads": 1}
KEPT, WARM_UP = 0.1, 0.2  # shares of the time: results are kept so long, and so much passes before growth is looked at
MOST_GROWTH = 0.02
TICK_SECONDS = 0.25  # between two calls of the publisher
CROWD = 600  # abstracts that wait, at least, while it is found how much is answered
PATIENCE_SECONDS = 120
SOURCE = "urn:abstream:soak"
LEAST_KEPT_MINUTES = 1  # or the subscriber that counts would miss some
MINUTES_PER_DAY = 24 * 60


@dataclass(frozen=True)
class Load:
    """How much is measured.

    Attributes:
        share: of what the workers can do.
        flags: of ``abstream work``.
    """

    minutes: float = 30
    workers: int = 2
    share: float = 0.7
    measured_seconds: float = 20
    sampled_seconds: float = 5
    flags: Mapping[str, object] = field(default_factory=lambda: PHI3_NANO)


@dataclass
class Sent:
    """What was added to the lanes, by the outcome each entry must have."""

    good: int = 0
    repeated: int = 0
    broken: int = 0

    @property
    def entries(self) -> int:
        return self.good + self.repeated + self.broken


@dataclass(frozen=True)
class Sample:
    """What was held at one moment, in bytes and entries.

    Attributes:
        workers: memory of each.
        redis: without the identities that are remembered for a day, and so grow all the time.
    """

    seconds: float
    workers: tuple[int, ...]
    redis: int
    identities: int
    streams: dict[str, int]


def measure(load: Load, abstracts: Path, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything, and return the results as plain data; ``missed`` names what missed its target.

    Args:
        load: how much to measure.
        abstracts: a file of them; they are sent again and again, each time under another id.
        out: of the workers' logs and of ``samples.jsonl``.
        say: called with messages about progress.

    Raises:
        AbstreamError: the workers do not start, or answer nothing.
    """
    texts = [record.abstract for record in usable([str(abstracts)], "auto", Tally())]
    with embedded_redis() as url:
        found = asyncio.run(Soak(url, load, texts, out, say).run())
    about = {"bench": "soak", "machine": machine(), "python": platform.python_version(), "torch": version("torch")}
    known = {"minutes": load.minutes, "workers": load.workers, "share": load.share}
    missed = [name for name, (value, limit) in found["checks"].items() if value > limit]
    return {**about, **known, **found, "missed": missed}


def table(found: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown."""
    yield f"{found['minutes']:g} minutes, {found['workers']} workers, {found['rate']:.0f} entries a second, which is"
    yield f"{found['share']:.0%} of what they can do; {found['entries']} entries, {found['results']} results."
    yield ""
    yield "| what | measured | at most | |"
    yield "|---|---|---|---|"
    for name, (value, limit) in found["checks"].items():
        shown = f"{value:+.2%} | {limit:.0%}" if "growth" in name else f"{value:g} | {limit:g}"
        yield f"| {name.replace('_', ' ')} | {shown} | {'missed' if value > limit else 'met'} |"


class Soak:
    """One run, on one Redis."""

    def __init__(self, url: str, load: Load, texts: Sequence[Abstract], out: Path, say: Callable[[str], None]) -> None:
        self._url, self._load, self._out, self._say = url, load, out, say
        self._texts = cycle(texts)
        self._numbers = count()
        self._streams = Streams()
        self._sent = Sent()
        self._samples: list[Sample] = []

    async def run(self) -> dict[str, Any]:
        """What was found."""
        days = max(self._load.minutes * KEPT, LEAST_KEPT_MINUTES) / MINUTES_PER_DAY
        flags = {**self._load.flags, "keep-predictions-days": days, "keep-refusals-days": days}
        self._redis = connect(self._url)
        try:
            async with (
                Workers(self._url, self._load.workers, flags, self._out, Random(1)) as workers,
                Watch(self._url, Shards()) as watch,
                Publisher(self._url, source=SOURCE) as publisher,
            ):
                capacity = await self._capacity(publisher, watch)
                self._say(f"{capacity:.0f} abstracts a second are answered when more wait")
                await self._soak(publisher, workers, watch, capacity * self._load.share)
                told = await self._told(workers)
                failed = len(workers.exits) + sum(code != 0 for code in await workers.stop())
        finally:
            await self._redis.aclose()
        return {
            "capacity": capacity,
            "rate": capacity * self._load.share,
            "entries": self._sent.entries,
            "results": self._sent.good,
            "memory_mib": [round(sum(one.workers) / 2**20, 1) for one in self._samples],
            "redis_mib": [round(one.redis / 2**20, 1) for one in self._samples],
            "checks": checks(self._sent, watch.seen, told, self._samples, self._load, failed),
        }

    async def _capacity(self, publisher: Publisher, watch: Watch) -> float:
        """Answers a second under a full backlog, after the first quarter of the time."""
        has_time = within(self._load.measured_seconds)
        begun = counted = 0.0
        warm = within(self._load.measured_seconds / 4)
        while has_time():
            if self._sent.good - len(watch.seen) < CROWD:
                await self._publish_good(publisher, "interactive", CROWD // 2)
            if not begun and not warm():
                begun, counted = time.monotonic(), len(watch.seen)
            await asyncio.sleep(0.01)
        answered = (len(watch.seen) - counted) / (time.monotonic() - begun)
        if not answered:
            raise AbstreamError(f"the workers answer nothing: see {self._out}")
        await self._until_answered(watch)
        return answered

    async def _soak(self, publisher: Publisher, workers: Workers, watch: Watch, rate: float) -> None:
        sampling = asyncio.create_task(self._sample(workers))
        begun, before = time.monotonic(), self._sent.entries
        try:
            while (passed := time.monotonic() - begun) < self._load.minutes * 60:
                if due := int(passed * rate) - (self._sent.entries - before):
                    await self._publish(publisher, due)
                await asyncio.sleep(TICK_SECONDS)
            await self._until_answered(watch)
        finally:
            await end([sampling])

    async def _publish(self, publisher: Publisher, due: int) -> None:
        """Publish ``due`` entries: of a hundred one is broken and one a duplicate; a fifth is in the bulk lane."""
        kinds = Counter(number % 100 for number in range(self._sent.entries, self._sent.entries + due))
        broken, repeated = kinds[99], kinds[49]
        bulk = sum(kinds[kind] for kind in range(0, 100, 5))
        for _ in range(broken):
            await self._redis.xadd(self._streams.lane("interactive"), {EVENT_FIELD: "no event"})
        self._sent.broken += broken
        await self._publish_good(publisher, "interactive", due - bulk - broken - repeated, repeated)
        await self._publish_good(publisher, "bulk", bulk)

    async def _publish_good(self, publisher: Publisher, lane: Lane, number: int, repeated: int = 0) -> None:
        new = [(f"soak-{next(self._numbers)}", next(self._texts)) for _ in range(number)]
        again = new[:repeated]
        await publisher.publish_many([*new, *again], lane=lane)
        self._sent.good += len(new)
        self._sent.repeated += len(again)

    async def _until_answered(self, watch: Watch) -> None:
        wanted = self._sent.good + self._sent.broken
        await until(lambda: len(watch.seen) >= wanted, within(PATIENCE_SECONDS))
        lanes = [self._streams.lane(lane) for lane in LANES]

        async def nothing_pending() -> bool:
            pending: list[Any] = [await self._redis.xpending(lane, GROUP) for lane in lanes]
            return not any(one["pending"] for one in pending)

        await until(nothing_pending, within(PATIENCE_SECONDS))  # what was repeated is acknowledged too

    async def _sample(self, workers: Workers) -> None:
        begun = time.monotonic()
        with (self._out / "samples.jsonl").open("w", encoding="utf-8") as file:
            for number in count(1):
                sample = await self._look(workers, time.monotonic() - begun)
                self._samples.append(sample)
                print(json.dumps(vars(sample)), file=file, flush=True)
                if number % 60 == 0:
                    self._say(f"{sample.seconds / 60:.0f} minutes: {json.dumps(vars(sample))}")
                await asyncio.sleep(self._load.sampled_seconds)

    async def _look(self, workers: Workers, seconds: float) -> Sample:
        used = int((await self._redis.info("memory"))["used_memory"])
        sets = [await self._redis.memory_usage(key) or 0 for key in self._streams.seen(time.time())]
        keys = [*map(self._streams.lane, LANES), *map(self._streams.output, OUTPUTS)]
        return Sample(
            seconds=seconds,
            workers=tuple(worker.memory_bytes() for worker in workers.ready()),
            redis=used - sum(sets),
            identities=sum(sets),
            streams={key: await self._redis.xlen(key) for key in keys},
        )

    async def _told(self, workers: Workers) -> dict[str, int]:
        """What ``/metrics`` reports, summed over all workers."""
        names = ("abstracts_received", "refusals", "duplicates", "redeliveries", "commits_lost", "trimmed_undelivered")
        told = {name: await workers.metric(f"abstream_{name}_total") for name in names}
        told["end_to_end"] = await workers.metric("abstream_end_to_end_seconds_count")
        return told | {"predictions": await workers.metric("abstream_predictions_total", question="cancer")}


def checks(
    sent: Sent, seen: Counter[str], told: Mapping[str, int], samples: Sequence[Sample], load: Load, failed: int
) -> dict[str, tuple[float, float]]:
    """Each measurement beside its upper limit.

    Args:
        sent: what was added to the lanes.
        seen: how often each was answered or refused, as a subscriber saw.
        told: what the workers' metrics say.
        samples: in their order.
        load: what was asked for.
        failed: workers that ended before they were asked to, or with another code than 0.
    """
    true = {
        "abstracts_received": sent.entries,
        "predictions": sent.good,
        "end_to_end": sent.good,
        "refusals": sent.broken,
        "duplicates": sent.repeated,
    }
    wrong = {f"{name}_metric_off_by": abs(told[name] - true.get(name, 0)) for name in told}
    later = [one for one in samples if one.seconds >= load.minutes * 60 * WARM_UP] or list(samples)
    grown = {
        "worker_memory_growth": max(growth(memory) for memory in zip(*(one.workers for one in later), strict=False)),
        "redis_memory_growth": growth([one.redis for one in later]),
    }
    return {
        "lost": (sent.good + sent.broken - len(seen), 0),
        "doubled": (sum(seen.values()) - len(seen), 0),
        "workers_that_failed": (failed, 0),
        **{name: (value, 0) for name, value in wrong.items()},
        **{name: (value, MOST_GROWTH) for name, value in grown.items()},
    }


def growth(values: Sequence[float]) -> float:
    """The growth from the first tenth to the last, by medians."""
    tenth = max(1, len(values) // 10)
    return statistics.median(values[-tenth:]) / statistics.median(values[:tenth]) - 1
