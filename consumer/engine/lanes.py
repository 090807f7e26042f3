"""The passes of one batch at once, on a CPU: each on one thread of its own, all over the same weights.

Several threads for one pass of a small model have too little to do: they wait for each other after every operation,
and on a core that has other work too they all wait for the slowest. Only a pass that is alone has all threads.
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
    """So many threads, which all engines of a process share."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = ThreadPoolExecutor(count, "lane", initializer=torch.set_num_threads, initargs=(1,))

    def run(self, passes: Sequence[Sequence[Tokens]], compute: Callable[[Sequence[Tokens]], list[T]]) -> list[T]:
        """What ``compute`` gives for each, in order."""
        with one_thread():
            return [one for done in self._threads.map(compute, passes) for one in done]

    def share_out(self, batch: Sequence[Tokens], tokens: int) -> list[Sequence[Tokens]]:
        """In order, about ``tokens`` in each pass or fewer: so many that all lanes have as much to do."""
        total = sum(one.tail_length for one in batch)
        passes = self.count * -(-total // (tokens * self.count))
        placed, end = [], 0
        for one in batch:
            placed.append((int((end + one.tail_length / 2) * passes / total), one))  # where its middle lies
            end += one.tail_length
        return [[one for _, one in some] for _, some in groupby(placed, key=lambda each: each[0])]


@cache
def lanes(count: int) -> Lanes:
    """Those of this process."""
    return Lanes(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """One for each operation meanwhile, whichever thread asks: MKL knows but one number for the process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
