"""Cancelling tasks reliably."""

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_SECONDS = 0.05


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel every task until it has ended; results and errors are dropped.

    One cancellation may not be enough: before Python 3.12 redis-py may swallow it
    (https://github.com/python/cpython/issues/86296).
    """
    all_tasks = pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
    await asyncio.gather(*all_tasks, return_exceptions=True)
