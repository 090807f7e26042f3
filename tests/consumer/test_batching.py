"""Which jobs share a forward pass."""

from types import SimpleNamespace

import pytest
from abstream.consumer.batching import pack
from abstream.consumer.engine.packing import pack_by


def job(length: int, attempt: int = 1) -> SimpleNamespace:
    return SimpleNamespace(tokens=SimpleNamespace(ids=range(length)), delivery=SimpleNamespace(attempt=attempt))


def lengths(batches) -> list[list[int]]:
    return [[len(one.tokens.ids) for one in batch] for batch in batches]


@pytest.mark.parametrize("budget", [1, 100, 450, 10_000])
def test_every_item_is_in_one_batch_and_none_is_over_the_budget_but_alone(budget):
    items = [17, 3, 450, 88, 88, 1, 240, 90, 17]
    batches = list(pack_by(items, lambda item: item, budget))
    assert sorted(item for batch in batches for item in batch) == sorted(items)
    assert all(max(batch) * len(batch) <= budget or len(batch) == 1 for batch in batches)


def test_like_lengths_share_a_batch():
    assert lengths(pack([job(100), job(10), job(90), job(11)], 200)) == [[10, 11], [90, 100]]


def test_what_was_lost_once_comes_in_fours_and_then_alone():
    """So that an entry which kills its worker does not take its neighbours with it for ever."""
    assert lengths(pack([job(5, attempt=2) for _ in range(6)], 1000)) == [[5] * 4, [5] * 2]
    assert lengths(pack([job(5, attempt=3), job(5, attempt=4), job(5)], 1000)) == [[5], [5], [5]]


def test_no_jobs_are_no_batches():
    assert list(pack([], 100)) == []
