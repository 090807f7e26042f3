"""The one reader of results that a gateway has."""

import asyncio
import random
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ...schemas import Streams
from ...schemas.streams import Output
from .entries import Entry, last_id, read_entries
from .index import Index
from .tail import Tail
from .waiting import Waiting

_OUTPUTS: tuple[Output, ...] = ("predictions", "refusals")
_COUNT = 64  # of each stream in a read: a refusal holds its whole original, and may be of a megabyte
_BLOCK_MILLISECONDS = 1_000
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 2.0

log = structlog.get_logger()


class Reader:
    """Reads predictions and refusals as they come and hands each read to index, tail and waiting requests."""

    def __init__(self, redis: Redis, streams: Streams, index: Index, tail: Tail, waiting: Waiting) -> None:
        self._redis = redis
        self._streams = streams
        self._index = index
        self._tail = tail
        self._waiting = waiting
        self._after: dict[Output, str] = {}

    async def run(self) -> None:
        """Read until cancelled; Redis is waited for."""
        self._after = await self._patiently(self._newest)
        self._tail.begin(self._after["predictions"])
        begun = dict(self._after)
        catching_up = asyncio.create_task(self._patiently(lambda: self._index.catch_up(begun)))
        try:
            while True:
                await self._hand_on(await self._patiently(self._read))
        finally:
            catching_up.cancel()

    async def _newest(self) -> dict[Output, str]:
        return {output: await last_id(self._redis, self._streams, output) for output in _OUTPUTS}

    async def _read(self) -> list[Entry]:
        names = {self._streams.output(output).encode(): output for output in _OUTPUTS}
        after: dict[Any, Any] = {self._streams.output(output): last for output, last in self._after.items()}
        replies: Any = await self._redis.xread(after, count=_COUNT, block=_BLOCK_MILLISECONDS)
        entries: list[Entry] = []
        for stream, raw in replies or ():
            self._after[names[stream]] = raw[-1][0].decode()
            entries += read_entries(names[stream], raw)
        return entries

    async def _hand_on(self, entries: list[Entry]) -> None:
        if entries:
            await self._index.note(entries)  # first, so that who is woken finds what woke it
            self._tail.append([entry for entry in entries if entry.output == "predictions"])
            self._waiting.arrived(entries)

    async def _patiently(self, call: Any) -> Any:
        """The result of ``call``, which is repeated while Redis is away."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                result = await call()
            except RedisError as error:
                if pause == _FIRST_PAUSE_SECONDS:
                    log.warning("redis_away", error=type(error).__name__)
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                if pause > _FIRST_PAUSE_SECONDS:
                    log.info("redis_back")
                return result
