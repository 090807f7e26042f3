"""From label logits to calibrated answers. Pure: no torch, no I/O."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ...schemas import Answer
from ...schemas.events import Review
from . import LabelLogits, ServedModel

_NO_REVIEW = Review(required=False)
NOT_FINITE = "the model gave a logit that is not a finite number"


class Scored(TypedDict):
    """The fields of an ``Answer``, which need no validation because they were computed here."""

    label: str
    confidence: float
    probabilities: dict[str, float]


Scores = tuple[dict[str, Scored], Review]
"""The answers to all questions that are asked, and whether a person should review them."""


def answer(model: ServedModel, logits: LabelLogits) -> tuple[dict[str, Answer], Review]:
    """As ``score``, with the answers as pydantic models."""
    scored, review = score(model, logits)
    return {question: Answer(**one) for question, one in scored.items()}, review


def score(model: ServedModel, logits: LabelLogits) -> Scores:
    """The answers to one abstract.

    Args:
        logits: one row per question of the task, asked or not.

    Raises:
        ArithmeticError: a logit is not a finite number.
    """
    (scores,) = score_batch(model, [logits])
    if scores is None:
        raise ArithmeticError(NOT_FINITE)
    return scores


def score_batch(model: ServedModel, logits: Sequence[LabelLogits]) -> list[Scores | None]:
    """As ``score`` for many abstracts at once, the same to the bit; None where a logit is not a finite number."""
    answers: list[dict[str, Scored]] = [{} for _ in logits]
    unsure: dict[int, list[str]] = defaultdict(list)
    broken: set[int] = set()
    chosen: dict[str, NDArray[np.intp]] = {}  # by question, the position of each abstract's label, or -1
    for position, (question, labels, temperature, threshold, asked_if) in enumerate(model.ladder):
        asked = np.flatnonzero(chosen[asked_if[0]] == asked_if[1]) if asked_if else np.arange(len(logits))
        rows = np.array([logits[at][position] for at in asked.tolist()], dtype=float).reshape(len(asked), len(labels))
        sound = np.isfinite(rows).all(axis=1)
        rows[~sound] = 0.0
        broken.update(asked[~sound].tolist())
        probabilities = _softmax(rows, temperature)
        best, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        chosen[question] = np.full(len(logits), -1)
        chosen[question][asked] = best
        columns = (asked.tolist(), best.tolist(), confidence.tolist(), probabilities.tolist())
        for at, label, sure, row in zip(*columns, strict=True):
            answers[at][question] = {
                "label": labels[label],
                "confidence": sure,
                "probabilities": dict(zip(labels, row)),  # noqa: B905 - ``strict`` takes half as long again
            }
        for at in asked[confidence < threshold].tolist():
            unsure[at].append(question)
    return [
        None if at in broken else (answered, _review(unsure[at]) if at in unsure else _NO_REVIEW)
        for at, answered in enumerate(answers)
    ]


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Probabilities of ``logits / temperature`` (Guo et al. 2017, https://arxiv.org/abs/1706.04599), in float64.

    Raises:
        ArithmeticError: a logit is not a finite number.
    """
    row = np.array(logits, dtype=float)
    if not np.isfinite(row).all():
        raise ArithmeticError(NOT_FINITE)
    probabilities: list[float] = _softmax(row, temperature).tolist()
    return probabilities


def _softmax(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Softmax over the last axis."""
    weights = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    probabilities: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return probabilities


def _review(unsure: list[str]) -> Review:
    return Review(required=True, reason=f"low confidence: {', '.join(unsure)}")
