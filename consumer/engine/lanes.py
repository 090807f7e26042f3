"""Running the passes of one batch concurrently on a CPU: each on a single thread, all with the same weights.

For a small model, several threads in one pass have too little to do. They wait for each other after every operation,
and if one core has other work, all of them wait for it. Only a single pass uses all threads.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from typing import TypeVar

import torch

from . import Tokens

T = TypeVar("T")


class Lanes:
    """Threads for passes, shared by all engines of a process."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = ThreadPoolExecutor(count, "lane", initializer=torch.set_num_threads, initargs=(1,))

    def run(self, passes: Sequence[Sequence[Tokens]], compute: Callable[[Sequence[Tokens]], list[T]]) -> list[T]:
        """The results of ``compute`` for all passes, in order."""
        with one_thread():
            return [one for done in self._threads.map(compute, passes) for one in done]

    def share_out(self, batch: Sequence[Tokens], tokens: int) -> list[Sequence[Tokens]]:
        """Split a batch in order into passes of about ``tokens`` or fewer, so that all lanes have equal work."""
        total = sum(one.tail_length for one in batch)
        passes = self.count * -(-total // (tokens * self.count))
        placed, end = [], 0
        for one in batch:
            placed.append((int((end + one.tail_length / 2) * passes / total), one))  # where its middle lies
            end += one.tail_length
        return [[one for _, one in some] for _, some in groupby(placed, key=lambda each: each[0])]


@cache
def lanes(count: int) -> Lanes:
    """The lanes of this process."""
    return Lanes(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread for each operation within the block. MKL has a single setting for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
