"""Breaks in long work: a thread that loads a model in many steps lets those that answer go between two of them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_mine = threading.local()


def take_a_break() -> None:
    """Between two steps of loading: return at once, or when whoever asked for breaks has nothing more urgent."""
    if wait := getattr(_mine, "wait", None):
        wait()


@contextmanager
def with_breaks(wait: Callable[[], None]) -> Iterator[None]:
    """Have ``wait`` called at each break that this thread takes meanwhile."""
    _mine.wait = wait
    try:
        yield
    finally:
        _mine.wait = None
