"""The stream of adapter updates. Every worker reads it without a group, because all workers must see all updates."""

import math
import time
from functools import partial
from typing import Any

import structlog
from redis.asyncio import Redis

from ...schemas import AdapterUpdated, Malformed, Streams
from ...schemas.announced import Announced
from ...schemas.streams import from_fields
from ..metrics import Metrics
from ..retrying import until_available
from ..source import BLOCK_SECONDS

# If the newest adapters cannot be served, this many are considered.
MOST_UPDATES = 16

log = structlog.get_logger()


class Watch:
    """Owns this worker's position in the stream."""

    def __init__(self, redis: Redis, streams: Streams, metrics: Metrics) -> None:
        self._redis = redis
        self._stream = streams.output("adapters")
        self._metrics = metrics
        self._seen = "0-0"

    @property
    def seen(self) -> str:
        """The id of the last entry that was read; "0-0" before the first."""
        return self._seen

    async def unseen(self) -> list[Announced]:
        """The newest announcements since the last call, or of all time at the first call; newest first."""
        return await until_available(self._read, self._metrics)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for unseen announcements, for ``seconds`` at most; whether there are any.

        No read is cancelled for that, because before Python 3.12 redis-py may swallow a cancellation.
        """
        until = math.inf if seconds is None else time.monotonic() + seconds
        while not await until_available(partial(self._block, until), self._metrics):
            if time.monotonic() >= until:
                return False
        return True

    async def _block(self, until: float) -> bool:
        milliseconds = max(1, round(1000 * min(BLOCK_SECONDS, until - time.monotonic())))
        return bool(await self._redis.xread({self._stream: self._seen}, count=1, block=milliseconds))

    async def _read(self) -> list[Announced]:
        # redis-py's own types are the unions of all protocols' replies.
        entries: Any = await self._redis.xrevrange(self._stream, min=f"({self._seen}", count=MOST_UPDATES)
        if entries:
            self._seen = entries[0][0].decode()
        read = [_announced(entry_id.decode(), fields) for entry_id, fields in entries]
        return [announced for announced in read if announced]


def _announced(entry_id: str, fields: dict[bytes, bytes]) -> Announced | None:
    """The announcement in an entry; None if this version cannot read it, since an error would stop every worker."""
    try:
        event = from_fields(fields)
    except Malformed as problem:
        log.warning("adapter_update_skipped", entry_id=entry_id, reason=problem.message)
        return None
    return Announced(entry_id, event) if isinstance(event, AdapterUpdated) else None
