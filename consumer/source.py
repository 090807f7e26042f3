"""New and reclaimed entries as deliveries, from every shard that this worker serves, and the leases on them."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import structlog
from redis.exceptions import ResponseError

from ..schemas.streams import LANES
from .config import WorkerConfig
from .inlet import Expired, Inlet
from .metrics import Metrics
from .retrying import until_available
from .stages import Delivery
from .tasks import end

# Below the client's socket timeout of 5 s, which applies to blocking reads too; also the longest wait of a stop.
BLOCK_SECONDS = 1.0
FIRST_READ = 8  # entries; each later read may be twice as large, as their size and the engine's speed allow
READ_BYTES = 2 << 20  # target of one read, assuming that the next entries are as large as the last; exact in take-over
USUAL_READ = 64  # entries at most, unless there is room for more within ``QUICK_SECONDS``
QUICK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 1  # between two looks for expired leases, and for suspects before the lanes have their turn
IDLE_SECONDS = 0.5  # between two checks whether this worker serves a shard by now
MANY = 1 << 53  # deliveries: the largest integer of a Lua script

T = TypeVar("T")

log = structlog.get_logger()


class Source:
    """Reads as a member of the group, from the shards that it is told to serve; initially from all.

    An entry that kills the worker affects what the worker holds of every shard. So one source manages all shards.
    """

    def __init__(self, inlets: Sequence[Inlet], config: WorkerConfig, metrics: Metrics) -> None:
        """
        Args:
            inlets: both lanes of every shard.
            config: of this worker.
            metrics: of this worker.
        """
        self.inlets = tuple(inlets)
        self._by_stream = {inlet.stream: inlet for inlet in inlets}
        self._config = config
        self._metrics = metrics
        self._served = frozenset(inlet.shard for inlet in inlets)
        self._count = {inlet: min(FIRST_READ, config.read_count) for inlet in inlets}
        self._looks: dict[Inlet, asyncio.Task[list[Expired]]] = {}
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()

    def serve(self, shards: Collection[int]) -> None:
        """Read from these shards only. Entries held of other shards stay held until they are settled."""
        self._served = frozenset(shards)

    async def new(self, inlet: Inlet) -> AsyncGenerator[list[Delivery], None]:
        """Yield new entries until ``stop`` or, with ``burst``, until there are none.

        Where the engine is quick and the entries are small, the next are read while the last are admitted.
        """
        ahead: asyncio.Task[list[Delivery]] | None = None
        try:
            while ahead or not self._stopping.is_set():
                self._metrics.health.beat(inlet.name, {inlet.shard})
                if not ahead and inlet.shard not in self._served:
                    await self._until_stopping(IDLE_SECONDS)
                    continue
                deliveries = await (ahead or self._read(inlet))
                ahead = None
                if deliveries:
                    if self._count[inlet] > USUAL_READ and inlet.shard in self._served and not self._stopping.is_set():
                        ahead = asyncio.create_task(self._read(inlet))
                    handed_over = time.monotonic()
                    yield deliveries
                    if time.monotonic() - handed_over > QUICK_SECONDS:
                        self._count[inlet] = min(self._count[inlet], USUAL_READ)  # the rest is for other workers
                elif self._config.burst:
                    return
        finally:
            await end([ahead] if ahead else [])

    async def expired(self) -> AsyncGenerator[list[Delivery], None]:
        """Yield entries whose lease expired, until ``stop`` or, with ``burst``, until there are none.

        The oldest comes first, so that none waits for ever behind later ones. An entry may have killed the worker that
        held it, which makes everything that this worker held a suspect. So entries that were delivered twice are taken
        in fours, those that were delivered more often one by one, and nothing else is held meanwhile. An innocent entry
        is thus lost with a guilty one three times at most.
        """
        try:
            while not self._stopping.is_set():
                self._metrics.health.beat("take-over", ())
                oldest = await self._oldest_expired()
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
        """Stop reading. Entries that are held stay held until they are settled or released."""
        self._stopping.set()
        self._settled.set()

    def holds(self, delivery: Delivery) -> bool:
        """Whether this worker still has the lease, as far as it knows."""
        return delivery.entry_id in self._by_stream[delivery.stream].held

    @property
    def waits_in_vain(self) -> bool:
        """Whether a Redis is away, and no entry is held of a shard whose Redis is there."""
        away = self._metrics.health.away()
        return bool(away) and all(inlet.shard in away for inlet in self.inlets if inlet.held)

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        """End the lease of these entries, which were committed."""
        for delivery in deliveries:
            self._by_stream[delivery.stream].held.discard(delivery.entry_id)
        self._settled.set()

    async def renew_leases(self) -> None:
        """Renew all leases three times within each period, until cancelled; shards do not wait for each other."""
        renewing = [asyncio.create_task(self._renew(inlet)) for inlet in self.inlets]
        try:
            await asyncio.gather(*renewing)
        finally:
            await end(renewing)

    async def release(self, suspects: Iterable[Delivery] = ()) -> int:
        """Hand back everything held, so that others need not wait for the lease; return how many entries.

        Args:
            suspects: may be at fault, so that their delivery counts.
        """
        suspected = {(delivery.stream, delivery.entry_id) for delivery in suspects}
        releasing = [
            inlet.release({entry_id for stream, entry_id in suspected if stream == inlet.stream})
            for inlet in self.inlets
        ]
        # Wait for all of them: a shard whose Redis is away must not keep the others from it.
        released = await asyncio.gather(*releasing, return_exceptions=True)
        for error in [one for one in released if isinstance(one, BaseException)]:
            raise error
        return sum(one for one in released if isinstance(one, int))

    async def create_groups(self) -> None:
        """Create every stream and its group, which starts at the beginning; existing ones stay as they are."""
        for inlet in self.inlets:
            await inlet.create_group()

    async def _read(self, inlet: Inlet) -> list[Delivery]:
        """Wait for new entries. Redis has no limit in bytes, so the number of entries follows their size."""
        most = max(1, self._config.read_count // max(1, len(self._served)))  # the limit is for all shards together
        block = None if self._config.burst else round(1000 * BLOCK_SECONDS)
        count = min(self._count[inlet], most)
        deliveries = await self._healing(inlet, partial(inlet.read, count, block))
        if deliveries:
            self._metrics.received(inlet.lane, len(deliveries), 0)
            largest = max([delivery.size_bytes for delivery in deliveries])
            self._count[inlet] = max(1, min(2 * count, most, READ_BYTES // (largest + 1)))
        return deliveries

    async def _suspects(self) -> AsyncIterator[list[Delivery]]:
        """Yield suspects as long as the oldest expired entry is one, for a while: then new entries have their turn."""
        until = time.monotonic() + LONGEST_LOOK_SECONDS
        while not self._stopping.is_set() and time.monotonic() < until:
            oldest = await self._oldest_expired()
            if not (oldest and oldest.is_suspect):
                return
            if deliveries := await self._reclaim(oldest):
                yield deliveries

    async def _oldest_expired(self) -> Expired | None:
        """The oldest entry whose lease expired, of any shard; of the bulk lanes only if the others have none."""
        for lane in LANES:
            served = [inlet for inlet in self.inlets if inlet.lane == lane and inlet.shard in self._served]
            if found := await self._look(served):
                return min(found, key=Expired.age)
        return None

    async def _look(self, inlets: Sequence[Inlet]) -> list[Expired]:
        """The oldest of each inlet. A shard whose Redis is away is not waited for; a later look gets its answer."""
        for inlet in inlets:
            if inlet not in self._looks:
                asked = self._healing(inlet, partial(inlet.oldest_expired, self._lease_milliseconds))
                self._looks[inlet] = asyncio.create_task(asked)
        looks = [self._looks[inlet] for inlet in inlets]
        await asyncio.wait(looks, timeout=LONGEST_LOOK_SECONDS)
        answered = [self._looks.pop(inlet) for inlet in inlets if self._looks[inlet].done()]
        return [expired for look in answered for expired in look.result()]

    async def _reclaim(self, oldest: Expired) -> list[Delivery]:
        """Take it over, together with others of its lane that were delivered as often."""
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
        """Read nothing new within the block; yields whether nothing is in hand when it begins.

        Entries in hand of a shard whose Redis is away are not waited for, because the other shards must go on.
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
        """The result of ``call``, as soon as Redis is there; a group that is gone is created anew."""
        observer = self._metrics.of_shard(inlet.shard)
        while True:
            try:
                return await until_available(call, observer)
            except ResponseError as error:
                if "NOGROUP" not in str(error) and not str(error).startswith("UNBLOCKED"):
                    raise
            # Redis was emptied, or the stream deleted. The group starts at the beginning: identities tell what was
            # answered. The other lane is likely gone too, though its reader may be blocked and not know it yet.
            log.warning("group_recreated", stream=inlet.stream)
            for one in self.inlets:
                if one.shard == inlet.shard:
                    await until_available(one.create_group, observer)

    async def _until_stopping(self, seconds: float) -> None:
        """Wait until ``stop``, for ``seconds`` at most."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _until_settled(self, seconds: float | None) -> None:
        """Wait until something is settled, for ``seconds`` at most."""
        self._settled.clear()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._settled.wait(), seconds)


def _with_it(oldest: Expired, read_count: int) -> tuple[int, int, int, int]:
    """The limits of ``Inlet.reclaim``: most entries, most bytes, fewest and most deliveries."""
    if not oldest.is_suspect:
        return read_count, READ_BYTES, 0, 1
    return (4, READ_BYTES, 2, 2) if oldest.deliveries == 2 else (1, READ_BYTES, 3, MANY)
