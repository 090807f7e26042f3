"""Looking again and again until something is so."""

import asyncio
import time
from collections.abc import Callable

LOOK_SECONDS = 0.02  # between two looks


async def until(condition: Callable[[], bool], has_time: Callable[[], bool]) -> bool:
    """Return when ``condition()`` is true, or there is no time left; which of the two."""
    while not condition():
        if not has_time():
            return False
        await asyncio.sleep(LOOK_SECONDS)
    return True


def within(seconds: float) -> Callable[[], bool]:
    """Time, until so many seconds from now have passed."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline
