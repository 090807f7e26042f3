"""A Redis that throws keys away when its memory is short throws whole streams away: said at the start, loudly."""

from contextlib import suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

SOUND = "noeviction"

log = structlog.get_logger()


async def warn_of_eviction(redis: Redis) -> None:
    """Log an error where this server may evict; nothing where that is not known, as without the right to INFO."""
    with suppress(ResponseError):
        policy = (await redis.info("memory")).get("maxmemory_policy", SOUND)
        if policy != SOUND:
            log.error(
                "redis_may_evict",
                policy=policy,
                mend="CONFIG SET maxmemory-policy noeviction, or whole streams are removed when memory is short",
            )
