"""Polling until a condition holds."""

import asyncio
import time
from collections.abc import Awaitable, Callable

LOOK_SECONDS = 0.02  # between two looks


async def until(condition: Callable[[], bool | Awaitable[bool]], has_time: Callable[[], bool]) -> bool:
    """Return when ``condition()``, which may be a coroutine function, is true, or no time is left; which of the two."""
    while not (value if isinstance(value := condition(), bool) else await value):
        if not has_time():
            return False
        await asyncio.sleep(LOOK_SECONDS)
    return True


def within(seconds: float) -> Callable[[], bool]:
    """A condition that holds until so many seconds from now have passed."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline
