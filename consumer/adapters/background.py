"""Loading in the background: threads that answer go first, and the workers of a machine load by turns."""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

# Added to the niceness of the process: leaves a third of a core that is shared with an answering thread. With a lower
# priority, a thread that gets no core could keep Python's lock from the threads that answer.
NICER = 5
_NICEST = 19  # on Linux
PATIENCE_SECONDS = 5.0  # for a turn: a process that is frozen in its turn must not block the others for ever
_LOOK_SECONDS = 0.005
COURTESY_SECONDS = 0.25  # in all, for one adapter: a worker that is always busy must be able to switch too
_BREATH_SECONDS = 0.001


class Courtesy:
    """Waits while others are busy, as often as it is asked to, but only for a limited time in all."""

    def __init__(self, busy: Callable[[], bool], seconds: float = COURTESY_SECONDS) -> None:
        self._busy = busy
        self._left = seconds

    def give_way(self) -> None:
        """Return when nobody is busy, or the time is used up."""
        begun = time.monotonic()
        while self._busy() and time.monotonic() < begun + self._left:
            time.sleep(_BREATH_SECONDS)
        self._left -= time.monotonic() - begun


def background_thread(name: str) -> ThreadPoolExecutor:
    """A single thread of lower priority. It stays the same, so that it reuses the memory that it frees."""
    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_lower_priority)


def _lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere it would be the whole process
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(own + NICER, _NICEST))


@contextmanager
def in_turn(folder: Path | None = None, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Run the block in at most half as many processes of this user at a time as there are cores.

    Args:
        folder: for the locks; the system's temporary folder if None.
        patience_seconds: how long to wait for a turn; then the block is run without one.
    """
    folder, turns = folder or Path(tempfile.gettempdir()), max(1, (os.cpu_count() or 1) // 2)
    deadline = time.monotonic() + patience_seconds
    with ExitStack() as files:
        with suppress(OSError):  # no locks, no turns
            paths = [folder / f"abstream-{os.getuid()}.turn-{turn}" for turn in range(turns)]
            locks = [files.enter_context(path.open("a")) for path in paths]
            while not any(map(_take, locks)) and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
        yield


def _take(file: IO[str]) -> bool:
    """Lock the file if nobody else has; whether it is locked now. The lock ends when the file is closed."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
