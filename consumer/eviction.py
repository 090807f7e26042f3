"""A warning at the start if Redis may evict keys when its memory is full: it would evict whole streams."""

from contextlib import suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

SOUND = "noeviction"

log = structlog.get_logger()


async def warn_of_eviction(redis: Redis) -> None:
    """Log an error if this server may evict keys; nothing if the user may not ask, with INFO, whether it does."""
    with suppress(ResponseError):
        policy = (await redis.info("memory")).get("maxmemory_policy", SOUND)
        if policy != SOUND:
            log.error(
                "redis_may_evict",
                policy=policy,
                mend="CONFIG SET maxmemory-policy noeviction, or whole streams are removed when memory is short",
            )
