"""Retrying while Redis is away: every call that may safely be repeated goes through here.

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

# Errors that pass, or that a person mends, without the entry being at fault: loading, failing over, full, a wrong key.
# redis-py has classes for some and strips their codes; from inside a script, Redis 6.2 sends the code mid-message.
_PASSING = re.compile(
    r"(?:^|-)(?:READONLY|NOREPLICAS|MISCONF|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|LOADING|OOM|BUSY|WRONGTYPE) "
)
_PASSING_CLASSES = (ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError, OutOfMemoryError)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5

log = structlog.get_logger()


class Observer(Protocol):
    """Is told whether Redis answers."""

    def redis_away(self, error: Exception) -> None:
        """A call failed and will be repeated."""

    def redis_back(self) -> None:
        """A call that had failed was answered at last."""


def passes(error: RedisError) -> bool:
    """Whether waiting helps: until Redis is back, or until a person has mended what is wrong there."""
    return isinstance(error, (*AWAY, *_PASSING_CLASSES)) or bool(_PASSING.search(str(error)))


async def until_available(call: Callable[[], Awaitable[T]], observer: Observer) -> T:
    """The result of ``call``, which is repeated with growing, jittered pauses while Redis is away.

    Logs once when Redis is lost and once when it is back.

    Raises:
        RedisError: an error that waiting does not mend.
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
            pass  # the scripts were flushed just after this one had been loaded
        except RedisError as error:
            if not passes(error):
                answered()  # by a refusal
                raise
            attempts += 1
            observer.redis_away(error)
            if attempts == 1:
                # Messages of the server are about keys and settings, those of a connection name addresses.
                says = {"says": str(error)} if isinstance(error, ResponseError) else {}
                log.warning("redis_away", error=type(error).__name__, **says)
            await sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            answered()
            return result
