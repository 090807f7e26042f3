"""How good the answers are: accuracy and F1 with 95 % intervals, and calibration.

Intervals are percentile bootstraps over the abstracts (Efron 1979, https://doi.org/10.1214/aos/1176344552). The
calibration error is ECE with 15 bins of equal width (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..consumer.engine import Engine, LabelLogits
from ..consumer.engine.packing import classify_all
from ..consumer.engine.scoring import softmax
from ..schemas import Question
from .data import Labelled

RESAMPLES = 1_000
BINS = 15
FEW_LABELS = 5  # a question with no more labels has the F1 of each in tables and plots
_SEED = 20250402

Indices = NDArray[np.int64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2%} [{self.low:.2%}, {self.high:.2%}]"


class Figures(NamedTuple):
    """The figures of a confusion matrix; ``f1`` has only labels that occur or are answered."""

    accuracy: Measured
    macro_f1: Measured
    f1: dict[str, Measured]


@dataclass(frozen=True)
class QuestionMetrics:
    """All figures of one question; ``confusion[i][j]`` counts label i answered as label j."""

    question: str
    labels: tuple[str, ...]
    n: int
    accuracy: Measured
    macro_f1: Measured
    f1: dict[str, Measured]
    confusion: list[list[int]]
    calibration_error: float

    def flat(self) -> dict[str, float]:
        """Figures by the names that gates and model cards use."""
        by_label = {f"f1_{label}": one.value for label, one in self.f1.items()}
        named = {"accuracy": self.accuracy.value, "macro_f1": self.macro_f1.value, **by_label}
        return named | {"calibration_error": self.calibration_error}

    def as_json(self) -> dict[str, Any]:
        """The figures as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Answers:
    """What one judge, a model or a baseline, answers to the records that have a label.

    Attributes:
        ids: of the records, in order.
        truth: the index of the right label, shape (records,).
        probabilities: shape (records, labels).
    """

    question: Question
    ids: tuple[str, ...]
    truth: Indices
    probabilities: Matrix

    @property
    def predicted(self) -> Indices:
        """The index of the most probable label, shape (records,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class Comparison:
    """One question, answered by the bare base (before), the adapter (after) and the baselines, on the same records."""

    before: Answers
    after: Answers
    baselines: dict[str, Answers]

    @cached_property
    def metrics(self) -> dict[str, QuestionMetrics]:
        """``before``, ``after`` and each baseline by its name, in that order."""
        return {name: measure(given) for name, given in self._judges.items()}

    @property
    def _judges(self) -> dict[str, Answers]:
        return {"before": self.before, "after": self.after, **self.baselines}


def logits_of(engine: Engine, records: Sequence[Labelled], batch_tokens: int = 8_192) -> list[LabelLogits]:
    """The engine's label logits for every record, in order, computed as in serving."""
    return classify_all(engine, [engine.encode(record.abstract) for record in records], batch_tokens)


def answers(
    question: Question,
    position: int,
    records: Sequence[Labelled],
    logits: Sequence[LabelLogits],
    temperature: float = 1.0,
) -> Answers:
    """The answers to one question, from the logits of the records that have a label for it."""
    kept = [(one, row[position]) for one, row in zip(records, logits, strict=True) if question.name in one.answers]
    return Answers(
        question=question,
        ids=tuple(one.id for one, _ in kept),
        truth=np.array([question.labels.index(one.answers[question.name]) for one, _ in kept], dtype=np.int64),
        probabilities=np.array([softmax(row, temperature) for _, row in kept]).reshape(len(kept), len(question.labels)),
    )


def measure(given: Answers) -> QuestionMetrics:
    """Every figure of one question; ``given`` holds at least one record."""
    labels, truth, predicted = given.question.labels, given.truth, given.predicted
    counted = confusion(truth, predicted, len(labels))
    accuracy, macro_f1, f1 = figures(labels, counted)
    return QuestionMetrics(
        question=given.question.name,
        labels=labels,
        n=len(truth),
        accuracy=accuracy,
        macro_f1=macro_f1,
        f1=f1,
        confusion=counted.astype(int).tolist(),
        calibration_error=calibration_error(given),
    )


def figures(labels: Sequence[str], counted: Matrix) -> Figures:
    """The figures of a confusion matrix, as from ``confusion``; for several runs, give the sum of their matrices."""
    samples = _resampled(counted)
    f1, sampled_f1 = f1_of_labels(counted), f1_of_labels(samples)
    return Figures(
        accuracy=_with_interval(_accuracy(counted), _accuracy(samples)),
        macro_f1=_with_interval(_macro_f1(counted), _macro_f1(samples)),
        f1={
            label: _with_interval(f1[index], sampled_f1[:, index])
            for index, label in enumerate(labels)
            if _occurrences(counted)[index]
        },
    )


