"""The state that all requests of a gateway share: connections, the reader of results, waiting requests, tokens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ...schemas import AbstreamError, Shards
from ..connection import Connections, Shard
from ..cursor import Place, parse
from ..ending import end
from ..publisher import Publisher
from ..replaying import Refusals
from .config import GatewayConfig
from .index import Index
from .measuring import Measurements
from .problems import OTHER_SHARDS, Problem
from .reading import Reader
from .tail import Tail
from .tokens import Tokens
from .waiting import Waiting


class Door:
    """The state of one gateway.

    Raises:
        TokensUnusable: the file of tokens cannot be used.
    """

    def __init__(self, url: str, names: Shards, config: GatewayConfig, version: str) -> None:
        self.config = config
        self.names = names
        self.connections = Connections(url, names)
        self.shards = self.connections.shards
        self.tokens = Tokens(config.tokens_file) if config.tokens_file else None
        self.index = Index(self.shards, names, config.source)
        self.tail = Tail()
        self.waiting = Waiting()
        self.refusals = Refusals(self.shards)
        self.measurements = Measurements(version, self.tail, self.waiting)
        self.ending = False
        self._url = url
        self._publishers: dict[str, Publisher] = {}
        self._reading: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Read results within the block, then close all connections."""
        reader = Reader(self.shards, self.index, self.tail, self.waiting)
        self._reading = asyncio.create_task(reader.run())
        heart = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            self.end()
            await end([self._reading, heart])
            for publisher in self._publishers.values():
                await publisher.aclose()
            await self.connections.aclose()

    @property
    def reads(self) -> bool:
        """Whether the reader is running, even if Redis is away."""
        return self._reading is not None and not self._reading.done()

    def shard_of(self, id: str) -> Shard:
        """The shard of an abstract's id."""
        return self.shards[self.names.of(id)]

    def place(self, cursor: str) -> Place:
        """The place in a client's cursor.

        Raises:
            Problem: it is of another number of shards.
        """
        try:
            return parse(cursor, len(self.shards))
        except AbstreamError as error:
            raise Problem(409, "other-shards", OTHER_SHARDS) from error

    def publisher(self, source: str) -> Publisher:
        """The publisher of one client's abstracts."""
        if source not in self._publishers:
            self._publishers[source] = Publisher(
                self._url,
                namespace=self.names.namespace,
                shards=self.names.count,
                source=source,
                max_backlog=self.config.max_backlog or None,
                wait_replicas=self.config.wait_replicas,
            )
        return self._publishers[source]

    def end(self) -> None:
        """End streams and waiting requests, and accept no new ones."""
        self.ending = True
        self.tail.end()
        self.waiting.end()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.config.heartbeat_seconds)
            self.tail.sign_of_life()
