"""One lane of one shard, as a member of its consumer group: every command on that stream."""

import time
from asyncio import Lock
from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import ResponseError

from ..schemas import Lane, Streams
from ..schemas.streams import GROUP, size_of
from .clocks import ServerClock
from .scripts import script
from .stages import Delivery

LONG_IDLE_MILLISECONDS = 3_600_000  # longer than any sensible lease: entries handed back may be taken at once

Entry = tuple[bytes, dict[bytes, bytes] | None, int, tuple[str, ...]]
"""An entry's id, its fields, the number of this delivery, and the workers that had it."""

log = structlog.get_logger()


class Expired(NamedTuple):
    """An entry whose lease expired, and how often it was delivered."""

    inlet: "Inlet"
    entry_id: bytes
    deliveries: int

    @property
    def is_suspect(self) -> bool:
        return self.deliveries > 1

    def age(self) -> tuple[int, ...]:
        """The older the entry, the smaller."""
        return tuple(map(int, self.entry_id.split(b"-")))


class Inlet:
    """Owns the set of entries that this worker holds of the stream, whose leases it renews."""

    def __init__(self, redis: Redis, streams: Streams, lane: Lane, worker: str, shard: int, shards: int) -> None:
        """
        Args:
            redis: of the shard.
            streams: of the shard.
            lane: of them.
            worker: its name in the group.
            shard: its number.
            shards: how many there are.
        """
        self.lane: Lane = lane
        self.shard = shard
        self.stream = streams.lane(lane)
        self.name = f"{lane} of shard {shard}" if shards > 1 else lane  # for people
        self.held: set[str] = set()
        self.reading = Lock()  # held while new entries are read
        self._redis = redis
        self._worker = worker
        self._alone = (worker,)
        self._clock = ServerClock()
        self._oldest_expired_script = script(redis, "oldest_expired")
        self._restart_leases_script = script(redis, "restart_leases")
        self._reclaim_script = script(redis, "reclaim")
        self._extend_script = script(redis, "extend")
        self._release_script = script(redis, "release")

    async def create_group(self) -> None:
        """Create the stream and its group, which starts at the beginning; existing ones stay as they are."""
        try:
            await self._redis.xgroup_create(self.stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            # A full server refuses this command, even if the group exists.
            if not str(error).startswith("BUSYGROUP") and not await self._has_group():
                raise

    async def read(self, count: int, block_milliseconds: int | None) -> list[Delivery]:
        """Wait for new entries, and return ``count`` at most."""
        # redis-py's types are the unions over all protocols.
        keys: dict[Any, Any] = {self.stream: ">"}
        async with self.reading:
            replies: Any = await self._redis.xreadgroup(
                GROUP, self._worker, keys, count=count, block=block_milliseconds
            )
            return self._hold([(*entry, 1, self._alone) for _, entries in (replies or []) for entry in entries])

    async def oldest_expired(self, lease_milliseconds: int) -> list[Expired]:
        """The oldest entry whose lease expired, if there is one.

        If the server's clock was set back, all leases restart. Otherwise entries of a dead worker would be kept until
        the clock is again where it was.
        """
        now, *found = await self._oldest_expired_script([self.stream], [GROUP, lease_milliseconds])
        if (back := self._clock.set_back_by(now)) > lease_milliseconds:
            leases = await self._restart_leases_script([self.stream], [GROUP])
            log.warning("server_clock_set_back", stream=self.stream, seconds=round(back / 1000, 1), leases=leases)
        return [Expired(self, *found)] if found else []

    async def reclaim(self, lease_milliseconds: int, *limits: int) -> list[Delivery]:
        """Take over entries whose lease expired, the oldest first.

        Args:
            limits: most entries, about how many bytes at most, fewest and most deliveries.
        """
        found = await self._call(self._reclaim_script, lease_milliseconds, *limits)
        return self._hold(
            [
                (entry_id, _pairs(fields), before + 1, (owner.decode(), self._worker))
                for entry_id, before, owner, fields in found
            ]
        )

    async def extend(self) -> list[bytes]:
        """Renew the leases of entries held, and drop those that another worker has by now; returns the latter."""
        if not self.held:
            return []
        gone: list[bytes] = await self._call(self._extend_script, *self.held)
        self.held.difference_update(entry_id.decode() for entry_id in gone)
        return gone

    async def release(self, suspects: set[str]) -> int:
        """Hand back everything held, so that others need not wait for the lease; return how many entries.

        Args:
            suspects: ids of entries whose delivery counts.
        """
        released = 0
        at_fault = self.held & suspects
        for forget, ids in ((0, at_fault), (1, self.held - at_fault)):
            if ids:
                released += await self._call(self._release_script, LONG_IDLE_MILLISECONDS, forget, *ids)
        self.held.clear()
        return released

    async def _has_group(self) -> bool:
        try:
            groups: Any = await self._redis.xinfo_groups(self.stream)
        except ResponseError:
            return False
        return any(group["name"] == GROUP.encode() for group in groups)

    async def _call(self, script: AsyncScript, *arguments: str | int) -> Any:
        return await script([self.stream], [GROUP, self._worker, *arguments])

    def _hold(self, entries: Sequence[Entry]) -> list[Delivery]:
        read_ms = time.time() * 1000
        deliveries = [
            Delivery(
                self.lane, entry_id.decode(), fields, attempt, consumers, read_ms, size_of(fields or {}), self.stream
            )
            for entry_id, fields, attempt, consumers in entries
        ]
        self.held.update([delivery.entry_id for delivery in deliveries])
        return deliveries


def _pairs(flat: list[bytes] | None) -> dict[bytes, bytes] | None:
    """The fields from a flat list of names and values, as a script returns them."""
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else None
