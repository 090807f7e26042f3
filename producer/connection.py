"""How every part of abstream connects to Redis."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

AWAY = (RedisConnectionError, RedisTimeoutError)
DEFAULT_URL = "redis://localhost:6379/0"


def connect(url: str = DEFAULT_URL) -> Redis:
    """A client that gives bytes and never repeats a command by itself.

    redis-py repeats every command ten times by default, and a repeated XADD is a second abstract.
    """
    # 5 s is above the longest blocking read of 1 s, and soon enough to notice a half-open connection.
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=5, socket_connect_timeout=5, protocol=2)
