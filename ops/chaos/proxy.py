"""A bad network between a client and Redis: replies get lost on the way, or nothing passes for a while."""

import asyncio
from abc import ABC, abstractmethod
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

from ...consumer.tasks import end

_CHUNK_BYTES = 1 << 16


class _Between(ABC):
    """Stands between clients and a server; closing it closes every connection through it."""

    _server: asyncio.Server

    def __init__(self) -> None:
        self._connections: set[asyncio.Task[None]] = set()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await end(self._connections)

    async def _connected(self, client: StreamReader, to_client: StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection
        self._connections.add(connection)
        try:
            await self._serve(client, to_client)
        except (OSError, asyncio.CancelledError):  # asyncio's servers make a noise of one that was cancelled
            return
        finally:
            self._connections.discard(connection)
            to_client.close()

    @abstractmethod
    async def _serve(self, client: StreamReader, to_client: StreamWriter) -> None:
        """Forward both ways until either end closes."""


class Proxy(_Between):
    """Listens on a socket of its own and passes on to that of Redis, both ways, what it is let.

    Attributes:
        dropped: replies that were lost so far.
    """

    def __init__(self, folder: Path, random: Random) -> None:
        super().__init__()
        self._path, self._redis_path = folder / "proxy.sock", folder / "redis.sock"
        self._random = random
        self._drops = 0.0
        self._passing = {"requests": asyncio.Event(), "replies": asyncio.Event()}
        self.url = f"unix://{self._path}"
        self.dropped = 0
        self.heal()

    def lead_to(self, folder: Path) -> None:
        """Connect new clients to another folder's server from now on; open connections stay as they are."""
        self._redis_path = folder / "redis.sock"

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_unix_server(self._connected, str(self._path))
        return self

    def drop_replies(self, share: float) -> None:
        """From now on lose this share of the replies, and the connection with them: Redis has done what was asked."""
        self._drops = share

    def partition(self, *, requests: bool, replies: bool) -> None:
        """Let nothing pass, one way or both; what is under way stays so, and connections stay open."""
        for way, held in (("requests", requests), ("replies", replies)):
            if held:
                self._passing[way].clear()

    def heal(self) -> None:
        """Let everything pass."""
        for passing in self._passing.values():
            passing.set()

    async def _serve(self, client: StreamReader, to_client: StreamWriter) -> None:
        redis, to_redis = await asyncio.open_unix_connection(str(self._redis_path))
        try:
            await _first_of(self._pass_on("requests", client, to_redis), self._pass_on("replies", redis, to_client))
        finally:
            to_redis.close()

    async def _pass_on(self, way: str, come: StreamReader, go: StreamWriter) -> None:
        """Forward until either end closes, or a reply is to be lost."""
        try:
            while data := await come.read(_CHUNK_BYTES):
                await self._passing[way].wait()
                if way == "replies" and self._random.random() < self._drops:
                    self.dropped += 1
                    return
                go.write(data)
                await go.drain()
        except OSError:
            return


class SlowLink(_Between):
    """A local TCP link that delays everything by a fixed time, each way.

    Attributes:
        port: where it listens.
    """

    def __init__(self, to_port: int, seconds: float) -> None:
        super().__init__()
        self._to_port = to_port
        self._seconds = seconds

    async def __aenter__(self) -> "SlowLink":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def _serve(self, client: StreamReader, to_client: StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._to_port)
        try:
            await _first_of(self._pass_on(client, to_server), self._pass_on(server, to_client))
        finally:
            to_server.close()

    async def _pass_on(self, come: StreamReader, go: StreamWriter) -> None:
        """Forward until either end closes; delays overlap, so that earlier data does not hold up later data."""
        loop = asyncio.get_running_loop()
        while data := await come.read(_CHUNK_BYTES):
            loop.call_later(self._seconds, go.write, data)


async def _first_of(*ways: Coroutine[Any, Any, None]) -> None:
    """Run them until one has ended."""
    passing = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(passing)
