"""How every part of abstream connects to Redis."""

from types import TracebackType
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..schemas import Streams
from .defaults import DEFAULT_URL

AWAY = (RedisConnectionError, RedisTimeoutError)


def connect(url: str = DEFAULT_URL) -> Redis:
    """A client that gives bytes and never repeats a command by itself.

    redis-py repeats every command ten times by default, and a repeated XADD is a second abstract.
    """
    # 5 s is above the longest blocking read of 1 s, and soon enough to notice a half-open connection.
    redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=5, socket_connect_timeout=5, protocol=2)
    pool = redis.connection_pool
    pool.connection_class = type("Connection", (_PackingInC, pool.connection_class), {})
    return redis


class _PackingInC:
    """Commands are packed by hiredis, as in redis-py's blocking client: a quarter of the time of its asyncio one."""

    def pack_command(self, *args: Any) -> list[bytes]:
        packed: list[bytes] = HiredisRespSerializer().pack(*args)
        return packed


Self = TypeVar("Self", bound="Client")


class Client:
    """A connection to one namespace, closed at the end of its ``async with``."""

    def __init__(self, url: str, namespace: str) -> None:
        self._redis = connect(url)
        self._streams = Streams(namespace)

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._redis.aclose()
