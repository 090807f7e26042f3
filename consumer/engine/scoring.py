"""From the logits of label tokens to calibrated answers. Pure: no torch, no I/O."""

from collections.abc import Sequence
from math import exp, isfinite
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
    unsure: list[str] = []
    for (question, labels, temperature, threshold, asked_if), row in zip(model.ladder, logits, strict=True):
        if asked_if and (asked_if[0] not in scored or scored[asked_if[0]]["label"] != asked_if[1]):
            continue
        probabilities = softmax(row, temperature)
        confidence = max(probabilities)
        scored[question] = {
            "label": labels[probabilities.index(confidence)],
            "confidence": confidence,
            "probabilities": dict(zip(labels, probabilities, strict=True)),
        }
        if confidence < threshold:
            unsure.append(question)
    return scored, Review(required=True, reason=f"low confidence: {', '.join(unsure)}") if unsure else _NO_REVIEW


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Probabilities of ``logits / temperature`` (Guo et al. 2017, https://arxiv.org/abs/1706.04599), in float64.

    Raises:
        ArithmeticError: a logit is not a finite number.
    """
    if not isfinite(sum(logits)):  # an infinite one, or one that is no number, makes the sum so
        raise ArithmeticError("the model gave a logit that is not a finite number")
    top = max(logits)
    weights = [exp((logit - top) / temperature) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]
