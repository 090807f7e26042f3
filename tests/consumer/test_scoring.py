"""From logits to answers."""

import math

import pytest
from abstream.consumer.engine import ServedModel
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.engine.scoring import answer, softmax
from abstream.schemas import ONCOLOGY

TYPES = (0.0,) * 19 + (3.0,)


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
