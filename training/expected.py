"""How an adapter answers its validation abstracts in service: what live answers are held against."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from ..consumer.engine import LabelLogits, ServedModel
from ..consumer.engine.scoring import score
from ..schemas.expected import Bins, Expected

FEWEST = 50  # answers of a question: fewer tell nothing of a share


def expected(model: ServedModel, logits: Sequence[LabelLogits], tokens: Sequence[int]) -> Expected | None:
    """What the calibrated ``model`` answers, each question where it is asked; None of too few abstracts.

    Args:
        model: as it will be served.
        logits: of the validation abstracts.
        tokens: how long their prompts are.
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
