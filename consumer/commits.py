"""Batches are published one after the other, but a shard whose Redis is away does not hold up the others for long."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from .stages import Answered
from .tasks import end

# The longest wait for a commit: many times what one takes, and a small part of a fail-over.
_WAIT_SECONDS = 0.25


class Commits:
    """Owns the commits in progress.

    There are never many: nothing new is read from a shard that is away, so only what was in hand waits.
    """

    def __init__(self, commit: Callable[[list[Answered]], Coroutine[Any, Any, None]], shards: int) -> None:
        """
        Args:
            commit: publishes answers of one shard.
            shards: how many there are; a single one is waited for without limit.
        """
        self._commit = commit
        self._alone = shards == 1
        self._late: set[asyncio.Task[None]] = set()

    async def make(self, parts: Sequence[list[Answered]]) -> None:
        """Publish the parts of a batch. Returns when all are published, or after a short wait for slow ones.

        Raises:
            redis.exceptions.RedisError: an error that waiting does not mend, of this batch or of an earlier one.
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
        """Wait until everything is published; raises as ``make``."""
        await asyncio.gather(*self._late)

    async def end(self) -> None:
        """Cancel the commits in progress."""
        await end(self._late)
