"""What this worker tells the fleet: that it is running, and what it did with an adapter update."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ...schemas import AdapterActivated, AdapterRejected, AdapterShadowed, AdapterUpdated, Streams
from ...schemas.announced import Announced
from ...schemas.events import AdapterAnswer, ShadowSummary
from ...schemas.streams import GROUP, to_fields
from ..answers import follows
from ..metrics import Metrics
from ..retrying import until_available
from .rollback import announce

KEEP_ANSWERS = 10_000  # approximately; running workers have answered the newest announcement, so theirs are among them
PRESENCE_SECONDS = 5.0  # a third of the silence after which a worker counts as gone (ops/fleet.py)
_AFTER_ALL = "18446744073709551615-0"  # later than every entry; the highest id of all would mean ">"


class Fleet:
    """Publishes this worker's answers to announcements. Stateless."""

    def __init__(self, redis: Redis, streams: Streams, metrics: Metrics) -> None:
        self._redis = redis
        self._streams = streams
        self._stream = streams.output("fleet")
        self._lane = streams.lane("interactive")
        self._metrics = metrics

    async def activated(self, announced: Announced, answer: AdapterAnswer) -> None:
        """The announced adapter is live here."""
        await self._send(AdapterActivated(data=answer, **follows(announced.entry_id, announced.event, answer.worker)))

    async def rejected(self, announced: Announced, answer: AdapterAnswer) -> None:
        """The announced adapter is not served here, for ``answer.reason``."""
        await self._send(AdapterRejected(data=answer, **follows(announced.entry_id, announced.event, answer.worker)))

    async def shadowed(self, announced: Announced, summary: ShadowSummary) -> None:
        """A summary of the announced candidate so far."""
        await self._send(AdapterShadowed(data=summary, **follows(announced.entry_id, announced.event, summary.worker)))

    async def announce(self, event: AdapterUpdated, seen: str) -> bool:
        """Announce a rollback to all workers if ``seen`` is the last announcement; whether it was announced."""
        call = partial(announce, self._redis, self._streams, event, seen)
        return await until_available(call, self._metrics) is not None

    async def be_present(self, worker: str) -> None:
        """Keep ``worker`` known to the consumer group, until cancelled.

        Before Redis 7.2 a read of new entries that finds none leaves no trace; a read of the worker's own entries does.
        """
        keys: dict[Any, Any] = {self._lane: _AFTER_ALL}

        async def touch() -> None:
            with suppress(ResponseError):  # the group is gone, and the next read creates it
                await self._redis.xreadgroup(GROUP, worker, keys, count=1)

        while True:
            await until_available(touch, self._metrics)
            await asyncio.sleep(PRESENCE_SECONDS)

    async def _send(self, event: AdapterActivated | AdapterRejected | AdapterShadowed) -> None:
        # If it is repeated after a lost reply, the stream has the same event twice, with one id.
        fields: dict[Any, Any] = {**to_fields(event)}
        await until_available(lambda: self._redis.xadd(self._stream, fields, maxlen=KEEP_ANSWERS), self._metrics)
