"""Cancelling tasks reliably."""

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_SECONDS = 0.05


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel every task until it has ended; the caller may still ask for results and errors.

    One cancellation may not be enough: before Python 3.12 ``asyncio.wait_for``, which redis-py sends every command
    with, swallows one that arrives just when it is done (https://github.com/python/cpython/issues/86296).
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
