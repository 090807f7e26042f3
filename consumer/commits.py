"""Each batch is published before the next, but no shard waits for long for another whose Redis is away."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from .stages import Answered
from .tasks import end

# For a commit that is under way: many times what one takes, and a small part of a fail-over.
_WAIT_SECONDS = 0.25


class Commits:
    """Owns the commits that are under way.

    There are never many: from a shard that is away nothing new is read, so that what waits is what was in hand.
    """

    def __init__(self, commit: Callable[[list[Answered]], Coroutine[Any, Any, None]], shards: int) -> None:
        """
        Args:
            commit: publishes what is of one shard.
            shards: how many there are; a single one is waited for as long as it takes.
        """
        self._commit = commit
        self._alone = shards == 1
        self._late: set[asyncio.Task[None]] = set()

    async def make(self, parts: Sequence[list[Answered]]) -> None:
        """Publish the parts of a batch. Returns when that is done, or where some take long, though it is not.

        Raises:
            redis.exceptions.RedisError: what no patience changes, of this batch or of one before.
        """
        if self._alone:
            for part in parts:
                await self._commit(part)
            return
        under_way = {*self._late, *(asyncio.create_task(self._commit(part)) for part in parts)}
        done, self._late = await asyncio.wait(under_way, timeout=_WAIT_SECONDS)
        for commit in done:
            commit.result()

    async def rest(self) -> None:
        """Return when all is published; raises as ``make``."""
        await asyncio.gather(*self._late)

    async def end(self) -> None:
        """Break off what is under way."""
        await end(self._late)
