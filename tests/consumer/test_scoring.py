"""From logits to answers."""

import math

import pytest
from abstream.consumer.engine import ServedModel
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.engine.scoring import answer, score, score_batch, softmax
from abstream.schemas import ONCOLOGY, Condition, Question, Task
from hypothesis import given
from hypothesis import strategies as st

TYPES = (0.0,) * 19 + (3.0,)


def logits():
    """Batches of logits, some of them not finite."""
    numbers = st.floats(-30, 30) | st.sampled_from([math.nan, math.inf])
    rows = [st.tuples(*[numbers] * len(question.labels)) for question in ONCOLOGY.questions]
    return st.lists(st.tuples(*rows), min_size=1, max_size=40)


def served(**changes) -> ServedModel:
    return ServedModel(receipt=FakeEngine().model.receipt, task=ONCOLOGY, **changes)


def test_probabilities_sum_to_one_and_follow_the_logits():
    probabilities = softmax([2.0, 1.0, -1000.0])
    assert math.isclose(sum(probabilities), 1)
    assert probabilities[0] / probabilities[1] == pytest.approx(math.e)
    assert softmax([1_000.0, 0.0, -1_000.0]) == [1, 0, 0], "no exponential overflows"


def test_a_temperature_above_one_lowers_confidence_and_changes_no_label():
    answers, _ = answer(served(), ((2.0, 0.0), TYPES))
    calibrated, _ = answer(served(calibration={"cancer": 4.0}), ((2.0, 0.0), TYPES))
    assert calibrated["cancer"].label == answers["cancer"].label == "Cancer"
    assert calibrated["cancer"].confidence == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_an_answer_below_its_threshold_goes_to_review():
    model = served(thresholds={"cancer": 0.9})
    _, sure = answer(model, ((5.0, 0.0), TYPES))
    _, unsure = answer(model, ((1.0, 0.0), TYPES))
    assert (sure.required, sure.reason) == (False, None)
    assert (unsure.required, unsure.reason) == (True, "low confidence: cancer")


def test_every_answer_below_its_threshold_is_named_for_the_review():
    model = served(thresholds={"cancer": 0.9, "cancer_type": 0.9})
    _, review = answer(model, ((1.0, 0.0), TYPES))
    assert review.reason == "low confidence: cancer, cancer_type"


def test_a_question_that_is_not_asked_has_no_answer():
    answers, _ = answer(served(), ((0.0, 1.0), TYPES))
    assert list(answers) == ["cancer"]
    answers, _ = answer(served(), ((1.0, 0.0), TYPES))
    assert answers["cancer_type"].label == "other"


def test_a_question_after_one_that_is_not_asked_is_not_asked_either():
    """Even if its condition names the first label."""
    asked = [("trial", None), ("drug", "trial"), ("dose", "drug")]
    questions = [
        Question(
            name=name,
            text=f"{name}?",
            labels=("yes", "no"),
            asked_if=Condition(question=before, label="yes") if before else None,
        )
        for name, before in asked
    ]
    model = ServedModel(receipt=FakeEngine().model.receipt, task=Task(name="trials", questions=tuple(questions)))
    yes, no = (1.0, 0.0), (0.0, 1.0)

    batch = [(yes, yes, yes), (no, yes, yes), (yes, no, yes)]

    assert [list(answers) for answers, _ in score_batch(model, batch)] == [
        ["trial", "drug", "dose"],
        ["trial"],
        ["trial", "drug"],
    ]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_an_error(broken):
    with pytest.raises(ArithmeticError, match="not a finite number"):
        softmax([broken, 1.0])
    with pytest.raises(ArithmeticError, match="not a finite number"):
        score(served(), ((1.0, broken), TYPES))


@pytest.mark.parametrize("batch", [[(3, 20)], [(1, 20)], [(3, 20), (1, 20)], [(2, 21)]])
def test_logits_that_do_not_fit_the_labels_are_an_error(batch):
    """They are never cut, nor shared out among the abstracts of a batch."""
    with pytest.raises(ValueError, match="shape"):
        score_batch(served(), [tuple((1.0,) + (0.0,) * (length - 1) for length in lengths) for lengths in batch])


@given(logits())
def test_a_score_does_not_depend_on_the_other_abstracts_of_its_batch(batch):
    """The scores are equal to the last bit, and where one abstract has a non-finite logit, it alone has no answer."""
    model = served(calibration={"cancer": 1.7}, thresholds={"cancer": 0.9, "cancer_type": 0.9})
    assert score_batch(model, batch) == [score_batch(model, [one])[0] for one in batch]
