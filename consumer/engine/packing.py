"""Which token sequences share a batch, and the answers to any number of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import TypeVar

from . import Engine, LabelLogits, Tokens

T = TypeVar("T")


def pack_by(items: Iterable[T], length: Callable[[T], int], max_batch_tokens: int) -> Iterator[list[T]]:
    """Batches of similar length, shortest first.

    The length of a batch's longest item times the number of items is at most ``max_batch_tokens``; an item that is
    longer by itself is a batch of its own.
    """
    batch: list[T] = []
    # Sorted by length, so that an item's length is the width of the whole batch.
    for width, item in sorted([(length(item), item) for item in items], key=itemgetter(0)):
        if batch and width * (len(batch) + 1) > max_batch_tokens:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def classify_all(engine: Engine, prompts: Sequence[Tokens], max_batch_tokens: int) -> list[LabelLogits]:
    """The label logits of any number of prompts, in order, from batches of at most ``max_batch_tokens``."""
    found: dict[int, LabelLogits] = {}
    for rows in pack_by(range(len(prompts)), lambda row: len(prompts[row].ids), max_batch_tokens):
        found |= zip(rows, engine.classify([prompts[row] for row in rows]).logits, strict=True)
    return [found[row] for row in range(len(prompts))]
