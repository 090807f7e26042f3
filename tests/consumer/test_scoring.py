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
    """Of batches that hold what is sound and what is not."""
    numbers = st.floats(-30, 30) | st.sampled_from([math.nan, math.inf])
    rows = [st.tuples(*[numbers] * len(question.labels)) for question in ONCOLOGY.questions]
    return st.lists(st.tuples(*rows), min_size=1, max_size=40)


def served(**changes) -> ServedModel:
    return ServedModel(receipt=FakeEngine().model.receipt, task=ONCOLOGY, **changes)


def test_probabilities_sum_to_one_and_follow_the_logits():
    probabilities = softmax([2.0, 1.0, -1000.0])
    assert math.isclose(sum(probabilities), 1)
    assert probabilities[0] / probabilities[1] == pytest.approx(math.e)


def test_a_temperature_over_one_makes_less_sure_and_changes_no_label():
    answers, _ = answer(served(), ((2.0, 0.0), TYPES))
    calibrated, _ = answer(served(calibration={"cancer": 4.0}), ((2.0, 0.0), TYPES))
    assert calibrated["cancer"].label == answers["cancer"].label == "Cancer"
    assert calibrated["cancer"].confidence == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_under_its_threshold_an_answer_goes_to_review():
    model = served(thresholds={"cancer": 0.9})
    _, sure = answer(model, ((5.0, 0.0), TYPES))
    _, unsure = answer(model, ((1.0, 0.0), TYPES))
    assert (sure.required, sure.reason) == (False, None)
    assert (unsure.required, unsure.reason) == (True, "low confidence: cancer")


def test_what_is_not_asked_is_not_answered():
    answers, _ = answer(served(), ((0.0, 1.0), TYPES))
    assert list(answers) == ["cancer"]
    answers, _ = answer(served(), ((1.0, 0.0), TYPES))
    assert answers["cancer_type"].label == "other"


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_no_number_is_an_error_not_an_answer(broken):
    with pytest.raises(ArithmeticError, match="not a finite number"):
        softmax([broken, 1.0])
    with pytest.raises(ArithmeticError, match="not a finite number"):
        score(served(), ((1.0, broken), TYPES))


@given(logits())
def test_what_is_scored_beside_an_abstract_changes_nothing(batch):
    """Not to the bit; where one has a logit that is no number, it alone has no answer."""
    model = served(calibration={"cancer": 1.7}, thresholds={"cancer": 0.9, "cancer_type": 0.9})
    assert score_batch(model, batch) == [score_batch(model, [one])[0] for one in batch]
