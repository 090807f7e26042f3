"""A backlog that takes minutes to work off must not slow itself down, nor delay what is urgent."""

import asyncio
import time
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from ...consumer.tasks import end
from ...schemas.streams import GROUP
from .scene import Row, Scene
from .traffic import abstracts

_BURST = 256
_LONGEST_WAIT_SECONDS = 1.0  # of an urgent abstract: a batch at work, one ready behind it, and a busy machine
_MOST_HELD = 1_024  # entries of one worker: what is computed, what is ready, and a read of each lane
_LEAST_OF_PEAK = 0.9
_PARTS = 10  # of the backlog, alike in answers: the fastest is the peak
_LOOK_SECONDS = 0.25


async def piled_up(scene: Scene) -> str:
    workers = await scene.workers.until_ready(scene.workers.count)
    for worker in workers:
        worker.freeze()
    scene.load.max_backlog, scene.load.most_unanswered = None, scene.total + _BURST
    await scene.load.send(abstracts(scene.total, scene.random), "bulk")
    async with _Drain(scene) as drain:
        for worker in workers:
            worker.thaw()
        await scene.until(drain.is_half_done)
        await scene.load.send(abstracts(_BURST, scene.random, kind="urgent"))
        await scene.all_answered()
    scene.expect_no_exits()
    waited, held = scene.watch.slowest_seconds["urgent"], drain.most_held / scene.workers.count
    scene.limit(waited, _LONGEST_WAIT_SECONDS, "seconds that an urgent abstract waited")
    scene.limit(held, _MOST_HELD, "entries that a worker held")
    rate, peak, cpu = drain.rates()
    scene.limit(peak / rate, 1 / _LEAST_OF_PEAK, "rate of the fastest tenth to that of all")
    said = f"{rate:,.0f} answers/s, {rate / peak:.0%} of the rate of the fastest tenth"
    burst = f"{_BURST} urgent ones in the middle of it were answered within {waited:.2f} s"
    return f"{said} ({cpu}); {burst}; a worker held at most {held:.0f} entries"


@dataclass(frozen=True)
class _Moment:
    """The progress of a backlog, and its cost so far: CPU seconds of the workers, of Redis, and of this program."""

    seconds: float
    answered: int
    workers: float
    redis: float
    subscriber: float


class _Drain:
    """Watches a backlog drain, while the block lasts."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._workers = scene.workers.ready()
        self._moments: list[_Moment] = []
        self.most_held = 0

    async def __aenter__(self) -> "_Drain":
        await self._look()
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        await end([self._watching])
        await self._look()

    def is_half_done(self) -> bool:
        return self._moments[-1].answered >= self._scene.total // 2

    def rates(self) -> tuple[float, float, str]:
        """Answers a second, of the whole and of the fastest of its parts, and in words the CPU of an answer in both.

        All share the cores. Where an answer took all of them more, the machine was slower; where it took the subscriber
        less, that had fallen behind, and left more to the workers.
        """
        marks = np.linspace(0, self._scene.total, _PARTS + 1)
        table = np.array([astuple(moment) for moment in self._moments])
        parts = np.diff([np.interp(marks, table[:, 1], column) for column in table.T])
        seconds, _, *taken = parts * _PARTS / self._scene.total  # of an answer, in each part
        fastest = int(seconds.argmin())
        spent = [
            f"{name} {1e6 * of_part[fastest]:.1f} and {1e6 * of_part.mean():.1f}"
            for name, of_part in zip(("workers", "Redis", "subscriber"), taken, strict=True)
        ]
        cpu = f"µs of CPU for an answer, in that tenth and in all: {', '.join(spent)}"
        return 1 / float(seconds.mean()), 1 / float(seconds.min()), cpu

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        redis, streams = self._scene.server.redis, self._scene.streams
        answered, used = await redis.xlen(streams.predictions), await redis.info("cpu")
        workers = sum(worker.cpu_seconds() for worker in self._workers)
        server = used["used_cpu_user"] + used["used_cpu_sys"]
        self._moments.append(_Moment(time.monotonic(), answered, workers, server, time.process_time()))
        waiting: Any = await redis.xpending(streams.lane("bulk"), GROUP)
        self.most_held = max(self.most_held, waiting["pending"])


ROWS = (
    Row(
        "backlog",
        "{faults} bulk abstracts wait, and a burst of urgent ones comes",
        piled_up,
        share=50,
        faults=1_000_000,
        milliseconds=0,
        redis=("--appendonly", "no"),
    ),
)
