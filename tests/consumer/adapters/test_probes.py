"""An adapter must answer its probes as it did when it was released."""

import math
from dataclasses import replace

import pytest
from abstream.consumer.adapters.probes import check
from abstream.consumer.engine import Classified
from abstream.consumer.engine.fake import FakeEngine
from abstream.schemas import AdapterRefused, Malformed

from ...sealing import answered_probes


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def nudged(probe, by: float):
    """The same probe with one probability moved."""
    cancer = dict(probe.probabilities["cancer"])
    cancer["Cancer"] += by if cancer["Cancer"] < 0.5 else -by
    return probe.model_copy(update={"probabilities": {**probe.probabilities, "cancer": cancer}})


def in_bfloat16(engine: FakeEngine) -> FakeEngine:
    receipt = engine.model.receipt.model_copy(update={"dtype": "bfloat16"})
    engine.model = replace(engine.model, receipt=receipt)
    return engine


def test_the_same_answers_pass(engine):
    found = check(engine, answered_probes(engine))
    assert (found.n, found.max_abs_diff) == (2, 0)


def test_an_adapter_without_probes_reports_zero_probes(engine):
    assert check(engine, ()).n == 0


def test_a_difference_within_rounding_passes_and_is_reported(engine):
    [first, second] = answered_probes(engine)
    assert check(engine, [first, nudged(second, 0.0009)]).max_abs_diff == pytest.approx(0.0009)


def test_a_difference_beyond_rounding_is_refused(engine):
    [first, second] = answered_probes(engine)
    with pytest.raises(AdapterRefused, match=r"by 0\.0011 in a probability, 0\.001 is allowed in float64"):
        check(engine, [first, nudged(second, 0.0011)])


def test_the_tolerance_of_bfloat16_is_larger(engine):
    [first, _] = answered_probes(engine)
    in_bfloat16(engine)
    assert check(engine, [nudged(first, 0.05)]).max_abs_diff == pytest.approx(0.05)
    with pytest.raises(AdapterRefused, match="in bfloat16"):
        check(engine, [nudged(first, 0.07)])


def test_probes_of_another_task_are_refused(engine):
    [first, _] = answered_probes(engine)
    without = {name: row for name, row in first.probabilities.items() if name != "cancer_type"}
    with pytest.raises(AdapterRefused, match="does not answer the task's questions"):
        check(engine, [first.model_copy(update={"probabilities": without})])


def test_a_probe_without_text_is_refused(engine):
    [first, _] = answered_probes(engine)
    with pytest.raises(Malformed, match="both empty"):
        check(engine, [first.model_copy(update={"title": None, "abstract": ""})])


def test_an_answer_that_is_not_a_number_is_refused(engine):
    class Numberless(FakeEngine):
        def classify(self, batch):
            nothing = tuple((math.nan,) * len(question.labels) for question in self.model.task.questions)
            return Classified(self.model, [nothing] * len(batch))

    with pytest.raises(AdapterRefused, match="not a finite number"):
        check(Numberless(), answered_probes(engine))
