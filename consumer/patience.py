"""Waiting for a Redis that is away: every call that may be repeated blindly goes through here.

The client's own retry is switched off (``producer.connection``), so that nothing else is ever repeated.
"""

import random
from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import structlog
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

T = TypeVar("T")

# Down, restarting, loading (a ConnectionError), failing over, or full: all pass without the entry being at fault.
AWAY = (
    RedisConnectionError, RedisTimeoutError, ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError,
    OutOfMemoryError,
)  # fmt: skip

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0

log = structlog.get_logger()


class Observer(Protocol):
    """Who wants to know how Redis is."""

    def redis_away(self, error: Exception) -> None:
        """A call failed, and will be repeated."""

    def redis_back(self) -> None:
        """A call that had failed was answered."""


async def until_available(call: Callable[[], Awaitable[T]], observer: Observer) -> T:
    """The result of ``call``, repeated with growing, jittered pauses while Redis is away.

    Logs once when Redis goes and once when it is back, however long that takes.
    """
    pause, attempts = FIRST_PAUSE_SECONDS, 0

    def answered() -> None:
        if attempts:
            observer.redis_back()
            log.info("redis_back", attempts=attempts)

    while True:
        try:
            result = await call()
        except AWAY as error:
            attempts += 1
            observer.redis_away(error)
            if attempts == 1:
                log.warning("redis_away", error=type(error).__name__)
            await sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        except ResponseError:
            answered()  # with a no, which is not for patience
            raise
        else:
            answered()
            return result
