"""The reader of results, one for each gateway."""

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
from redis.exceptions import RedisError

from ...schemas.streams import Output
from ..connection import Shard
from ..cursor import parse_id
from ..ending import end
from .entries import Entry, last_id, read_entries
from .index import Index
from .tail import Tail
from .waiting import Waiting

_OUTPUTS: tuple[Output, ...] = ("predictions", "refusals")
_COUNT = 64  # of each stream in a read: a refusal holds its whole original, and may have megabytes
_BLOCK_MILLISECONDS = 1_000
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 0.5  # as the workers

log = structlog.get_logger()


class Reader:
    """Reads predictions and refusals as they arrive, and passes them to the index, the tail and waiting requests."""

    def __init__(self, shards: Sequence[Shard], index: Index, tail: Tail, waiting: Waiting) -> None:
        self._shards = shards
        self._index = index
        self._tail = tail
        self._waiting = waiting

    async def run(self) -> None:
        """Read until cancelled; Redis is waited for."""
        after = await asyncio.gather(*(self._patiently(partial(_newest, shard)) for shard in self._shards))
        self._tail.begin(tuple(parse_id(newest["predictions"]) for newest in after))
        catching_up = [
            asyncio.create_task(self._patiently(partial(part.catch_up, dict(newest))))
            for part, newest in zip(self._index.parts, after, strict=True)
        ]
        following = [asyncio.create_task(self._follow(number, newest)) for number, newest in enumerate(after)]
        try:
            await asyncio.gather(*following)
        finally:
            await end([*following, *catching_up])

    async def _follow(self, number: int, after: dict[Output, str]) -> None:
        """Read one shard, each time after what was read before."""
        while True:
            entries = await self._patiently(partial(_read, self._shards[number], after))
            if entries:
                await self._index.parts[number].note(entries)  # first, so that a request that is woken finds its result
                self._tail.append([entry for entry in entries if entry.output == "predictions"], number)
                self._waiting.arrived(entries)

    async def _patiently(self, call: Any) -> Any:
        """The result of ``call``, repeated while Redis is away."""
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


async def _newest(shard: Shard) -> dict[Output, str]:
    return {output: await last_id(shard, output) for output in _OUTPUTS}


async def _read(shard: Shard, after: dict[Output, str]) -> list[Entry]:
    """Wait for the next entries, and advance ``after``."""
    names = {shard.streams.output(output).encode(): output for output in _OUTPUTS}
    keys: dict[Any, Any] = {shard.streams.output(output): last for output, last in after.items()}
    replies: Any = await shard.redis.xread(keys, count=_COUNT, block=_BLOCK_MILLISECONDS)
    entries: list[Entry] = []
    for stream, raw in replies or ():
        after[names[stream]] = raw[-1][0].decode()
        entries += read_entries(names[stream], raw)
    return entries
