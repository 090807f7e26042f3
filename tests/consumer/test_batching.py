"""Which jobs share a forward pass."""

from types import SimpleNamespace

import pytest
from abstream.consumer.batching import next_batch
from abstream.consumer.engine.packing import pack_by


def jobs(*lengths: int, engine: str = "live") -> list[SimpleNamespace]:
    return [SimpleNamespace(tokens=SimpleNamespace(ids=range(length)), engine=engine) for length in lengths]


def lengths(batch) -> list[int]:
    return [len(one.tokens.ids) for one in batch]


@pytest.mark.parametrize("budget", [1, 100, 450, 10_000])
def test_every_item_is_in_one_batch_and_only_a_single_one_may_exceed_the_budget(budget):
    items = [17, 3, 450, 88, 88, 1, 240, 90, 17]
    batches = list(pack_by(items, lambda item: item, budget))
    assert sorted(item for batch in batches for item in batch) == sorted(items)
    assert all(max(batch) * len(batch) <= budget or len(batch) == 1 for batch in batches)


def test_similar_lengths_share_a_batch_that_includes_the_oldest_job():
    assert lengths(next_batch(jobs(100, 10, 90, 11), [], 200)) == [90, 100]
    assert lengths(next_batch(jobs(11, 100, 10, 90), [], 200)) == [10, 11]


def test_an_abstract_over_the_budget_goes_alone():
    assert lengths(next_batch(jobs(500, 10), jobs(1), 200)) == [500]


def test_the_room_left_goes_to_other_jobs_that_fit_without_padding():
    assert lengths(next_batch(jobs(50), jobs(60, 50, 20, 10, 5), 200)) == [50, 50, 20, 10]


def test_a_batch_has_jobs_of_one_engine_only():
    before, after = jobs(10, 10, engine="before"), jobs(10, engine="after")
    assert next_batch([*before, *after], after, 1000) == before
