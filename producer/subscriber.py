"""Receive what the workers publish."""

import logging
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, cast

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from ..schemas import AbstractClassified, AbstractRefused, Event, Malformed, Unavailable
from ..schemas.streams import Output, from_fields
from .connection import AWAY, Client
from .defaults import DEFAULT_URL

BEGINNING, NOW = "0", "$"
_BLOCK_MILLISECONDS = 1_000
_COUNT = 128
_READS = 40  # with pauses of up to 2 s: about a minute

log = logging.getLogger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]


class Subscriber(Client):
    """Reads results as they come.

        async with Subscriber("redis://localhost") as subscriber:
            async for entry_id, result in subscriber.predictions(since="0"):
                print(result.causationid, result.data.answers["cancer"].label)

    Nothing is remembered here: keep the last ``entry_id`` and pass it as ``since`` to go on after it.
    """

    def __init__(self, url: str = DEFAULT_URL, *, namespace: str = "abstream") -> None:
        super().__init__(url, namespace)

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
            until_idle: end after so many seconds without an event.

        An entry that this version cannot read is skipped with a warning: it would stop every subscriber for ever.

        Raises:
            Unavailable: Redis was out of reach for about a minute.
        """
        async for entry_id, fields in self.entries(output, since, until_idle=until_idle):
            try:
                event = from_fields(fields)
            except Malformed as problem:
                log.warning("entry %s of %s is skipped: %s", entry_id, self._streams.output(output), problem.message)
            else:
                yield entry_id, event

    async def entries(
        self, output: Output, since: str | datetime = NOW, *, until_idle: float | None = None
    ) -> AsyncIterator[tuple[str, dict[bytes, bytes]]]:
        """Yield every entry as Redis holds it; otherwise as ``events``."""
        stream = self._streams.output(output)
        try:
            await self._redis.ping()  # a wrong address is said at once; only later is Redis waited for
            cursor = await self.resolve(output, since)
            idle_since = time.monotonic()
            while until_idle is None or time.monotonic() - idle_since < until_idle:
                entries = await self._read(stream, cursor, until_idle)
                for entry_id, fields in entries:
                    cursor = entry_id.decode()
                    yield cursor, fields
                if entries:
                    idle_since = time.monotonic()
        except AWAY as error:
            raise Unavailable(f"Redis is out of reach ({error}): subscribe again after the last entry id") from error

    async def _read(self, stream: str, cursor: str, until_idle: float | None) -> list[Entry]:
        """Entries after ``cursor``, or none if none came; reading may be repeated, so Redis is waited for."""
        wait = _BLOCK_MILLISECONDS if until_idle is None else min(_BLOCK_MILLISECONDS, int(until_idle * 1000))

        async def read() -> list[Entry]:
            # redis-py's own types are the union of all protocols' replies; of RESP2's, this is the one.
            reply: Any = await self._redis.xread({stream: cursor}, count=_COUNT, block=max(1, wait))
            return cast(list[Entry], reply[0][1]) if reply else []

        async def wait_more(error: Exception) -> None:
            """The client has dropped the connection by itself."""

        return await Retry(ExponentialWithJitterBackoff(base=0.05, cap=2), _READS).call_with_retry(read, wait_more)

    async def resolve(self, output: Output, since: str | datetime = NOW) -> str:
        """The entry id that ``since`` means: for ``"$"``, the last entry there is now."""
        if isinstance(since, datetime):
            return f"{max(0, int(since.timestamp() * 1000) - 1)}"
        if since != NOW:
            return since
        newest: Any = await self._redis.xrevrange(self._streams.output(output), count=1)
        return cast(bytes, newest[0][0]).decode() if newest else BEGINNING
