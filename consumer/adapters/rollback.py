"""The announcement that takes an adapter out of service by naming an older one again, once for the whole fleet."""

from datetime import datetime, timezone
from typing import Any

from redis.asyncio import Redis

from ...schemas import AdapterUpdated, Streams
from ...schemas.announced import Announced
from ..scripts import script


def rollback(target: Announced, live: Announced, reason: str, source: str) -> AdapterUpdated:
    """The event that puts ``target`` back into service.

    Its id is made of what it rolls back, so that the same rollback by several workers is one event.
    """
    now = datetime.now(timezone.utc)
    return AdapterUpdated(
        id=f"rollback-of-{live.entry_id}",
        source=source,
        subject=target.event.subject,
        # Never before what it rolls back, whatever the clocks say: workers ignore events older than the last one.
        time=max(now, live.event.time or now),
        causationid=live.event.id,
        causationsource=live.event.source,
        data=target.update.model_copy(update={"action": "rollback", "reason": reason}),
    )


async def announce(redis: Redis, streams: Streams, event: AdapterUpdated, seen: str) -> str | None:
    """Put ``event`` into the stream if ``seen`` is its last entry; the new entry's id, or None."""
    entry_id: Any = await script(redis, "roll_back")([streams.output("adapters")], [seen, event.to_json()])
    return entry_id.decode() if entry_id else None
