"""Jobs that are ready for the engine, by lane. A batch is formed only when the engine is free.

So an interactive abstract waits for the batch at work and for no other, however much bulk work is queued.
"""

import asyncio
from collections.abc import Callable, Sequence

from ..schemas import Lane
from ..schemas.streams import LANES
from .batching import next_batch, taking_turns
from .stages import Batch, Job


class Ready:
    """Owns the jobs that were tokenized and not yet computed: about one batch of each lane; the rest waits in Redis."""

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._jobs: dict[Lane, list[Job]] = {lane: [] for lane in LANES}
        self._changed = asyncio.Event()
        self._engine_waits = False
        self._at_work = False
        self._closed = False
        self._left = False

    async def put(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Add jobs, and return as soon as there is room for more of this lane."""
        self._jobs[lane] = taking_turns([*self._jobs[lane], *jobs])
        self._changed.set()
        await self._until(lambda: self._left or self._has_room(lane))

    async def next(self) -> Batch | None:
        """The next batch, interactive first; None if closed and empty, or after ``leave``."""
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
        """Return when the engine is waiting for jobs and none is ready."""
        await self._until(lambda: self._engine_waits and not any(self._jobs.values()))

    def busy(self) -> bool:
        """Whether a batch is being computed or will be at once. May be called from any thread."""
        return self._at_work or any(self._jobs.values())

    def stands(self, lane: Lane) -> int:
        """How many jobs of a lane are ready."""
        return len(self._jobs[lane])

    def close(self) -> None:
        """No more jobs will be added."""
        self._closed = True
        self._changed.set()

    def leave(self) -> None:
        """Give out no further batch: the jobs here are to be handed back."""
        self._left = True
        self.close()

    def _has_room(self, lane: Lane) -> bool:
        """Bulk work may use the room that interactive work leaves free, but not the other way round."""
        lanes: Sequence[Lane] = LANES if lane == "bulk" else (lane,)
        waiting = sum(len(job.tokens.ids) for one in lanes for job in self._jobs[one])
        return waiting < self._max_batch_tokens

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
