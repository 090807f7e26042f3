"""The figures are those of scikit-learn, and their intervals say how reliable they are."""

import numpy as np
import pytest
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.schemas import Question
from abstream.training.evaluate import (
    BINS,
    Answers,
    Comparison,
    answers,
    calibration_error,
    confident_errors,
    flat,
    logits_of,
    measure,
    measured,
    reliability,
)
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from .conftest import TASK, records_of


def given(n: int, labels: int, skill: float, seed: int) -> Answers:
    """Random answers, of which more are right with more ``skill``."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(labels, size=n)
    probabilities = rng.dirichlet(np.ones(labels), size=n)
    probabilities[np.arange(n), truth] += skill
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    question = Question(name="q", text="?", labels=tuple(f"label {index}" for index in range(labels)))
    return Answers(question, tuple(map(str, range(n))), truth, probabilities)


CASES = [given(n, labels, skill, 7) for n in (1, 20, 300) for labels in (2, 20) for skill in (0.1, 0.5, 5.0)]


@pytest.mark.parametrize("case", CASES)
def test_figures_are_those_of_scikit_learn(case):
    figures = measure(case)
    every = range(len(case.question.labels))

    assert figures.n == len(case.truth)
    assert figures.accuracy.value == pytest.approx(accuracy_score(case.truth, case.predicted))
    assert figures.macro_f1.value == pytest.approx(f1_score(case.truth, case.predicted, average="macro"))
    assert figures.confusion == confusion_matrix(case.truth, case.predicted, labels=every).tolist()
    by_label = f1_score(case.truth, case.predicted, average=None, labels=every, zero_division=0)
    for label, one in figures.f1.items():
        assert one.value == pytest.approx(by_label[case.question.labels.index(label)])


@pytest.mark.parametrize("case", CASES)
def test_an_interval_contains_its_value(case):
    """Even if a sample lacks some of the twenty labels, which do not count as failures."""
    figures = measure(case)
    for one in (figures.accuracy, figures.macro_f1, *figures.f1.values()):
        assert 0 <= one.low <= one.value + 1e-12
        assert one.value - 1e-12 <= one.high <= 1 + 1e-12


def test_an_interval_shrinks_with_the_number_of_records():
    widths = [
        figures.accuracy.high - figures.accuracy.low
        for n in (30, 300, 3_000)
        for figures in [measure(given(n, 2, 0.5, 1))]
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 3 * widths[2]


def test_the_interval_of_an_accuracy_is_about_that_of_the_binomial():
    case = given(400, 2, 0.5, 3)
    share = measure(case).accuracy
    deviation = (share.value * (1 - share.value) / 400) ** 0.5
    assert share.high - share.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_the_same_numbers_give_the_same_intervals():
    assert measure(given(50, 3, 0.5, 1)) == measure(given(50, 3, 0.5, 1))


def test_a_label_that_neither_occurs_nor_is_answered_has_no_f1():
    case = Answers(given(1, 3, 0, 0).question, ("1", "2"), np.array([0, 0]), np.array([[0.9, 0.1, 0], [0.2, 0.8, 0]]))
    assert set(measure(case).f1) == {"label 0", "label 1"}


@pytest.mark.parametrize("case", CASES)
def test_the_calibration_error_is_that_of_its_definition(case):
    """The mean gap between confidence and accuracy in BINS bins of equal width, weighted by their shares."""
    confidence, right = case.probabilities.max(axis=1), case.predicted == case.truth
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    bins = np.digitize(confidence, edges)
    expected = sum(
        abs(right[bins == each].mean() - confidence[bins == each].mean()) * (bins == each).mean() for each in set(bins)
    )
    assert calibration_error(case) == pytest.approx(expected)
    assert measure(case).calibration_error == calibration_error(case)


@pytest.mark.parametrize("case", CASES)
def test_the_bins_of_the_reliability_hold_every_record(case):
    assert sum(share for share, _, _ in reliability(case)) == pytest.approx(1)


def test_full_confidence_is_in_the_last_bin():
    case = Answers(given(1, 2, 0, 0).question, ("1",), np.array([0]), np.array([[1.0, 0.0]]))
    assert reliability(case) == [(1.0, 1.0, 1.0)]


def test_confident_errors_come_surest_first():
    case = given(50, 3, 0.2, 5)
    errors = confident_errors(case, most=5)

    assert len(errors) == 5
    assert [error[3] for error in errors] == sorted((error[3] for error in errors), reverse=True)
    wrong = case.probabilities.max(axis=1)[case.predicted != case.truth]
    assert errors[0][3] == wrong.max()
    assert all(right != answer for _, right, answer, _ in errors)


def test_figures_have_the_names_of_gates():
    named = flat([measure(given(20, 2, 0.5, 1))])
    assert set(named) == {"q.accuracy", "q.macro_f1", "q.f1_label 0", "q.f1_label 1", "q.calibration_error"}


@pytest.fixture(scope="module")
def engine(tiny):
    return Phi3Engine(EngineConfig(model=str(tiny.path), device="cpu"), task=TASK)


def test_logits_come_in_the_order_of_the_records(engine):
    """However they are packed into batches."""
    records = records_of(10)
    one_by_one = [engine.classify([engine.encode(one.abstract)]).logits[0] for one in records]
    together = logits_of(engine, records, batch_tokens=250)

    for alone, packed in zip(one_by_one, together, strict=True):
        assert alone[0] == pytest.approx(packed[0], abs=1e-5)


def test_a_question_is_measured_on_the_records_that_have_its_label(engine):
    records = records_of(12)
    found = measured(engine, records)

    assert {name: one.n for name, one in found.items()} == {"trial": 12, "arm": 3}
    assert set(measured(engine, [one for one in records if "arm" not in one.answers])) == {"trial"}


def test_a_temperature_changes_how_sure_an_answer_is_and_not_which(engine):
    records = records_of(6)
    sharp, flattened = (answers(TASK.questions[0], 0, records, logits_of(engine, records), t) for t in (0.1, 10))

    assert sharp.predicted.tolist() == flattened.predicted.tolist()
    assert (sharp.probabilities.max(axis=1) > flattened.probabilities.max(axis=1)).all()


def test_a_comparison_measures_every_judge_on_the_same_records():
    before, after, baseline = (given(30, 2, skill, 1) for skill in (0.0, 1.0, 0.3))
    metrics = Comparison(before, after, {"majority": baseline}).metrics

    assert list(metrics) == ["before", "after", "majority"]
    assert metrics["after"].accuracy.value > metrics["before"].accuracy.value
