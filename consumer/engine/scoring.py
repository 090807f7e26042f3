"""From the logits of label tokens to calibrated answers. Pure: no torch, no I/O."""

import math
from collections.abc import Sequence

from ...schemas import Answer
from ...schemas.events import Review
from . import LabelLogits, ServedModel

_NO_REVIEW = Review(required=False)


def answer(model: ServedModel, logits: LabelLogits) -> tuple[dict[str, Answer], Review]:
    """The answers of every question that is asked, and whether a person should look.

    Args:
        logits: one row per question of the task, asked or not.

    Raises:
        ArithmeticError: a logit is not a finite number.
    """
    answers: dict[str, Answer] = {}
    labels: dict[str, str] = {}
    unsure: list[str] = []
    rows = {question.name: row for question, row in zip(model.task.questions, logits, strict=True)}
    for question in model.task.asked(labels):
        scaled = softmax(rows[question.name], model.calibration.get(question.name, 1.0))
        probabilities = dict(zip(question.labels, scaled, strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        labels[question.name] = label
        answers[question.name] = Answer(label=label, confidence=probabilities[label], probabilities=probabilities)
        if probabilities[label] < model.thresholds.get(question.name, 0.0):
            unsure.append(question.name)
    return answers, Review(required=True, reason=f"low confidence: {', '.join(unsure)}") if unsure else _NO_REVIEW


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Probabilities of ``logits / temperature`` (Guo et al. 2017, https://arxiv.org/abs/1706.04599), in float64.

    Raises:
        ArithmeticError: a logit is not a finite number.
    """
    if not all(map(math.isfinite, logits)):
        raise ArithmeticError("the model gave a logit that is not a finite number")
    top = max(logits)
    weights = [math.exp((logit - top) / temperature) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]
