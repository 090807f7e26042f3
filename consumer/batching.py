"""Which jobs share a forward pass. Pure: from values to values."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from .stages import Batch, Job

T = TypeVar("T")

# Delivered once: full batches. Twice: in fours. From the third time on alone, so that an entry which kills
# its worker does not take its neighbours with it for ever.
_MOST_BY_ATTEMPT = {1: None, 2: 4}


def pack(jobs: list[Job], max_batch_tokens: int) -> Iterator[Batch]:
    """Batches of like length and like number of attempts, none over ``max_batch_tokens`` with its padding."""
    by_attempt: dict[int, list[Job]] = {}
    for job in jobs:
        by_attempt.setdefault(min(job.delivery.attempt, 3), []).append(job)
    for attempt in sorted(by_attempt):
        most = _MOST_BY_ATTEMPT.get(attempt, 1)
        yield from pack_by(by_attempt[attempt], lambda job: len(job.tokens.ids), max_batch_tokens, most)


def pack_by(
    items: Iterable[T], length: Callable[[T], int], max_batch_tokens: int, most: int | None = None
) -> Iterator[list[T]]:
    """Batches of like length, shortest first; the longest times the number is at most ``max_batch_tokens``.

    An item that is longer than that makes a batch alone. A batch has at most ``most`` items.
    """
    batch: list[T] = []
    for item in sorted(items, key=length):
        # Sorted by length, so this item's length is the width of the whole batch.
        if batch and (length(item) * (len(batch) + 1) > max_batch_tokens or len(batch) == most):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
