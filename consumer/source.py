"""New and reclaimed entries as deliveries, and the lease on all that this worker holds."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import ResponseError

from ..schemas import Lane, Streams
from ..schemas.streams import GROUP, LANES
from .config import WorkerConfig
from .metrics import Metrics
from .patience import until_available
from .scripts import script
from .stages import Delivery

# Below the client's socket timeout of 5 s, which does not know of blocking; and the longest that a stop waits.
BLOCK_MILLISECONDS = 1_000
LONG_IDLE_MILLISECONDS = 3_600_000  # past every sensible lease: what is handed back may be taken at once
FIRST_READ = 8  # entries; then up to twice as many in each read, as their size and the engine's speed allow
READ_BYTES = 2 << 20  # aimed at in one read, if the next entries are as large as the last; exact where taking over
USUAL_READ = 64  # entries at most, but where there is room for more within ``QUICK_SECONDS``
QUICK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 1  # between two looks for what others let go, and at suspects without a look at the lanes
MANY = 1 << 53  # deliveries: the largest whole number of a script

T = TypeVar("T")
Entry = tuple[bytes, dict[bytes, bytes] | None, int, tuple[str, ...]]
"""Its id, its fields, which delivery this is, and the workers it was with."""

log = structlog.get_logger()


@dataclass(frozen=True)
class _LetGo:
    """An entry whose lease ran out, after so many deliveries."""

    lane: Lane
    deliveries: int

    @property
    def is_suspect(self) -> bool:
        return self.deliveries > 1

    def with_it(self, read_count: int) -> tuple[int, int, int]:
        """How many are taken at once, of those that were delivered at least and at most so often."""
        if not self.is_suspect:
            return read_count, 0, 1
        return (4, 2, 2) if self.deliveries == 2 else (1, 3, MANY)


class Source:
    """Reads as a member of the group. Owns what is held: nobody else knows which entries have a lease to renew."""

    def __init__(self, redis: Redis, streams: Streams, config: WorkerConfig, metrics: Metrics) -> None:
        self._redis = redis
        self._streams = streams
        self._config = config
        self._alone = (config.name,)
        self._metrics = metrics
        self._held: dict[Lane, set[str]] = {lane: set() for lane in LANES}
        self._count = dict.fromkeys(LANES, min(FIRST_READ, config.read_count))
        self._reading = {lane: asyncio.Lock() for lane in LANES}
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()
        self._reclaim_script = script(redis, "reclaim")
        self._extend_script = script(redis, "extend")
        self._release_script = script(redis, "release")

    async def new(self, lane: Lane) -> AsyncIterator[list[Delivery]]:
        """What nobody has read yet, until ``stop`` or, with ``burst``, until there is nothing more."""
        while not self._stopping.is_set():
            async with self._reading[lane]:
                deliveries = await self._healing(lambda: self._read(lane))
                self._metrics.health.beat(lane)
            if deliveries:
                handed_over = time.monotonic()
                yield deliveries
                if time.monotonic() - handed_over > QUICK_SECONDS:
                    self._count[lane] = min(self._count[lane], USUAL_READ)  # the rest is for others
            elif self._config.burst:
                return

    async def let_go(self) -> AsyncIterator[list[Delivery]]:
        """What other workers let go, until ``stop`` or, with ``burst``, until there is nothing more.

        The oldest has its turn first, so that none waits for ever behind what others let go later. An entry may have
        killed the worker that held it, and whatever that worker held besides is suspected too. So those that were let
        go twice are taken by four, from the third time on one by one, and while one is in hand nothing else is: no
        neighbour is lost with it more often than three times.
        """
        while not self._stopping.is_set():
            self._metrics.health.beat("take-over")
            oldest = await self._oldest_let_go()
            if oldest and oldest.is_suspect:
                async with self._empty_handed():
                    until = time.monotonic() + LONGEST_LOOK_SECONDS  # then new entries have their turn
                    while not self._stopping.is_set() and time.monotonic() < until:
                        oldest = await self._oldest_let_go()
                        if not (oldest and oldest.is_suspect):
                            break
                        if deliveries := await self._reclaim(oldest):
                            yield deliveries
                            await self._all_settled()
            elif oldest:
                if deliveries := await self._reclaim(oldest):
                    yield deliveries
            elif self._config.burst:
                return
            else:
                with suppress(asyncio.TimeoutError):
                    look_seconds = min(self._config.lease_seconds / 4, LONGEST_LOOK_SECONDS)
                    await asyncio.wait_for(self._stopping.wait(), look_seconds)

    def stop(self) -> None:
        """Read no more. What is held stays held until it is settled or released."""
        self._stopping.set()
        self._settled.set()

    def holds(self, delivery: Delivery) -> bool:
        """Whether the lease is still this worker's, as far as it knows."""
        return delivery.entry_id in self._held[delivery.lane]

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        """These were committed: their lease ends."""
        for delivery in deliveries:
            self._held[delivery.lane].discard(delivery.entry_id)
        self._settled.set()

    async def renew_leases(self) -> None:
        """Renew all leases, three times within each, until cancelled."""
        while True:
            await asyncio.sleep(self._config.lease_seconds / 3)
            await self._healing(self._extend)

    async def release(self, suspects: Iterable[Delivery] = ()) -> int:
        """Hand back all that is held, so that others need not wait for the lease; how many that was.

        Args:
            suspects: of these the delivery counts, since they may be at fault.
        """
        released = 0
        suspected = {(delivery.lane, delivery.entry_id) for delivery in suspects}
        for lane, held in self._held.items():
            at_fault = {entry_id for entry_id in held if (lane, entry_id) in suspected}
            for forget, ids in ((0, at_fault), (1, held - at_fault)):
                if ids:
                    released += await self._call(self._release_script, lane, LONG_IDLE_MILLISECONDS, forget, *ids)
            held.clear()
        return released

    async def create_groups(self) -> None:
        """Create both streams and the group from their beginning; nothing happens where they exist."""
        for lane in LANES:
            try:
                await self._redis.xgroup_create(self._streams.lane(lane), GROUP, id="0", mkstream=True)
            except ResponseError as error:
                # A full server makes no group, not even one that is there.
                if not str(error).startswith("BUSYGROUP") and not await self._has_group(lane):
                    raise

    async def _has_group(self, lane: Lane) -> bool:
        try:
            groups: Any = await self._redis.xinfo_groups(self._streams.lane(lane))
        except ResponseError:
            return False
        return any(group["name"] == GROUP.encode() for group in groups)

    async def _read(self, lane: Lane) -> list[Delivery]:
        """New entries; waits where there are none. Redis knows no limit in bytes, so the number follows the size."""
        # redis-py's own types are the unions of all protocols' keys and replies.
        keys: dict[Any, Any] = {self._streams.lane(lane): ">"}
        block = None if self._config.burst else BLOCK_MILLISECONDS
        replies: Any = await self._redis.xreadgroup(
            GROUP, self._config.name, keys, count=self._count[lane], block=block
        )
        entries = [(*entry, 1, self._alone) for _, entries in (replies or []) for entry in entries]
        deliveries = self._hold(lane, entries)
        if deliveries:
            largest = max([delivery.size_bytes for delivery in deliveries])
            at_once = min(2 * self._count[lane], self._config.read_count, READ_BYTES // (largest + 1))
            self._count[lane] = max(1, at_once)
        return deliveries

    async def _oldest_let_go(self) -> "_LetGo | None":
        """The oldest entry whose lease ran out; of the bulk lane only where the other has none."""
        lease = int(self._config.lease_seconds * 1000)
        for lane in LANES:
            look = partial(
                self._redis.xpending_range, self._streams.lane(lane), GROUP, min="-", max="+", count=1, idle=lease
            )
            found: list[dict[str, Any]] = await self._healing(look)
            if found:
                return _LetGo(lane, found[0]["times_delivered"])
        return None

    async def _reclaim(self, oldest: "_LetGo") -> list[Delivery]:
        """Take it over, with others of its lane that were delivered as often."""
        most = min(USUAL_READ, self._config.read_count)
        return await self._healing(partial(self._reclaim_lane, oldest.lane, *oldest.with_it(most)))

    async def _reclaim_lane(self, lane: Lane, *limits: int) -> list[Delivery]:
        most, *deliveries = limits
        lease = int(self._config.lease_seconds * 1000)
        found = await self._call(self._reclaim_script, lane, lease, most, READ_BYTES, *deliveries)
        return self._hold(
            lane,
            [
                (entry_id, _pairs(fields), before + 1, (owner.decode(), self._config.name))
                for entry_id, before, owner, fields in found
            ],
        )

    @asynccontextmanager
    async def _empty_handed(self) -> AsyncIterator[None]:
        """Nothing is in hand when the block begins, and nothing new is read until it ends."""
        async with self._reading["interactive"], self._reading["bulk"]:
            await self._all_settled()
            yield

    async def _all_settled(self) -> None:
        while any(self._held.values()) and not self._stopping.is_set():
            self._settled.clear()
            await self._settled.wait()

    async def _extend(self) -> list[bytes]:
        """Renew what is held, and let go of what is another's by now; returns that."""
        lost: list[bytes] = []
        for lane, held in self._held.items():
            if held:
                gone = await self._call(self._extend_script, lane, *held)
                held.difference_update(entry_id.decode() for entry_id in gone)
                lost += gone
        self._settled.set()
        return lost

    async def _healing(self, call: Callable[[], Awaitable[list[T]]]) -> list[T]:
        """What ``call`` gives once Redis is there; nothing where the group was gone, which is then made anew."""
        try:
            return await until_available(call, self._metrics)
        except ResponseError as error:
            if "NOGROUP" not in str(error) and not str(error).startswith("UNBLOCKED"):
                raise
        # Redis was emptied, or the stream deleted. From the beginning: identities catch what was answered.
        log.warning("group_recreated")
        await until_available(self.create_groups, self._metrics)
        return []

    async def _call(self, script: AsyncScript, lane: Lane, *arguments: str | int) -> Any:
        return await script([self._streams.lane(lane)], [GROUP, self._config.name, *arguments])

    def _hold(self, lane: Lane, entries: Sequence[Entry]) -> list[Delivery]:
        read_ms = time.time() * 1000
        deliveries = [
            Delivery(lane, entry_id.decode(), fields, attempt, consumers, read_ms, _size(fields))
            for entry_id, fields, attempt, consumers in entries
        ]
        self._held[lane].update([delivery.entry_id for delivery in deliveries])
        again = sum([delivery.attempt > 1 for delivery in deliveries])
        self._metrics.received(lane, len(deliveries) - again, again)
        return deliveries


def _pairs(flat: list[bytes] | None) -> dict[bytes, bytes] | None:
    """Field, value, field, value … as a script returns them."""
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else None


def _size(fields: dict[bytes, bytes] | None) -> int:
    return sum(map(len, fields.values())) if fields else 0
