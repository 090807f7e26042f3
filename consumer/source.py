"""New and reclaimed entries as deliveries, from every shard that this worker serves, and the lease on all it holds."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import structlog
from redis.exceptions import ResponseError

from ..schemas.streams import LANES
from .config import WorkerConfig
from .inlet import Inlet, LetGo
from .metrics import Metrics
from .patience import until_available
from .stages import Delivery
from .tasks import end

# Below the client's socket timeout of 5 s, which does not know of blocking; and the longest that a stop waits.
BLOCK_SECONDS = 1.0
FIRST_READ = 8  # entries; then up to twice as many in each read, as their size and the engine's speed allow
READ_BYTES = 2 << 20  # aimed at in one read, if the next entries are as large as the last; exact where taking over
USUAL_READ = 64  # entries at most, but where there is room for more within ``QUICK_SECONDS``
QUICK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 1  # between two looks for what others let go, and at suspects without a look at the lanes
IDLE_SECONDS = 0.5  # between two looks whether a shard is this worker's by now
MANY = 1 << 53  # deliveries: the largest whole number of a script

T = TypeVar("T")

log = structlog.get_logger()


class Source:
    """Reads as a member of the group, from the shards it is to serve; at first from all.

    An entry that brings the worker down takes along what it holds of every shard. So one source has them all.
    """

    def __init__(self, inlets: Sequence[Inlet], config: WorkerConfig, metrics: Metrics) -> None:
        """
        Args:
            inlets: of every shard both lanes.
            config: of this worker.
            metrics: of this worker.
        """
        self.inlets = tuple(inlets)
        self._by_stream = {inlet.stream: inlet for inlet in inlets}
        self._config = config
        self._metrics = metrics
        self._served = frozenset(inlet.shard for inlet in inlets)
        self._count = {inlet: min(FIRST_READ, config.read_count) for inlet in inlets}
        self._looks: dict[Inlet, asyncio.Task[list[LetGo]]] = {}
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()

    def serve(self, shards: Collection[int]) -> None:
        """Read from these shards and from no other. What is held of others stays held until it is settled."""
        self._served = frozenset(shards)

    async def new(self, inlet: Inlet) -> AsyncIterator[list[Delivery]]:
        """What nobody has read yet, until ``stop`` or, with ``burst``, until there is nothing more."""
        while not self._stopping.is_set():
            self._metrics.health.beat(inlet.name, {inlet.shard})
            if inlet.shard not in self._served:
                await self._until_stopping(IDLE_SECONDS)
            elif deliveries := await self._read(inlet):
                handed_over = time.monotonic()
                yield deliveries
                if time.monotonic() - handed_over > QUICK_SECONDS:
                    self._count[inlet] = min(self._count[inlet], USUAL_READ)  # the rest is for others
            elif self._config.burst:
                return

    async def let_go(self) -> AsyncIterator[list[Delivery]]:
        """What other workers let go, until ``stop`` or, with ``burst``, until there is nothing more.

        The oldest has its turn first, so that none waits for ever behind what others let go later. An entry may have
        killed the worker that held it, and whatever that worker held besides is suspected too. So those that were let
        go twice are taken by four, from the third time on one by one, and while one is in hand nothing else is: no
        neighbour is lost with it more often than three times.
        """
        try:
            while not self._stopping.is_set():
                self._metrics.health.beat("take-over", ())
                oldest = await self._oldest_let_go()
                if oldest and oldest.is_suspect:
                    self._metrics.health.beat("take-over", {inlet.shard for inlet in self.inlets})
                    async with self._empty_handed() as is_empty:
                        if is_empty:
                            async for deliveries in self._suspects():
                                yield deliveries
                                await self._all_settled()
                    if not is_empty:
                        await self._until_stopping(LONGEST_LOOK_SECONDS)
                elif oldest:
                    self._metrics.health.beat("take-over", {oldest.inlet.shard})
                    if deliveries := await self._reclaim(oldest):
                        yield deliveries
                elif self._config.burst and not self._looks:
                    return
                else:
                    await self._until_stopping(min(self._config.lease_seconds / 4, LONGEST_LOOK_SECONDS))
        finally:
            await end(self._looks.values())

    def stop(self) -> None:
        """Read no more. What is held stays held until it is settled or released."""
        self._stopping.set()
        self._settled.set()

    def holds(self, delivery: Delivery) -> bool:
        """Whether the lease is still this worker's, as far as it knows."""
        return delivery.entry_id in self._by_stream[delivery.stream].held

    @property
    def waits_in_vain(self) -> bool:
        """Whether the Redis of all that is held is away, or another where nothing is."""
        away = self._metrics.health.away()
        return bool(away) and all(inlet.shard in away for inlet in self.inlets if inlet.held)

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        """These were committed: their lease ends."""
        for delivery in deliveries:
            self._by_stream[delivery.stream].held.discard(delivery.entry_id)
        self._settled.set()

    async def renew_leases(self) -> None:
        """Renew all leases, three times within each, until cancelled; one shard does not wait for another."""
        renewing = [asyncio.create_task(self._renew(inlet)) for inlet in self.inlets]
        try:
            await asyncio.gather(*renewing)
        finally:
            await end(renewing)

    async def release(self, suspects: Iterable[Delivery] = ()) -> int:
        """Hand back all that is held, so that others need not wait for the lease; how many that was.

        Args:
            suspects: of these the delivery counts, since they may be at fault.
        """
        suspected = {(delivery.stream, delivery.entry_id) for delivery in suspects}
        releasing = [
            inlet.release({entry_id for stream, entry_id in suspected if stream == inlet.stream})
            for inlet in self.inlets
        ]
        # All are waited for: one whose Redis is away keeps no other from it.
        released = await asyncio.gather(*releasing, return_exceptions=True)
        for error in [one for one in released if isinstance(one, BaseException)]:
            raise error
        return sum(one for one in released if isinstance(one, int))

    async def create_groups(self) -> None:
        """Create every stream, and the group from its beginning; nothing happens where they exist."""
        for inlet in self.inlets:
            await inlet.create_group()

    async def _read(self, inlet: Inlet) -> list[Delivery]:
        """New entries; waits where there are none. Redis knows no limit in bytes, so the number follows the size."""
        most = max(1, self._config.read_count // max(1, len(self._served)))  # of all shards together, as of one
        block = None if self._config.burst else round(1000 * BLOCK_SECONDS)
        count = min(self._count[inlet], most)
        deliveries = await self._healing(inlet, partial(inlet.read, count, block))
        if deliveries:
            self._metrics.received(inlet.lane, len(deliveries), 0)
            largest = max([delivery.size_bytes for delivery in deliveries])
            self._count[inlet] = max(1, min(2 * count, most, READ_BYTES // (largest + 1)))
        return deliveries

    async def _suspects(self) -> AsyncIterator[list[Delivery]]:
        """As long as the oldest is one, and for a while: then new entries have their turn."""
        until = time.monotonic() + LONGEST_LOOK_SECONDS
        while not self._stopping.is_set() and time.monotonic() < until:
            oldest = await self._oldest_let_go()
            if not (oldest and oldest.is_suspect):
                return
            if deliveries := await self._reclaim(oldest):
                yield deliveries

    async def _oldest_let_go(self) -> LetGo | None:
        """The oldest entry whose lease ran out, of any shard; of the bulk lanes only where the others have none."""
        for lane in LANES:
            served = [inlet for inlet in self.inlets if inlet.lane == lane and inlet.shard in self._served]
            if found := await self._look(served):
                return min(found, key=LetGo.age)
        return None

    async def _look(self, inlets: Sequence[Inlet]) -> list[LetGo]:
        """The oldest of each. Of a shard whose Redis is away it is told in a later look: nobody waits for it here."""
        for inlet in inlets:
            if inlet not in self._looks:
                asked = self._healing(inlet, partial(inlet.oldest_let_go, self._lease_milliseconds))
                self._looks[inlet] = asyncio.create_task(asked)
        looks = [self._looks[inlet] for inlet in inlets]
        await asyncio.wait(looks, timeout=LONGEST_LOOK_SECONDS)
        answered = [self._looks.pop(inlet) for inlet in inlets if self._looks[inlet].done()]
        return [let_go for look in answered for let_go in look.result()]

    async def _reclaim(self, oldest: LetGo) -> list[Delivery]:
        """Take it over, with others of its lane that were delivered as often."""
        inlet = oldest.inlet
        limits = _with_it(oldest, min(USUAL_READ, self._config.read_count))
        taken = await self._healing(inlet, partial(inlet.reclaim, self._lease_milliseconds, *limits))
        self._metrics.received(inlet.lane, 0, len(taken))
        return taken

    @property
    def _lease_milliseconds(self) -> int:
        return int(self._config.lease_seconds * 1000)

    @asynccontextmanager
    async def _empty_handed(self) -> AsyncIterator[bool]:
        """Nothing new is read while the block lasts; whether nothing is in hand when it begins.

        What is in hand of a shard whose Redis is away is not waited for: the other shards have to go on.
        """
        async with AsyncExitStack() as stack:
            for inlet in self.inlets:
                await stack.enter_async_context(inlet.reading)
            while self._holds_any and not self._stopping.is_set() and not self.waits_in_vain:
                await self._until_settled(LONGEST_LOOK_SECONDS)
            yield not self._holds_any

    async def _all_settled(self) -> None:
        while self._holds_any and not self._stopping.is_set():
            await self._until_settled(None)

    @property
    def _holds_any(self) -> bool:
        return any(inlet.held for inlet in self.inlets)

    async def _renew(self, inlet: Inlet) -> None:
        while True:
            await asyncio.sleep(self._config.lease_seconds / 3)
            await self._healing(inlet, inlet.extend)
            self._settled.set()

    async def _healing(self, inlet: Inlet, call: Callable[[], Awaitable[list[T]]]) -> list[T]:
        """What ``call`` gives once Redis is there, and the group, which is made anew where it is gone."""
        observer = self._metrics.of_shard(inlet.shard)
        while True:
            try:
                return await until_available(call, observer)
            except ResponseError as error:
                if "NOGROUP" not in str(error) and not str(error).startswith("UNBLOCKED"):
                    raise
            # Redis was emptied, or the stream deleted. From the beginning: identities catch what was answered.
            # What became of one lane became of the other, though its reader, which is blocked, may not know it yet.
            log.warning("group_recreated", stream=inlet.stream)
            for one in self.inlets:
                if one.shard == inlet.shard:
                    await until_available(one.create_group, observer)

    async def _until_stopping(self, seconds: float) -> None:
        """Wait for so long at most."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _until_settled(self, seconds: float | None) -> None:
        """Wait until something is settled, for so long at most."""
        self._settled.clear()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._settled.wait(), seconds)


def _with_it(oldest: LetGo, read_count: int) -> tuple[int, int, int, int]:
    """How many are taken at once, of how many bytes, of those that were delivered at least and at most so often."""
    if not oldest.is_suspect:
        return read_count, READ_BYTES, 0, 1
    return (4, READ_BYTES, 2, 2) if oldest.deliveries == 2 else (1, READ_BYTES, 3, MANY)
