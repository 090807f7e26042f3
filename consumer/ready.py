"""Jobs that stand ready for the engine, by lane. A batch is made when the engine is free, and not before.

So an interactive abstract waits for the batch at work and for no other: bulk work stands back, whatever is queued.
"""

import asyncio
from collections.abc import Callable, Sequence

from ..schemas import Lane
from ..schemas.streams import LANES
from .batching import next_batch, taking_turns
from .stages import Batch, Job


class Ready:
    """Owns what was tokenized and is not yet computed. Holds about one batch a lane: the rest waits in Redis."""

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._jobs: dict[Lane, list[Job]] = {lane: [] for lane in LANES}
        self._changed = asyncio.Event()
        self._engine_waits = False
        self._at_work = False
        self._closed = False
        self._left = False

    async def put(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Add jobs, and return when there is room for more of this lane."""
        self._jobs[lane] = taking_turns([*self._jobs[lane], *jobs])
        self._changed.set()
        await self._until(lambda: self._left or self._has_room(lane))

    async def next(self) -> Batch | None:
        """The next batch, interactive first; None when closed and empty, or left."""
        self._at_work = False
        if not any(self._jobs.values()):
            self._engine_waits = True
            self._changed.set()
        await self._until(lambda: self._closed or any(self._jobs.values()))
        self._engine_waits = False
        if self._left or not any(self._jobs.values()):
            return None
        interactive, bulk = self._jobs["interactive"], self._jobs["bulk"]
        first, others = (interactive, bulk) if interactive else (bulk, [])
        batch = next_batch(first, others, self._max_batch_tokens)
        self._at_work = True
        taken = set(map(id, batch))
        self._jobs = {lane: [job for job in jobs if id(job) not in taken] for lane, jobs in self._jobs.items()}
        self._changed.set()
        return batch

    async def idle(self) -> None:
        """Return when the engine waits for jobs, and none stands here."""
        await self._until(lambda: self._engine_waits and not any(self._jobs.values()))

    def busy(self) -> bool:
        """Whether a batch is at work, or will be at once. Any thread may ask."""
        return self._at_work or any(self._jobs.values())

    def stands(self, lane: Lane) -> int:
        """How many jobs of a lane stand here."""
        return len(self._jobs[lane])

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._changed.set()

    def leave(self) -> None:
        """Give out no more: what stands here is to be handed back."""
        self._left = True
        self.close()

    def _has_room(self, lane: Lane) -> bool:
        """Bulk work may use what interactive work leaves free, not the other way round."""
        lanes: Sequence[Lane] = LANES if lane == "bulk" else (lane,)
        waiting = sum(len(job.tokens.ids) for one in lanes for job in self._jobs[one])
        return waiting < self._max_batch_tokens

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
