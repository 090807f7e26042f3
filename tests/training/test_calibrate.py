"""The temperature calibrates confidences; the threshold sends to review what must be reviewed, and no more."""

import numpy as np
import pytest
from abstream.schemas import Question
from abstream.training.calibrate import review_threshold, temperature
from abstream.training.evaluate import Answers, calibration_error

QUESTION = Question(name="q", text="?", labels=("yes", "no"))


def drawn(heat: float, n: int = 4_000, labels: int = 4, seed: int = 0) -> tuple[Answers, Answers]:
    """Overconfident answers, with logits ``heat`` times too large, and calibrated ones; the labels fit the latter."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, labels))

    def softmax(scaled: np.ndarray) -> np.ndarray:
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    honest = softmax(logits)
    truth = np.array([rng.choice(labels, p=row) for row in honest])
    question = Question(name="q", text="?", labels=tuple("abcdefgh"[:labels]))
    ids = tuple(map(str, range(n)))
    return Answers(question, ids, truth, softmax(logits * heat)), Answers(question, ids, truth, honest)


@pytest.mark.parametrize("heat", [0.3, 0.5, 1.0, 2.0, 5.0])
def test_the_temperature_is_found_by_which_the_logits_are_too_sharp(heat):
    given, _ = drawn(heat)
    assert temperature(given) == pytest.approx(heat, rel=0.1)


def test_a_temperature_makes_confidence_what_accuracy_is():
    too_sure, honest = drawn(3.0)
    assert calibration_error(too_sure) > 4 * calibration_error(honest)


def test_answers_without_a_doubt_still_have_a_temperature():
    given = Answers(QUESTION, ("1", "2"), np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert np.isfinite(temperature(given))


def answered(*rows: tuple[int, int, float]) -> Answers:
    """Answers from triples of right label, predicted label and confidence."""
    truth = np.array([right for right, _, _ in rows])
    probabilities = np.array([[sure, 1 - sure] if answer == 0 else [1 - sure, sure] for _, answer, sure in rows])
    return Answers(QUESTION, tuple(map(str, range(len(rows)))), truth, probabilities)


def recall_above(given: Answers, threshold: float) -> float:
    kept = (given.probabilities.max(axis=1) >= threshold) & (given.truth == 0)
    return float((given.predicted[kept] == 0).mean()) if kept.any() else 1.0


def test_nothing_is_flagged_where_nothing_needs_to_be():
    assert review_threshold(answered((0, 0, 0.51), (0, 0, 0.9), (1, 0, 0.99), (1, 1, 0.6)), 0.98) == 0.0


def test_a_missed_yes_goes_to_review_with_what_is_no_surer():
    given = answered((0, 0, 0.95), (0, 1, 0.6), (1, 1, 0.7), (1, 1, 0.55))
    assert review_threshold(given, 0.98) == 0.7


def test_some_may_be_missed_where_the_recall_allows_it():
    given = answered(*[(0, 0, 0.9)] * 49, (0, 1, 0.99))
    assert review_threshold(given, 0.98) == 0.0
    assert review_threshold(given, 0.99) == 1.0


def test_a_recall_that_is_just_reached_is_reached():
    """7 of 100 for a recall of 0.07: in floating point, 100 times that is a little more than 7."""
    given = answered(*[(0, 0, 0.8)] * 7, *[(0, 1, 0.8)] * 93)
    assert review_threshold(given, 0.07) == 0.0


def test_above_the_last_record_of_the_first_label_nothing_can_be_missed():
    assert review_threshold(answered((0, 1, 0.6), (1, 1, 0.9)), 0.98) == 0.9


def test_nearly_everything_goes_to_review_where_the_surest_answer_is_a_miss():
    assert review_threshold(answered((0, 0, 0.9), (0, 1, 0.99)), 0.98) == 1.0


@pytest.mark.parametrize("seed", range(30))
def test_the_threshold_reaches_the_recall_and_no_lower_one_does(seed):
    rng = np.random.default_rng(seed)
    n = 60
    truth = rng.integers(2, size=n)
    sure = rng.uniform(0.5, 1, size=n).round(2)
    wrong = rng.uniform(size=n) < 1.2 * (1 - sure)
    given = answered(*((t, int(t != w), s) for t, w, s in zip(truth, wrong, sure, strict=True)))

    threshold = review_threshold(given, 0.95)

    assert threshold == 1.0 or recall_above(given, threshold) >= 0.95
    lower = [each for each in (0.0, *given.probabilities.max(axis=1)) if each < threshold]
    assert all(recall_above(given, each) < 0.95 for each in lower)
