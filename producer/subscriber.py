"""Receive results from the workers."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Any, cast

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from ..schemas import AbstractClassified, AbstractRefused, Event, Malformed, Unavailable
from ..schemas.streams import CONTROL, Output, from_fields
from .connection import AWAY, Client, Shard
from .cursor import join, place_before, split
from .defaults import DEFAULT_URL
from .ending import end

BEGINNING, NOW = "0", "$"
_BLOCK_MILLISECONDS = 1_000
_COUNT = 128
_READS = 80  # with pauses of up to 1 s: about a minute

log = logging.getLogger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]
Read = asyncio.Task[list[Entry]]


class Subscriber(Client):
    """Reads results as they come.

        async with Subscriber("redis://localhost") as subscriber:
            async for entry_id, result in subscriber.predictions(since="0"):
                print(result.causationid, result.data.answers["cancer"].label)

    The subscriber stores no position: keep the last ``entry_id`` and pass it as ``since`` to resume after it. With
    several shards it is a position in each of them (``producer.cursor``).
    """

    def __init__(self, url: str = DEFAULT_URL, *, namespace: str = "abstream", shards: int = 1) -> None:
        """Create a subscriber, which connects on first use; ``shards`` is the same number as the workers have."""
        super().__init__(url, namespace, shards)
        self._reads: set[Read] = set()

    async def aclose(self) -> None:
        """End all reads, and close the connections."""
        await end(self._reads)
        await super().aclose()

    async def predictions(
        self, since: str | datetime = NOW, *, until_idle: float | None = None
    ) -> AsyncIterator[tuple[str, AbstractClassified]]:
        """Yield each prediction after ``since``, with its entry id; see ``events``."""
        async for entry_id, event in self.events("predictions", since, until_idle=until_idle):
            if isinstance(event, AbstractClassified):
                yield entry_id, event

    async def refusals(
        self, since: str | datetime = NOW, *, until_idle: float | None = None
    ) -> AsyncIterator[tuple[str, AbstractRefused]]:
        """Yield each refusal after ``since``, with its entry id; see ``events``."""
        async for entry_id, event in self.events("refusals", since, until_idle=until_idle):
            if isinstance(event, AbstractRefused):
                yield entry_id, event

    async def events(
        self, output: Output, since: str | datetime = NOW, *, until_idle: float | None = None
    ) -> AsyncIterator[tuple[str, Event]]:
        """Yield every event of an output stream after ``since``, with its entry id, and wait for more.

        Args:
            since: an entry id (``"0"`` is the beginning, ``"$"`` is now), or a time.
            until_idle: end after this many seconds without an event.

        An entry that this version cannot read is skipped with a warning, because an error would stop every subscriber.

        Raises:
            Unavailable: Redis was out of reach for about a minute.
        """
        async for entry_id, fields in self.entries(output, since, until_idle=until_idle):
            try:
                event = from_fields(fields)
            except Malformed as problem:
                log.warning("entry %s of %s is skipped: %s", entry_id, output, problem.message)
            else:
                yield entry_id, event

    async def entries(
        self, output: Output, since: str | datetime = NOW, *, until_idle: float | None = None
    ) -> AsyncIterator[tuple[str, dict[bytes, bytes]]]:
        """Yield every entry as it is in Redis; otherwise as ``events``."""
        try:
            for shard in self._of(output):
                await shard.redis.ping()  # a wrong address fails at once; later, Redis is waited for
            places = split(await self.resolve(output, since), len(self._of(output)))
            async with aclosing(self._pages(output, list(places), until_idle)) as pages:
                async for at, entries in pages:
                    for entry_id, fields in entries:
                        places[at] = entry_id.decode()
                        yield join(places), fields
        except AWAY as error:
            raise Unavailable(f"Redis is out of reach ({error}): subscribe again after the last entry id") from error

    async def resolve(self, output: Output, since: str | datetime = NOW) -> str:
        """The position that ``since`` stands for; ``"$"`` stands for the last entry that there is now."""
        if isinstance(since, datetime):
            return place_before(since)
        if since != NOW:
            return since
        return join([await self._newest(shard, output) for shard in self._of(output)])

    async def _newest(self, shard: Shard, output: Output) -> str:
        newest: Any = await shard.redis.xrevrange(shard.streams.output(output), count=1)
        return cast(bytes, newest[0][0]).decode() if newest else BEGINNING

    def _of(self, output: Output) -> list[Shard]:
        """The shards that hold an output; the control streams are in one place."""
        return [self._at.control] if output in CONTROL else self._at.shards

    async def _pages(
        self, output: Output, after: list[str], until_idle: float | None
    ) -> AsyncGenerator[tuple[int, list[Entry]], None]:
        """Entries with the number of their shard, as they arrive; ends after ``until_idle``."""
        shards = self._of(output)
        idle_since = time.monotonic()
        reads: dict[int, Read] = {}
        quiet: set[int] = set()  # shards whose last read was empty, since the last entry of any shard
        try:
            while until_idle is None or len(quiet) < len(shards) or time.monotonic() - idle_since < until_idle:
                for at in range(len(shards)):
                    if at not in reads:
                        reads[at] = self._begin(shards[at], output, after[at], until_idle)
                done, _ = await asyncio.wait(reads.values(), return_when="FIRST_COMPLETED")
                for at in [at for at, read in reads.items() if read in done]:
                    quiet.add(at)
                    if entries := reads.pop(at).result():
                        after[at] = entries[-1][0].decode()
                        yield at, entries
                        idle_since = time.monotonic()
                        quiet.clear()
        finally:
            await end(reads.values())

    def _begin(self, shard: Shard, output: Output, after: str, until_idle: float | None) -> Read:
        """Start a read, which ends with the subscriber at the latest, even if the caller's loop is left early."""
        reading = asyncio.create_task(_read(shard, output, after, until_idle))
        self._reads.add(reading)
        reading.add_done_callback(self._reads.discard)
        return reading


async def _read(shard: Shard, output: Output, after: str, until_idle: float | None) -> list[Entry]:
    """Entries after an id, or none if none arrive in time. A read may be repeated, so Redis is waited for."""
    wait = _BLOCK_MILLISECONDS if until_idle is None else min(_BLOCK_MILLISECONDS, int(until_idle * 1000))
    stream = shard.streams.output(output)

    async def read() -> list[Entry]:
        # redis-py's type is the union over all protocols; this is the one of RESP2.
        reply: Any = await shard.redis.xread({stream: after}, count=_COUNT, block=max(1, wait))
        return cast(list[Entry], reply[0][1]) if reply else []

    async def wait_more(error: Exception) -> None:
        """Nothing to do: the client has closed the connection itself."""

    return await Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), _READS).call_with_retry(read, wait_more)
