"""From logits to answers."""

import math

import pytest
from abstream.consumer.engine import ServedModel
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.engine.scoring import answer, score, score_batch, softmax
from abstream.schemas import ONCOLOGY
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


def test_a_question_that_is_not_asked_has_no_answer():
    answers, _ = answer(served(), ((0.0, 1.0), TYPES))
    assert list(answers) == ["cancer"]
    answers, _ = answer(served(), ((1.0, 0.0), TYPES))
    assert answers["cancer_type"].label == "other"


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_an_error(broken):
    with pytest.raises(ArithmeticError, match="not a finite number"):
        softmax([broken, 1.0])
    with pytest.raises(ArithmeticError, match="not a finite number"):
        score(served(), ((1.0, broken), TYPES))


@given(logits())
def test_a_score_does_not_depend_on_the_other_abstracts_of_its_batch(batch):
    """The scores are equal to the last bit, and where one abstract has a non-finite logit, it alone has no answer."""
    model = served(calibration={"cancer": 1.7}, thresholds={"cancer": 0.9, "cancer_type": 0.9})
    assert score_batch(model, batch) == [score_batch(model, [one])[0] for one in batch]
