"""How every part of abstream connects to Redis."""

import asyncio
import sys
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import hiredis
import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry as BlockingRetry

from ..schemas import Shards, Streams
from ..schemas.wire import Packed
from .cluster import MARK, AtOwner, AtOwnerBlocking, Directory
from .defaults import DEFAULT_URL

AWAY = (RedisConnectionError, RedisTimeoutError)

LARGE_BYTES = 1 << 20  # of an argument: more than an accepted abstract has


def connect(url: str = DEFAULT_URL, streams: Streams | None = None) -> Redis:
    """A client that returns bytes and never repeats a command by itself.

    By default redis-py repeats every command ten times, and a repeated XADD is a second abstract.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; ``redis+cluster://`` or ``rediss+cluster://`` for a cluster.
        streams: in a cluster, the only keys that the client is for.
    """
    # 5 s is longer than the longest blocking read, 1 s, and short enough to detect a half-open connection.
    plain, in_cluster = _plain(url)
    client = Redis.from_url(plain, retry=Retry(NoBackoff(), 0), socket_timeout=5, socket_connect_timeout=5, protocol=2)
    pool = client.connection_pool
    bases: tuple[type[Any], ...] = (_PackingInC, pool.connection_class)
    members: dict[str, Any] = {}
    if in_cluster:
        bases, members = (AtOwner, *bases), {"directory": _directory(plain, streams)}
    pool.connection_class = type("Connection", bases, members)
    return client


def connect_blocking(url: str, streams: Streams | None = None, *, answer_seconds: float = 5) -> "redis.Redis":
    """The same without an event loop.

    Args:
        url: as for ``connect``.
        streams: as for ``connect``.
        answer_seconds: after which Redis counts as away.
    """
    plain, in_cluster = _plain(url)
    client = redis.Redis.from_url(
        plain,
        protocol=2,
        retry=BlockingRetry(NoBackoff(), 0),
        socket_timeout=answer_seconds,
        socket_connect_timeout=answer_seconds,
    )
    if in_cluster:
        pool = client.connection_pool
        members = {"directory": _directory(plain, streams)}
        pool.connection_class = type("Connection", (AtOwnerBlocking, pool.connection_class), members)
    return client


def _plain(url: str) -> tuple[str, bool]:
    """The URL as redis-py accepts it, and whether it is of a cluster."""
    scheme, separator, rest = url.partition("://")
    return scheme.removesuffix(MARK) + separator + rest, scheme.endswith(MARK)


def _directory(url: str, streams: Streams | None) -> Directory:
    assert streams, "in a cluster a client is for the keys of one shard"
    return Directory(url, streams.predictions)


class _PackingInC:
    """Packs commands with hiredis, as redis-py's blocking client does: a quarter of the time of its asyncio client.

    hiredis copies a command twice. So a command with a large argument is packed by redis-py, which does not copy it.
    """

    _writer: asyncio.StreamWriter  # of redis-py's connection, like the methods that are overridden here

    def pack_command(self, *args: Any) -> list[bytes]:
        if isinstance(args[-1], Packed):
            return self._pack_before(args[:-1], args[-1])
        if max(map(sys.getsizeof, args)) > LARGE_BYTES:
            packed: list[bytes] = super().pack_command(*args)  # type: ignore[misc]
            return packed
        name, *others = args
        return [hiredis.pack_command((*name.split(), *others))]  # a name may have two words

    def _pack_before(self, args: tuple[Any, ...], packed: Packed) -> list[bytes]:
        begun = b"".join(self.pack_command(*args)).partition(b"\r\n")[2]
        parts = [b"*%d\r\n" % (len(args) + packed.number), begun, *packed.parts]
        return parts if max(map(len, parts)) > LARGE_BYTES else [b"".join(parts)]

    async def _send_packed_command(self, command: list[bytes]) -> None:
        """Send a large command piece by piece, because asyncio copies twice what it cannot send at once."""
        if max(map(len, command)) <= LARGE_BYTES:
            await super()._send_packed_command(command)  # type: ignore[misc]
            return
        for part in command:
            view = memoryview(part)
            for begin in range(0, len(view), LARGE_BYTES):
                self._writer.write(view[begin : begin + LARGE_BYTES])
                await self._writer.drain()


class Shard(NamedTuple):
    """The streams of a shard, and a client of the server that holds them."""

    redis: Redis
    streams: Streams


Self = TypeVar("Self", bound="_Closing")


class _Closing(ABC):
    """A base for what is closed at the end of its ``async with``."""

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""


class Connections(_Closing):
    """Clients of all shards of a namespace, which connect on first use.

    Attributes:
        shards: in the order of their numbers.
        control: the shard of the streams that the namespace has once; with one shard, that shard.
    """

    def __init__(self, url: str, names: Shards) -> None:
        self.shards = [Shard(connect(url, streams), streams) for streams in names.all]
        alone = names.count == 1
        self.control = self.shards[0] if alone else Shard(connect(url, names.control), names.control)

    async def aclose(self) -> None:
        """Close all of them."""
        for shard in {self.control, *self.shards}:
            await shard.redis.aclose()


class Client(_Closing):
    """The common base of ``Publisher`` and ``Subscriber``."""

    def __init__(self, url: str, namespace: str, shards: int) -> None:
        self._names = Shards(namespace, shards)
        self._at = Connections(url, self._names)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._at.aclose()
