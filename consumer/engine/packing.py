"""Decides which token sequences share a batch. Pure: from values to values."""

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import TypeVar

T = TypeVar("T")


def pack_by(
    items: Iterable[T], length: Callable[[T], int], max_batch_tokens: int, most: int | None = None
) -> Iterator[list[T]]:
    """Batches of similar length, shortest first, of at most ``most`` items each.

    The length of a batch's longest item times the number of items is at most ``max_batch_tokens``; an item that is
    longer by itself is a batch of its own.
    """
    batch: list[T] = []
    # Sorted by length, so that an item's length is the width of the whole batch.
    for width, item in sorted([(length(item), item) for item in items], key=itemgetter(0)):
        if batch and (width * (len(batch) + 1) > max_batch_tokens or len(batch) == most):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