def measured(engine: Engine, records: Sequence[Labelled]) -> dict[str, QuestionMetrics]:
    """The figures of a model as it is served, calibrated, for every question with labels in ``records``."""
    logits = logits_of(engine, records)
    found: dict[str, QuestionMetrics] = {}
    for position, question in enumerate(engine.model.task.questions):
        given = answers(question, position, records, logits, engine.model.calibration.get(question.name, 1.0))
        if len(given.truth):
            found[question.name] = measure(given)
    return found


def flat(metrics: Iterable[QuestionMetrics]) -> dict[str, float]:
    """``question.figure`` to its value: the names in gates and manifests."""
    return {f"{one.question}.{name}": value for one in metrics for name, value in one.flat().items()}


def table(metrics: Mapping[str, QuestionMetrics]) -> Iterator[list[str]]:
    """Rows of cells to be read, the heading first: a figure, before, after, the improvement, and every baseline.

    Args:
        metrics: as ``Comparison.metrics``.
    """
    before, after, *baselines = metrics.values()
    yield ["", "before", "after", "improvement", *list(metrics)[2:]]
    for name, second in _figures(after).items():
        first, *others = (_figures(one).get(name) for one in (before, *baselines))
        gain = f"{100 * (second.value - first.value):+.2f}" if first else ""
        yield [name, str(first or ""), str(second), gain, *(str(one or "") for one in others)]
    first_error, second_error, *errors = (f"{one.calibration_error:.3f}" for one in metrics.values())
    yield ["Calibration error", first_error, second_error, "", *errors]


def _figures(metrics: QuestionMetrics) -> dict[str, Measured]:
    by_label = {f"F1 {label}": one for label, one in metrics.f1.items()} if len(metrics.labels) <= FEW_LABELS else {}
    return {"Accuracy": metrics.accuracy, **by_label, "Macro-F1": metrics.macro_f1}


def calibration_error(given: Answers) -> float:
    """The expected calibration error: the mean gap between confidence and accuracy over bins, weighted by size."""
    return float(sum(share * abs(accuracy - confidence) for share, confidence, accuracy in reliability(given)))


def reliability(given: Answers) -> list[tuple[float, float, float]]:
    """For every bin that is not empty: its share of the records, its mean confidence, its accuracy."""
    confidence = given.probabilities.max(axis=1)
    right = given.predicted == given.truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        (float(inside.mean()), float(confidence[inside].mean()), float(right[inside].mean()))
        for inside in (bins == number for number in range(BINS))
        if inside.any()
    ]


def confident_errors(given: Answers, most: int = 20) -> list[tuple[str, str, str, float]]:
    """The most confident errors: id, right label, answer, confidence."""
    labels, predicted, confidence = given.question.labels, given.predicted, given.probabilities.max(axis=1)
    wrong = [row for row in np.argsort(-confidence) if predicted[row] != given.truth[row]][:most]
    return [(given.ids[r], labels[given.truth[r]], labels[predicted[r]], float(confidence[r])) for r in wrong]


def confusion(truth: Indices, predicted: Indices, labels: int) -> Matrix:
    """Counts of right label (row) and answer (column), shape (labels, labels)."""
    counts = np.bincount(truth * labels + predicted, minlength=labels * labels)
    return counts.reshape(labels, labels).astype(np.float64)


def f1_of_labels(counts: Matrix) -> Matrix:
    """F1 of every label; 0 for a label that neither occurs nor is answered.

    Args:
        counts: one or more confusion matrices, shape (..., labels, labels).

    Returns:
        Shape (..., labels).
    """
    both = _occurrences(counts)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    found: Matrix = np.divide(2 * right, both, out=np.zeros_like(both), where=both > 0)
    return found


def _macro_f1(counts: Matrix) -> Matrix:
    """The mean F1 of the labels that occur or are answered in the sample itself.

    A sample of few records lacks some labels. Counted as 0, they would pull the interval below the value.
    """
    return np.asarray(f1_of_labels(counts).sum(axis=-1) / (_occurrences(counts) > 0).sum(axis=-1))


def _accuracy(counts: Matrix) -> Matrix:
    return np.asarray(np.trace(counts, axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1)))


def _occurrences(counts: Matrix) -> Matrix:
    """How often each label occurs plus how often it is answered."""
    return np.asarray(counts.sum(axis=-2) + counts.sum(axis=-1))


def _with_interval(value: Matrix, sampled: Matrix) -> Measured:
    low, high = np.percentile(sampled, [2.5, 97.5])
    return Measured(float(value), float(low), float(high))


def _resampled(counted: Matrix) -> Matrix:
    """The confusion matrices of ``RESAMPLES`` bootstrap samples. To sample records is to sample cells of the matrix."""
    cells = counted.ravel()
    drawn = np.random.default_rng(_SEED).multinomial(int(cells.sum()), cells / cells.sum(), size=RESAMPLES)
    return drawn.reshape(RESAMPLES, *counted.shape).astype(np.float64)
