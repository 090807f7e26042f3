"""What is learned: at each slot, which label token comes. The same for the base model and for adapters."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ..consumer.engine import Tokens
from ..consumer.engine.packing import pack_by
from ..consumer.engine.tokens import PromptEncoder
from ..schemas import Abstract, Task

NOT_ASKED = -1
Probabilities = tuple[tuple[float, ...], ...]  # for each question, of each of its labels
TEMPERATURES = torch.logspace(-1, 1, 81)


@dataclass(frozen=True)
class Example:
    """A tokenized prompt and the index of the right label of each question; ``NOT_ASKED`` where there is none.

    ``taught``: for each question the probabilities of its labels, if a teacher answered too.
    """

    tokens: Tokens
    answers: tuple[int, ...]
    taught: Probabilities = field(default=(), kw_only=True)


E = TypeVar("E", bound=Example)


def example(encoder: PromptEncoder, task: Task, abstract: Abstract, answers: Mapping[str, str]) -> Example:
    """``answers`` maps questions to labels; a question that is missing contributes nothing to the loss."""
    chosen = tuple(
        question.labels.index(answers[question.name]) if question.name in answers else NOT_ASKED
        for question in task.questions
    )
    return Example(encoder.encode(abstract), chosen)


def batches(examples: Iterable[E], batch_tokens: int) -> Iterator[list[E]]:
    """Batches of like length, at most ``batch_tokens`` beyond the prompt's fixed beginning, padding included."""
    return pack_by(examples, lambda one: one.tokens.tail_length, batch_tokens)


def answers_of(batch: Sequence[Example], device: torch.device) -> Tensor:
    """Label indices of shape (batch, questions)."""
    return torch.tensor([one.answers for one in batch], device=device)


@dataclass(frozen=True)
class Taught:
    """What a teacher says of a batch, shaped as logits are, and its share of each question's targets."""

    probabilities: Sequence[Tensor]
    shares: Sequence[float]


def taught(batch: Sequence[Example], shares: Sequence[float], device: torch.device) -> Taught:
    """Of examples that a teacher answered."""
    columns = zip(*(one.taught for one in batch), strict=True)
    return Taught([torch.tensor(rows, device=device) for rows in columns], shares)


def slot_loss(
    logits: Sequence[Tensor],
    answers: Tensor,
    weights: Sequence[Tensor] | None = None,
    teacher: Taught | None = None,
) -> Tensor:
    """The sum over the questions of the mean cross-entropy of those examples that answer it.

    Args:
        logits: for each question, shape (batch, labels).
        answers: label indices, ``NOT_ASKED`` where there is none; shape (batch, questions).
        weights: for each question the weight of its labels, shape (labels,).
        teacher: what else is to be learned of the questions that are answered.
    """
    total = torch.stack([rows.sum() * 0 for rows in logits]).sum()  # a gradient also where nothing is asked
    for question, rows in enumerate(logits):
        asked = answers[:, question] != NOT_ASKED
        if asked.any():
            weight = weights[question] if weights else None
            loss = functional.cross_entropy(rows[asked], answers[asked, question], weight)
            if teacher:
                said = teacher.probabilities[question][asked].to(rows.dtype)
                loss = torch.lerp(loss, functional.cross_entropy(rows[asked], said, weight), teacher.shares[question])
            total = total + loss
    return total


def calibrated_loss(logits: Tensor, answers: Tensor) -> float:
    """The mean cross-entropy at the temperature that makes it least: what is left of it after calibration.

    Args:
        logits: of one question, shape (examples, labels).
        answers: label indices, shape (examples,).
    """
    return min(float(functional.cross_entropy(logits / heat, answers)) for heat in TEMPERATURES)
