"""Which token sequences share a forward pass. Pure: from values to values."""

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import TypeVar

T = TypeVar("T")


def pack_by(
    items: Iterable[T], length: Callable[[T], int], max_batch_tokens: int, most: int | None = None
) -> Iterator[list[T]]:
    """Batches of like length, shortest first; the longest times the number is at most ``max_batch_tokens``.

    An item that is longer than that makes a batch alone. A batch has at most ``most`` items.
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
