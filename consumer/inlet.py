"""One lane of one shard, as a member of the group: everything that is asked of that stream."""

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

LONG_IDLE_MILLISECONDS = 3_600_000  # past every sensible lease: what is handed back may be taken at once

Entry = tuple[bytes, dict[bytes, bytes] | None, int, tuple[str, ...]]
"""Its id, its fields, which delivery this is, and the workers it was with."""

log = structlog.get_logger()


class LetGo(NamedTuple):
    """The oldest entry whose lease ran out, and after how many deliveries."""

    inlet: "Inlet"
    entry_id: bytes
    deliveries: int

    @property
    def is_suspect(self) -> bool:
        return self.deliveries > 1

    def age(self) -> tuple[int, ...]:
        """The older, the smaller."""
        return tuple(map(int, self.entry_id.split(b"-")))


class Inlet:
    """Owns what this worker holds of the stream: nobody else knows which entries have a lease to renew."""

    def __init__(
        self, redis: Redis, streams: Streams, lane: Lane, worker: str, shard: int = 0, shards: int = 1
    ) -> None:
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
        self.reading = Lock()  # is held while new entries are read
        self._redis = redis
        self._worker = worker
        self._alone = (worker,)
        self._clock = ServerClock()
        self._look_script = script(redis, "look")
        self._redate_script = script(redis, "redate")
        self._reclaim_script = script(redis, "reclaim")
        self._extend_script = script(redis, "extend")
        self._release_script = script(redis, "release")

    async def create_group(self) -> None:
        """Create the stream, and the group from its beginning; nothing happens where they exist."""
        try:
            await self._redis.xgroup_create(self.stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            # A full server makes no group, not even one that is there.
            if not str(error).startswith("BUSYGROUP") and not await self._has_group():
                raise

    async def read(self, count: int, block_milliseconds: int | None) -> list[Delivery]:
        """New entries, at most ``count``; waits where there are none."""
        # redis-py's own types are the unions of all protocols' keys and replies.
        keys: dict[Any, Any] = {self.stream: ">"}
        async with self.reading:
            replies: Any = await self._redis.xreadgroup(
                GROUP, self._worker, keys, count=count, block=block_milliseconds
            )
            return self._hold([(*entry, 1, self._alone) for _, entries in (replies or []) for entry in entries])

    async def oldest_let_go(self, lease_milliseconds: int) -> list[LetGo]:
        """The oldest entry whose lease ran out, if there is one.

        Where the server's clock was set back, every lease begins anew: what a dead worker held would else be kept until
        the clock is again where it was.
        """
        now, *found = await self._look_script([self.stream], [GROUP, lease_milliseconds])
        if (back := self._clock.set_back_by(now)) > lease_milliseconds:
            leases = await self._redate_script([self.stream], [GROUP])
            log.warning("server_clock_set_back", stream=self.stream, seconds=round(back / 1000, 1), leases=leases)
        return [LetGo(self, *found)] if found else []

    async def reclaim(self, lease_milliseconds: int, *limits: int) -> list[Delivery]:
        """Take over entries whose lease ran out, the oldest first.

        Args:
            limits: how many at most, of how many bytes about, delivered how often at least and at most.
        """
        found = await self._call(self._reclaim_script, lease_milliseconds, *limits)
        return self._hold(
            [
                (entry_id, _pairs(fields), before + 1, (owner.decode(), self._worker))
                for entry_id, before, owner, fields in found
            ]
        )

    async def extend(self) -> list[bytes]:
        """Renew the lease on what is held, and let go of what is another's by now; returns that."""
        if not self.held:
            return []
        gone: list[bytes] = await self._call(self._extend_script, *self.held)
        self.held.difference_update(entry_id.decode() for entry_id in gone)
        return gone

    async def release(self, suspects: set[str]) -> int:
        """Hand back all that is held, so that others need not wait for the lease; how many that was.

        Args:
            suspects: entry ids, of which the delivery counts.
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
    """Field, value, field, value … as a script returns them."""
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else None
