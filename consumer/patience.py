"""Waiting for a Redis that is away: every call that may be repeated blindly goes through here.

The client's own retry is switched off (``producer.connection``), so that nothing else is ever repeated.
"""

import random
import re
from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import structlog
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

T = TypeVar("T")

# Down, restarting, cut off: the server did not answer.
AWAY = (RedisConnectionError, RedisTimeoutError)

# A refusal that passes without the entry being at fault: loading, failing over, full, or a key for a person to mend.
# redis-py has classes for some of these and strips their codes; from inside a script, Redis 6.2 sends them mid-message.
_PASSING = re.compile(
    r"(?:^|-)(?:READONLY|NOREPLICAS|MISCONF|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|LOADING|OOM|BUSY|WRONGTYPE) "
)
_PASSING_CLASSES = (ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError, OutOfMemoryError)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0

log = structlog.get_logger()


class Observer(Protocol):
    """Who wants to know how Redis is."""

    def redis_away(self, error: Exception) -> None:
        """A call failed, and will be repeated."""

    def redis_back(self) -> None:
        """A call that had failed was answered."""


def passes(error: RedisError) -> bool:
    """Whether to wait is enough: for Redis to be back, or for a person to mend what is wrong there."""
    return isinstance(error, (*AWAY, *_PASSING_CLASSES)) or bool(_PASSING.search(str(error)))


async def until_available(call: Callable[[], Awaitable[T]], observer: Observer) -> T:
    """The result of ``call``, repeated with growing, jittered pauses while Redis is away.

    Logs once when Redis goes and once when it is back, however long that takes.

    Raises:
        RedisError: an answer that no patience changes.
    """
    pause, attempts = FIRST_PAUSE_SECONDS, 0

    def answered() -> None:
        if attempts:
            observer.redis_back()
            log.info("redis_back", attempts=attempts)

    while True:
        try:
            result = await call()
        except NoScriptError:
            pass  # the scripts were flushed just when this one had been sent anew
        except RedisError as error:
            if not passes(error):
                answered()  # with a no
                raise
            attempts += 1
            observer.redis_away(error)
            if attempts == 1:
                # What the server says is of keys and settings; what a connection says is of addresses.
                says = {"says": str(error)} if isinstance(error, ResponseError) else {}
                log.warning("redis_away", error=type(error).__name__, **says)
            await sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            answered()
            return result
