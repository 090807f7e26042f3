"""From the logits of label tokens to calibrated answers. Pure: no torch, no I/O."""

import math
from collections.abc import Sequence
from typing import TypedDict

from ...schemas import Answer
from ...schemas.events import Review
from . import LabelLogits, ServedModel

_NO_REVIEW = Review(required=False)


class Scored(TypedDict):
    """The fields of an ``Answer``. One that was computed here is sound, and needs no model to validate it."""

    label: str
    confidence: float
    probabilities: dict[str, float]


def answer(model: ServedModel, logits: LabelLogits) -> tuple[dict[str, Answer], Review]:
    """As ``score``, with the answers as models."""
    scored, review = score(model, logits)
    return {question: Answer(**one) for question, one in scored.items()}, review


def score(model: ServedModel, logits: LabelLogits) -> tuple[dict[str, Scored], Review]:
    """The answers of every question that is asked, and whether a person should look.

    Args:
        logits: one row per question of the task, asked or not.

    Raises:
        ArithmeticError: a logit is not a finite number.
    """
    scored: dict[str, Scored] = {}
    labels: dict[str, str] = {}
    unsure: list[str] = []
    rows = {question.name: row for question, row in zip(model.task.questions, logits, strict=True)}
    for question in model.task.asked(labels):
        name = question.name
        probabilities = softmax(rows[name], model.calibration.get(name, 1.0))
        confidence = max(probabilities)
        labels[name] = label = question.labels[probabilities.index(confidence)]
        by_label = dict(zip(question.labels, probabilities, strict=True))
        scored[name] = {"label": label, "confidence": confidence, "probabilities": by_label}
        if confidence < model.thresholds.get(name, 0.0):
            unsure.append(name)
    return scored, Review(required=True, reason=f"low confidence: {', '.join(unsure)}") if unsure else _NO_REVIEW


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Probabilities of ``logits / temperature`` (Guo et al. 2017, https://arxiv.org/abs/1706.04599), in float64.

    Raises:
        ArithmeticError: a logit is not a finite number.
    """
    if not math.isfinite(sum(logits)):  # an infinite one, or one that is no number, makes the sum so
        raise ArithmeticError("the model gave a logit that is not a finite number")
    top = max(logits)
    weights = [math.exp((logit - top) / temperature) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]
