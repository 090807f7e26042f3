"""A new adapter is compared with the one before it, and chance alone is no reason to roll it back."""

import random
from types import SimpleNamespace

import pytest
from abstream.consumer.adapters.guard import (
    FIRST_LOOK,
    MOST_REMEMBERED,
    Guard,
    Share,
    Signals,
    difference,
    objection,
    wilson,
)
from abstream.consumer.config import WorkerConfig
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.stages import Inferred, Job, Refused

CONFIG = WorkerConfig(name="one")


def signals(abstracts: int, *, reviews: int = 0, first_labels: int = 0, errors: int = 0) -> Signals:
    return Signals("cancer", "Cancer", abstracts, reviews, first_labels, errors)


def test_an_interval_contains_its_share_and_narrows_with_more_abstracts():
    narrow, wide = wilson(Share(500, 1000)), wilson(Share(5, 10))
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]
    assert wilson(Share(0, 10))[0] == pytest.approx(0, abs=1e-12)


def test_the_interval_of_a_difference_is_that_of_newcombe():
    """Newcombe's example: 56 of 70 against 48 of 80, at 95 %, gives 0.0524 to 0.3339."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("abstream.consumer.adapters.guard.DEVIATIONS", 1.959964)
        assert difference(Share(56, 70), Share(48, 80)) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_equal_shares_are_no_reason():
    assert (
        objection(signals(500, reviews=50, first_labels=250), signals(2000, reviews=200, first_labels=1000), CONFIG)
        is None
    )


@pytest.mark.parametrize(
    ("own", "before", "reason"),
    [
        (
            signals(64, reviews=40),
            signals(500, reviews=50),
            "40 of 64 (62%) went to review, with the adapter before it 50",
        ),
        (signals(64, first_labels=64), signals(500, first_labels=200), "64 of 64 (100%) were answered Cancer"),
        (signals(64), signals(500, first_labels=400), "0 of 64 (0%) were answered Cancer"),
        (signals(64, errors=30), signals(500), "30 of 64 (47%) failed"),
    ],
    ids=["reviews", "more of the first label", "less of it", "errors"],
)
def test_a_share_beyond_its_bound_and_beyond_chance_is_a_reason(own, before, reason):
    assert reason in objection(own, before, CONFIG)


def test_few_abstracts_are_no_reason():
    assert objection(signals(8, reviews=4), signals(500, reviews=50), CONFIG) is None


def test_a_certain_but_small_shift_is_no_reason():
    assert objection(signals(100_000, first_labels=60_000), signals(100_000, first_labels=50_000), CONFIG) is None


def test_fewer_reviews_are_no_reason():
    assert objection(signals(500), signals(500, reviews=400), CONFIG) is None


def test_without_answers_of_the_previous_adapter_only_errors_count():
    assert objection(signals(500, reviews=500, first_labels=500), signals(0), CONFIG) is None
    assert "failed" in objection(signals(500, errors=100), signals(0), CONFIG)


def test_shares_of_different_first_labels_are_not_compared():
    before = Signals("neoplasm", "Neoplasm", 500, first_labels=500)
    assert objection(signals(500), before, CONFIG) is None


def test_a_trial_may_be_longer_than_what_is_remembered_after_it():
    engine, half = FakeEngine(), MOST_REMEMBERED
    guard = Guard(WorkerConfig(name="one", guard_abstracts=2 * half), engine.model)
    guard.switched(SimpleNamespace(update=SimpleNamespace(action="activate")), engine.model)
    batch = Inferred([Job(None, None, None, engine)], None, 0, 0)
    sound, failed = object(), Refused(None, b"", b"", "inference_error")
    for one in [sound] * half + [failed] * half:
        guard.observe(batch, [one])
    [(_, reason)] = [guard.objections.get_nowait()]
    assert f"{half} of {2 * half} (50%) failed" in reason


def test_an_adapter_like_the_previous_one_is_never_found_at_fault():
    """Tries a thousand adapters with equal shares, each examined as often as a trial examines one."""
    chance = random.Random(1)
    before = signals(200, reviews=30, first_labels=90)
    for _ in range(1000):
        own = signals(0)
        for abstracts in range(1, 501):
            own.abstracts = abstracts
            own.reviews += chance.random() < 0.15
            own.first_labels += chance.random() < 0.45
            if abstracts in (FIRST_LOOK, 64, 128, 256, 500):
                assert objection(own, before, CONFIG) is None
