"""The training objective, of the base model and of adapters: predict the label token at each slot."""

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
Probabilities = tuple[tuple[float, ...], ...]  # of each question's labels
TEMPERATURES = torch.logspace(-1, 1, 81)


@dataclass(frozen=True)
class Example:
    """A tokenized prompt and what is to be learned from it.

    Attributes:
        answers: the label index of each question, ``NOT_ASKED`` where there is no label.
        taught: a teacher's probabilities of each question's labels; empty without a teacher.
    """

    tokens: Tokens
    answers: tuple[int, ...]
    taught: Probabilities = field(default=(), kw_only=True)


E = TypeVar("E", bound=Example)


def example(encoder: PromptEncoder, task: Task, abstract: Abstract, answers: Mapping[str, str]) -> Example:
    """The example of an abstract. ``answers`` maps questions to labels; missing ones add nothing to the loss."""
    chosen = tuple(
        question.labels.index(answers[question.name]) if question.name in answers else NOT_ASKED
        for question in task.questions
    )
    return Example(encoder.encode(abstract), chosen)


def batches(examples: Iterable[E], batch_tokens: int) -> Iterator[list[E]]:
    """Batches of similar length, each of at most ``batch_tokens`` tokens with padding, without the fixed prefix."""
    return pack_by(examples, lambda one: one.tokens.tail_length, batch_tokens)


def answers_of(batch: Sequence[Example], device: torch.device) -> Tensor:
    """Label indices of shape (batch, questions)."""
    return torch.tensor([one.answers for one in batch], device=device)


@dataclass(frozen=True)
class Taught:
    """A teacher's answers to a batch.

    Attributes:
        probabilities: for each question, shape (batch, labels).
        shares: for each question, the teacher's share of the targets.
    """

    probabilities: Sequence[Tensor]
    shares: Sequence[float]


def taught(batch: Sequence[Example], shares: Sequence[float], device: torch.device) -> Taught:
    """The teacher's answers to a batch of examples, all of which have ``taught``."""
    columns = zip(*(one.taught for one in batch), strict=True)
    return Taught([torch.tensor(rows, device=device) for rows in columns], shares)


def slot_loss(
    logits: Sequence[Tensor],
    answers: Tensor,
    weights: Sequence[Tensor] | None = None,
    teacher: Taught | None = None,
) -> Tensor:
    """Mean cross-entropy over the examples that answer a question, summed over the questions.

    Args:
        logits: for each question, shape (batch, labels).
        answers: label indices, ``NOT_ASKED`` where there is none; shape (batch, questions).
        weights: for each question, the weights of its labels, shape (labels,).
        teacher: mixed into the targets of the examples that have a label.
    """
    total = torch.stack(
        [rows.sum() * 0 for rows in logits]
    ).sum()  # every parameter gets a gradient, even if nothing is asked
    for question, rows in enumerate(logits):
        asked = answers[:, question] != NOT_ASKED
        if asked.any():
            rows, labels = rows[asked], answers[asked, question]
            weight = weights[question] if weights else None
            loss = functional.cross_entropy(rows, labels, weight)
            if teacher:
                said = teacher.probabilities[question][asked].to(rows.dtype)
                learned = functional.cross_entropy(rows, said, weight)
                if weight is not None:  # torch divides the loss above by the weights, and this by the examples
                    learned = learned / weight[labels].mean()
                loss = torch.lerp(loss, learned, teacher.shares[question])
            total = total + loss
    return total


def calibrated_loss(logits: Tensor, answers: Tensor) -> float:
    """The lowest mean cross-entropy that any temperature gives: the loss after calibration.

    Args:
        logits: of one question; shape (examples, labels).
        answers: label indices; shape (examples,).
    """
    return min(float(functional.cross_entropy(logits / heat, answers)) for heat in TEMPERATURES)
