"""Breaks in long work: a thread that loads a model lets answering threads go first between two of its steps."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_mine = threading.local()


def take_a_break() -> None:
    """Called between two steps of loading. Returns at once, or when nothing more urgent is going on."""
    if wait := getattr(_mine, "wait", None):
        wait()


@contextmanager
def with_breaks(wait: Callable[[], None]) -> Iterator[None]:
    """Call ``wait`` at each break that this thread takes within the block."""
    _mine.wait = wait
    try:
        yield
    finally:
        _mine.wait = None
