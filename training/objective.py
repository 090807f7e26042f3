"""What is learned: at each slot, which label token comes. The same for the base model and for adapters."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ..consumer.engine import Tokens
from ..consumer.engine.packing import pack_by
from ..consumer.engine.tokens import PromptEncoder
from ..schemas import Abstract, Task

NOT_ASKED = -1
TEMPERATURES = torch.logspace(-1, 1, 81)


@dataclass(frozen=True)
class Example:
    """A tokenized prompt and the index of the right label of each question; ``NOT_ASKED`` where there is none."""

    tokens: Tokens
    answers: tuple[int, ...]


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


def slot_loss(logits: Sequence[Tensor], answers: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
    """The sum over the questions of the mean cross-entropy of those examples that answer it.

    Args:
        logits: for each question, shape (batch, labels).
        answers: label indices, ``NOT_ASKED`` where there is none; shape (batch, questions).
        weights: for each question the weight of its labels, shape (labels,).
    """
    total = torch.stack([rows.sum() * 0 for rows in logits]).sum()  # a gradient also where nothing is asked
    for question, rows in enumerate(logits):
        if (answers[:, question] != NOT_ASKED).any():
            weight = weights[question] if weights else None
            total = total + functional.cross_entropy(rows, answers[:, question], weight, ignore_index=NOT_ASKED)
    return total


def calibrated_loss(logits: Tensor, answers: Tensor) -> float:
    """The mean cross-entropy at the temperature that makes it least: what is left of it after calibration.

    Args:
        logits: of one question, shape (examples, labels).
        answers: label indices, shape (examples,).
    """
    return min(float(functional.cross_entropy(logits / heat, answers)) for heat in TEMPERATURES)
