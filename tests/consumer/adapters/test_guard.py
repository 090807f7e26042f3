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
ANSWERED, FAILED = object(), Refused(None, b"", b"", "inference_error")


def switched(guard: Guard, engine: FakeEngine, action: str) -> None:
    guard.switched(SimpleNamespace(update=SimpleNamespace(action=action)), engine.model)


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
    switched(guard, engine, "activate")
    batch = Inferred([Job(None, None, None, engine)], None, 0, 0)
    for one in [ANSWERED] * half + [FAILED] * half:
        guard.observe(batch, [one])
    [(_, reason)] = [guard.objections.get_nowait()]
    assert f"{half} of {2 * half} (50%) failed" in reason


def test_long_after_its_trial_an_adapter_is_remembered_by_its_newer_answers():
    """It failed on all abstracts once, which is no excuse for the next one."""
    engine = FakeEngine()
    guard, batch = Guard(CONFIG, engine.model), Inferred([Job(None, None, None, engine)], None, 0, 0)
    for one in [FAILED] * 2 * MOST_REMEMBERED + [ANSWERED] * 20 * MOST_REMEMBERED:
        guard.observe(batch, [one])
    switched(guard, engine, "activate")
    guard.observe(batch, [FAILED] * 40)
    [(_, reason)] = [guard.objections.get_nowait()]
    assert "40 of 40 (100%) failed, with the adapter before it" in reason
    of_before = int(reason.rpartition(" of ")[2].partition(" ")[0])
    assert "(0%)" in reason
    assert MOST_REMEMBERED / 2 <= of_before <= MOST_REMEMBERED


@pytest.mark.parametrize("abstracts", [8, 100], ids=["shorter than the first look", "longer"])
def test_a_trial_ends_after_as_many_abstracts_as_are_configured(abstracts):
    engine = FakeEngine()
    batch = Inferred([Job(None, None, None, engine)], None, 0, 0)
    for answers, objections in (([FAILED] * abstracts, 1), ([ANSWERED] * abstracts + [FAILED] * 1_000, 0)):
        guard = Guard(WorkerConfig(name="one", guard_abstracts=abstracts), engine.model)
        switched(guard, engine, "activate")
        for one in answers:
            guard.observe(batch, [one])
        assert guard.objections.qsize() == objections


@pytest.mark.parametrize(("action", "objections"), [("activate", 1), ("rollback", 0)])
def test_an_adapter_that_was_rolled_back_to_is_not_watched(action, objections):
    """Otherwise two adapters could take turns for ever."""
    engine = FakeEngine()
    guard = Guard(CONFIG, engine.model)
    switched(guard, engine, action)
    for _ in range(2):
        guard.observe(Inferred([Job(None, None, None, engine)], None, 0, 0), [FAILED] * 40)
    assert guard.objections.qsize() == objections


def test_answers_that_the_adapter_before_gave_late_are_not_counted(make_adapter):
    before, engine = FakeEngine(), FakeEngine(adapter=make_adapter())
    guard = Guard(CONFIG, before.model)
    switched(guard, engine, "activate")
    guard.observe(Inferred([Job(None, None, None, before)], None, 0, 0), [FAILED] * 40)
    assert guard.objections.empty()


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
