"""Loading stands aside: threads that answer go first, and workers of a machine load by turns."""

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

# Beyond the process's own: a third of a core that is shared with a thread that answers. Lower still, a thread that
# cannot run would keep Python's lock from those that answer.
NICER = 5
_NICEST = 19  # on Linux
PATIENCE_SECONDS = 5.0  # for the others' turns: one that is frozen in its own must not hold up all
_LOOK_SECONDS = 0.005
COURTESY_SECONDS = 0.25  # of one adapter, in all: a worker that always computes must come to its switch too
_BREATH_SECONDS = 0.001


class Courtesy:
    """Gives way, as often as is asked, while others are busy; but only so long in all."""

    def __init__(self, busy: Callable[[], bool], seconds: float = COURTESY_SECONDS) -> None:
        self._busy = busy
        self._left = seconds

    def give_way(self) -> None:
        """Return when nobody is busy, or the courtesy is used up."""
        begun = time.monotonic()
        while self._busy() and time.monotonic() < begun + self._left:
            time.sleep(_BREATH_SECONDS)
        self._left -= time.monotonic() - begun


def aside(name: str) -> ThreadPoolExecutor:
    """One thread, always the same, so that the memory it lets go of is used by it again."""
    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_stand_back)


def _stand_back() -> None:
    if sys.platform == "linux":  # elsewhere it would be the whole process
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(own + NICER, _NICEST))


@contextmanager
def in_turn(folder: Path | None = None, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Let no more processes of this user than half the cores run such a block at a time; wait so long for a turn.

    Args:
        folder: of the locks; the system's temporary folder where None.
        patience_seconds: after which the block is run all the same.
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
    """Whether nobody had it; it is let go of when the file is closed, or the process ends."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
