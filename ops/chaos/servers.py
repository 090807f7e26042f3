"""A private Redis that can be killed and started again with what it had on disk."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from redis.asyncio import Redis

from ...producer.connection import connect
from ..embedded import start_server, url_of


class Server:
    """A Redis process and its folder; the folder outlives the process, not the block."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self.folder = Path(tempfile.mkdtemp(prefix="abstream-"))  # short: a socket's path has at most 107 bytes
        self.url = url_of(self.folder)
        self.redis: Redis = connect(self.url)

    async def __aenter__(self) -> "Server":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.redis.aclose()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def start(self) -> None:
        """Start it, with what is on disk; returns when it answers."""
        self._process = await asyncio.to_thread(start_server, self.folder, *self._options)

    def kill(self) -> None:
        """As a crash does: nothing is flushed that was not."""
        self._process.kill()
        self._process.wait()
