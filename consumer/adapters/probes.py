"""Golden probes: an adapter answers as it did when it was released, or it answers nobody."""

from collections.abc import Sequence

from ...schemas import Abstract, AdapterRefused, Task
from ...schemas.artifacts import Probe
from ...schemas.events import Probes
from ..engine import Engine, LabelLogits
from ..engine.scoring import softmax

TOLERANCE = 1e-3  # of a probability: machines differ in the order of additions
BFLOAT16_TOLERANCE = 6e-2  # its eight bits of precision, through all layers


def check(engine: Engine, probes: Sequence[Probe]) -> Probes:
    """Ask ``engine`` what the adapter was asked when it was released.

    Raises:
        AdapterRefused: it answers otherwise, or a probe does not fit the task.
    """
    furthest = max((_difference(engine, probe) for probe in probes), default=0.0)
    dtype = engine.model.receipt.dtype
    tolerance = BFLOAT16_TOLERANCE if dtype == "bfloat16" else TOLERANCE
    if furthest > tolerance:
        raise AdapterRefused(
            f"the golden probes are answered otherwise than at the release: a probability differs by {furthest:.2g}, "
            f"{tolerance:g} is allowed in {dtype}"
        )
    return Probes(n=len(probes), max_abs_diff=furthest)


def _difference(engine: Engine, probe: Probe) -> float:
    """The largest over all labels of all questions, asked or not, of raw probabilities."""
    abstract = Abstract.parse({"title": probe.title, "abstract": probe.abstract})
    given = _probabilities(engine.model.task, engine.classify([engine.encode(abstract)]).logits[0])
    expected = {(name, label): value for name, row in probe.probabilities.items() for label, value in row.items()}
    if given.keys() != expected.keys():
        raise AdapterRefused("a golden probe does not answer the task's questions with the task's labels")
    return max(abs(given[key] - expected[key]) for key in given)


def _probabilities(task: Task, logits: LabelLogits) -> dict[tuple[str, str], float]:
    """(question, label) -> probability at temperature 1."""
    try:
        rows = [softmax(row) for row in logits]
    except ArithmeticError as error:
        raise AdapterRefused(f"a golden probe has no answer: {error}") from error
    return {
        (question.name, label): value
        for question, row in zip(task.questions, rows, strict=True)
        for label, value in zip(question.labels, row, strict=True)
    }
