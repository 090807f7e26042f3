"""New and reclaimed entries as deliveries, and the lease on all that this worker holds."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

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

log = structlog.get_logger()


class Source:
    """Reads as a member of the group. Owns what is held: nobody else knows which entries have a lease to renew."""

    def __init__(self, redis: Redis, streams: Streams, config: WorkerConfig, metrics: Metrics) -> None:
        self._redis = redis
        self._streams = streams
        self._config = config
        self._metrics = metrics
        self._held: dict[Lane, set[str]] = {lane: set() for lane in LANES}
        self._stopping = asyncio.Event()
        self._reclaim_at = 0.0
        self._reclaim_script = script(redis, "reclaim")
        self._extend_script = script(redis, "extend")
        self._release_script = script(redis, "release")

    async def __aiter__(self) -> AsyncIterator[list[Delivery]]:
        """Yield what is at hand, until ``stop`` or, with ``burst``, until there is nothing left to take."""
        while not self._stopping.is_set():
            deliveries = await until_available(self._take, self._metrics.redis_retried)
            if deliveries:
                yield deliveries
            elif self._config.burst:
                return

    def stop(self) -> None:
        """Read no more. What is held stays held until it is settled or released."""
        self._stopping.set()

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        """These were committed: their lease ends."""
        for delivery in deliveries:
            self._held[delivery.lane].discard(delivery.entry_id)

    async def renew_leases(self) -> None:
        """Renew all leases, three times within each, until cancelled."""
        while True:
            await asyncio.sleep(self._config.lease_seconds / 3)
            await until_available(self._extend, self._metrics.redis_retried)

    async def release(self) -> int:
        """Hand back all that is held, so that others need not wait for the lease; how many that was."""
        released = 0
        for lane, ids in self._held.items():
            if ids:
                released += await self._call(self._release_script, lane, LONG_IDLE_MILLISECONDS, *ids)
                ids.clear()
        return released

    async def create_groups(self) -> None:
        """Create both streams and the group from their beginning; nothing happens where they exist."""
        for lane in LANES:
            try:
                await self._redis.xgroup_create(self._streams.lane(lane), GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def _extend(self) -> None:
        for lane, ids in self._held.items():
            if ids:
                await self._call(self._extend_script, lane, *ids)

    async def _call(self, script: AsyncScript, lane: Lane, *arguments: str | int) -> Any:
        return await script([self._streams.lane(lane)], [GROUP, self._config.name, *arguments])

    async def _take(self) -> list[Delivery]:
        try:
            deliveries = await self._reclaim() or await self._read()
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            # Redis was emptied, or the stream deleted. From the beginning: identities catch what was answered.
            log.warning("group_recreated")
            await self.create_groups()
            return []
        for delivery in deliveries:
            self._held[delivery.lane].add(delivery.entry_id)
            self._metrics.received(delivery.lane, delivery.attempt)
        return deliveries

    async def _reclaim(self) -> list[Delivery]:
        """Entries of both lanes whose lease ran out; looked for four times within a lease."""
        now = time.monotonic()
        if now < self._reclaim_at and not self._config.burst:
            return []
        taken: list[Delivery] = []
        for lane in LANES:
            room = self._config.read_count - len(taken)
            found = await self._call(self._reclaim_script, lane, int(self._config.lease_seconds * 1000), room)
            for entry_id, deliveries, owner, fields in found:
                taken.append(self._delivery(lane, entry_id, _pairs(fields), deliveries + 1, owner.decode()))
            if len(taken) >= self._config.read_count:
                break
        # As long as there is something to reclaim, the next look is at once.
        self._reclaim_at = now if taken else now + self._config.lease_seconds / 4
        return taken

    async def _read(self) -> list[Delivery]:
        """New entries: interactive first, bulk with what room is left; waits only where there are none."""
        count = self._config.read_count
        new = await self._read_lanes(["interactive"], count)
        if len(new) < count:
            new += await self._read_lanes(["bulk"], count - len(new))
        if not new and not self._config.burst:
            new = await self._read_lanes(LANES, count, BLOCK_MILLISECONDS)
        return new

    async def _read_lanes(self, lanes: Sequence[Lane], count: int, block: int | None = None) -> list[Delivery]:
        # redis-py's own types are the unions of all protocols' keys and replies.
        keys: dict[Any, Any] = {self._streams.lane(lane): ">" for lane in lanes}
        replies: Any = await self._redis.xreadgroup(GROUP, self._config.name, keys, count=count, block=block)
        by_key = {self._streams.lane(lane).encode(): lane for lane in lanes}
        return [
            self._delivery(by_key[key], entry_id, fields, 1)
            for key, entries in (replies or [])
            for entry_id, fields in entries
        ]

    def _delivery(
        self, lane: Lane, entry_id: bytes, fields: dict[bytes, bytes] | None, attempt: int, *before: str
    ) -> Delivery:
        return Delivery(lane, entry_id.decode(), fields, attempt, (*before, self._config.name))


def _pairs(flat: list[bytes] | None) -> dict[bytes, bytes] | None:
    """Field, value, field, value … as a script returns them."""
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else None
