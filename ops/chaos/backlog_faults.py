"""What a backlog does that takes minutes to work off: it must not slow itself down, nor hold up what is urgent."""

import asyncio
import time
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
    for worker in workers:
        worker.thaw()
    async with _Drain(scene) as drain:
        await scene.until(drain.is_half_done)
        await scene.load.send(abstracts(_BURST, scene.random, kind="urgent"))
        await scene.all_answered()
    scene.expect_no_exits()
    waited, held = scene.watch.slowest_seconds["urgent"], drain.most_held / scene.workers.count
    scene.limit(waited, _LONGEST_WAIT_SECONDS, "seconds that an urgent abstract waited")
    scene.limit(held, _MOST_HELD, "entries that a worker held")
    rate, peak = drain.rates()
    scene.limit(peak / rate, 1 / _LEAST_OF_PEAK, "rate of the fastest tenth to that of all")
    said = f"{rate:,.0f} answers/s, {rate / peak:.0%} of the rate of the fastest tenth"
    burst = f"{_BURST} urgent ones in the middle of it were answered within {waited:.2f} s"
    return f"{said}; {burst}; a worker held at most {held:.0f} entries"


class _Drain:
    """Watches a backlog go, while the block lasts."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._moments: list[float] = []
        self._answered: list[int] = []  # by each moment
        self.most_held = 0

    async def __aenter__(self) -> "_Drain":
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        await end([self._watching])

    def is_half_done(self) -> bool:
        return self._answered[-1:] >= [self._scene.total // 2]

    def rates(self) -> tuple[float, float]:
        """Answers a second: of the whole, and of the fastest of its parts."""
        marks = np.linspace(0, self._scene.total, _PARTS + 1)
        seconds = np.diff(np.interp(marks, self._answered, self._moments))
        return self._scene.total / float(seconds.sum()), self._scene.total / _PARTS / float(seconds.min())

    async def _watch(self) -> None:
        redis, streams = self._scene.server.redis, self._scene.streams
        while True:
            self._answered.append(await redis.xlen(streams.predictions))
            self._moments.append(time.monotonic())
            waiting: Any = await redis.xpending(streams.lane("bulk"), GROUP)
            self.most_held = max(self.most_held, waiting["pending"])
            await asyncio.sleep(_LOOK_SECONDS)


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
