"""Golden probes: an adapter is served only if it answers them as it did when it was released."""

from collections.abc import Iterator, Sequence

from ...schemas import Abstract, AdapterRefused, Task
from ...schemas.artifacts import ProbabilitiesByQuestion, Probe
from ...schemas.events import Probes
from ..engine import Engine, LabelLogits
from ..engine.breaks import take_a_break
from ..engine.scoring import softmax

TOLERANCE = 1e-3  # of a probability: machines differ in the order of additions
# Eight bits of mantissa through all layers; with four or fewer, unsure answers may flip as well.
ROUNDED = {"bfloat16": 6e-2, "fp8": 0.2, "int8": 0.2}
RECORDED_TOLERANCE = 1e-3  # between two records of one machine; an adapter that changes less has no effect

Answers = dict[tuple[str, str], float]
"""Question and label to probability, at temperature 1."""


def check(engine: Engine, probes: Sequence[Probe]) -> Probes:
    """Compare the answers of ``engine`` to the probes with those recorded at the release.

    Raises:
        AdapterRefused: it answers differently, or a probe does not fit the task.
    """
    given = [_answers(engine, probe) for probe in probes]
    expected = [_by_label(probe.probabilities) for probe in probes]
    furthest = _furthest(given, expected)
    dtype = engine.model.receipt.dtype
    tolerance = ROUNDED.get(dtype, TOLERANCE)
    if furthest > tolerance:
        raise AdapterRefused(
            f"the answers to the golden probes differ from those at the release: by {furthest:.2g} in a probability, "
            f"{tolerance:g} is allowed in {dtype}"
        )
    _differ_from_bare(given, expected, probes)
    return Probes(n=len(probes), max_abs_diff=furthest)


def _differ_from_bare(given: Sequence[Answers], expected: Sequence[Answers], probes: Sequence[Probe]) -> None:
    """Detect that the bare base is served, even if the tolerance is wider than what the adapter changes.

    Both records were made on one machine in float32, so that rounding does not explain a difference between them.
    """
    if not probes or any(probe.bare is None for probe in probes):
        return
    bare = [_by_label(probe.bare or {}) for probe in probes]
    if _furthest(expected, bare) <= RECORDED_TOLERANCE:
        raise AdapterRefused("the bare base answers the golden probes alike: the adapter has no effect")
    if _mean(given, bare) <= _mean(given, expected):
        raise AdapterRefused(
            "the golden probes' answers are nearer to the bare base's than to the release's: the weights have no effect"
        )


def _answers(engine: Engine, probe: Probe) -> Answers:
    """The raw probabilities of all labels of all questions, asked or not, from ``engine``."""
    take_a_break()
    abstract = Abstract.parse({"title": probe.title, "abstract": probe.abstract})
    return _probabilities(engine.model.task, engine.classify([engine.encode(abstract)]).logits[0])


def _by_label(recorded: ProbabilitiesByQuestion) -> Answers:
    return {(name, label): value for name, row in recorded.items() for label, value in row.items()}


def _furthest(some: Sequence[Answers], others: Sequence[Answers]) -> float:
    return max(_differences(some, others), default=0.0)


def _mean(some: Sequence[Answers], others: Sequence[Answers]) -> float:
    differences = list(_differences(some, others))
    return sum(differences) / len(differences)


def _differences(some: Sequence[Answers], others: Sequence[Answers]) -> Iterator[float]:
    for one, other in zip(some, others, strict=True):
        if one.keys() != other.keys():
            raise AdapterRefused("a golden probe does not answer the task's questions with the task's labels")
        yield from (abs(one[key] - other[key]) for key in one)


def _probabilities(task: Task, logits: LabelLogits) -> Answers:
    try:
        rows = [softmax(row) for row in logits]
    except ArithmeticError as error:
        raise AdapterRefused(f"a golden probe has no answer: {error}") from error
    return {
        (question.name, label): value
        for question, row in zip(task.questions, rows, strict=True)
        for label, value in zip(question.labels, row, strict=True)
    }
