"""Runs the passes of one batch at once on a CPU: each on a thread of its own, all over the same weights.

One pass of a small model has too little work for several threads: they wait for each other after every operation, and
if a core is busy otherwise, they all wait for the slowest. Only a pass that is alone uses all threads.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from typing import TypeVar

import torch

from . import Tokens

T = TypeVar("T")


class Lanes:
    """A pool of ``count`` threads, shared by all engines of a process."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = ThreadPoolExecutor(count, "lane", initializer=torch.set_num_threads, initargs=(1,))

    def run(self, passes: Sequence[Sequence[Tokens]], compute: Callable[[Sequence[Tokens]], list[T]]) -> list[T]:
        """Apply ``compute`` to all passes at once, and return the results of all in order.

        If one fails, its error is raised when no other computes any more: what comes next has all memory and threads.
        """
        with one_thread():
            running = deque(self._threads.submit(compute, some) for some in passes)
            wait(running)
            results: list[T] = []
            while running:  # an error that is raised here must hold no list that holds the error
                results += running.popleft().result()
            return results

    def share_out(self, batch: Sequence[Tokens], tokens: int) -> list[Sequence[Tokens]]:
        """Split a batch, in order, into passes of about ``tokens`` tokens or fewer, the same work for each lane."""
        total = sum(one.tail_length for one in batch)
        passes = self.count * -(-total // (tokens * self.count))
        placed, end = [], 0
        for one in batch:
            placed.append((int((end + one.tail_length / 2) * passes / total), one))  # where its middle lies
            end += one.tail_length
        return [[one for _, one in some] for _, some in groupby(placed, key=lambda each: each[0])]


@cache
def lanes(count: int) -> Lanes:
    """The lanes of this process, made once for each ``count``."""
    return Lanes(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, every thread's operations use one thread: MKL has a single number for the process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
