"""Breaks in long work: a thread that loads a model in many steps lets batches be answered between two of them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_mine = threading.local()


def take_a_break() -> None:
    """Called between two steps of loading: waits as ``with_breaks`` says, and outside of it not at all."""
    if wait := getattr(_mine, "wait", None):
        wait()


@contextmanager
def with_breaks(wait: Callable[[], None]) -> Iterator[None]:
    """Within the block, call ``wait`` at each break that this thread takes."""
    _mine.wait = wait
    try:
        yield
    finally:
        _mine.wait = None
