"""How an adapter answers its validation abstracts in service, for live answers to be compared with."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from ..consumer.engine import LabelLogits, ServedModel
from ..consumer.engine.scoring import score
from ..schemas.expected import Bins, Expected

FEWEST = 50  # answers to a question; fewer say nothing about shares


def expected(model: ServedModel, logits: Sequence[LabelLogits], tokens: Sequence[int]) -> Expected | None:
    """The distribution of the calibrated ``model``'s answers, counted where a question is asked.

    None for fewer than ``FEWEST`` abstracts; questions with fewer answers are left out.

    Args:
        model: as it will be served.
        logits: of the validation abstracts.
        tokens: the lengths of their prompts.
    """
    if len(tokens) < FEWEST:
        return None
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    confidences: dict[str, list[float]] = defaultdict(list)
    for row in logits:
        answers, _ = score(model, row)
        for question, answer in answers.items():
            labels[question][answer["label"]] += 1
            confidences[question].append(answer["confidence"])
    enough = [question for question, values in confidences.items() if len(values) >= FEWEST]
    return Expected(
        labels={question: dict(sorted(labels[question].items())) for question in enough},
        confidence={question: Bins.of(confidences[question]) for question in enough},
        tokens=Bins.of(tokens),
    )
