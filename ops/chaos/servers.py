"""A private Redis that can be killed and started again with what it had on disk, and replicas of it."""

import asyncio
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from redis.asyncio import Redis

from ...producer.connection import AWAY, connect
from ..embedded import start_server, url_of

_LOOK_SECONDS = 0.05


class Server:
    """A Redis process and its folder; the folder outlives the process, not the block."""

    def __init__(self, *options: str, port: int = 0) -> None:
        """
        Args:
            options: of redis-server.
            port: of TCP, where it has one too, as a primary needs for its replicas.
        """
        self.port = port
        self._options = (*options, "--port", str(self.port), "--bind", "127.0.0.1")
        self.folder = Path(tempfile.mkdtemp(prefix="abstream-"))  # short: a socket's path has at most 107 bytes
        self.url = url_of(self.folder)
        self.redis: Redis = connect(self.url)
        self._on_disk: list[tuple[float, int]] = []

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

    async def watch_disk(self) -> None:
        """Note how much is on disk, until cancelled.

        Nothing is noted while Redis has answered and not yet written. With everysec it does so for up to two seconds,
        when an earlier fsync is under way.
        """
        while True:
            asked = time.monotonic()
            with suppress(*AWAY):
                persistence: Any = await self.redis.info("persistence")
                if not persistence["aof_buffer_length"]:
                    self._on_disk.append((asked, self._log().stat().st_size))
            await asyncio.sleep(_LOOK_SECONDS)

    def crash(self) -> float:
        """Kill it; returns the moment up to which it has written all that it answered."""
        self.kill()
        return self._on_disk[-1][0]

    def lose_power(self, seconds: float) -> float:
        """Kill it and discard what it wrote in the last seconds; returns the moment up to which data is left."""
        self.kill()
        now = time.monotonic()
        left = max((noted for noted in self._on_disk if noted[0] <= now - seconds), default=self._on_disk[0])
        when, size = left
        os.truncate(self._log(), size)
        self._on_disk = [left]
        return when

    def _log(self) -> Path:
        """The append-only file that it writes to."""
        return max(self.folder.rglob("*.aof"), key=lambda path: path.stat().st_mtime)

    async def has_replica(self) -> bool:
        """Whether a replica is connected and in sync."""
        info: Any = await self.redis.info("replication")
        return bool(info.get("slave0", {}).get("state") == "online")

    async def promote(self) -> None:
        """Turn this replica into a primary."""
        await self.redis.replicaof("NO", "ONE")

    def kill(self) -> None:
        """Kill it as a crash does: nothing more is flushed."""
        self._process.kill()
        self._process.wait()


def replica_options(port: int) -> tuple[str, ...]:
    """The options of a replica of the primary at a local port."""
    return "--replicaof", "127.0.0.1", str(port)


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
