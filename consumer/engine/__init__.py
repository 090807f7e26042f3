"""The engine: the only part of the consumer that uses torch, and its interface. No torch is imported here.

encode(abstract) -> Tokens                 on any thread
classify([Tokens, ...]) -> Classified      on the compute thread only
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

from msgspec import Struct

from ...schemas import Task, Text
from ...schemas.events import ModelReceipt
from ...schemas.expected import Expected


class Tokens(Struct, frozen=True, gc=False):
    """One prompt as token ids.

    Attributes:
        ids: the whole prompt: prefix + body + suffix.
        body: the slice of ``ids`` that holds the abstract's own tokens.
        truncated: whether the abstract was cut to fit.
    """

    ids: tuple[int, ...]
    body: slice
    truncated: bool

    @property
    def tail_length(self) -> int:
        """The number of tokens after the prefix, which all prompts share and which is run once."""
        return len(self.ids) - int(self.body.start)


class Rung(NamedTuple):
    """One question as it is scored.

    Attributes:
        asked_if: the earlier question that this one depends on, and the position of the label that it must have.
    """

    question: str
    labels: tuple[str, ...]
    temperature: float
    threshold: float
    asked_if: tuple[str, int] | None


@dataclass(frozen=True)
class ServedModel:
    """The model in service and how to read its scores: immutable, and replaced as a whole when the adapter changes."""

    receipt: ModelReceipt
    task: Task
    calibration: dict[str, float] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    expected: Expected | None = None

    @cached_property
    def ladder(self) -> tuple[Rung, ...]:
        """The questions in order, each with its calibration and threshold; made once, not for every abstract."""
        labels = {question.name: question.labels for question in self.task.questions}
        return tuple(
            Rung(
                question.name,
                question.labels,
                self.calibration.get(question.name, 1.0),
                self.thresholds.get(question.name, 0.0),
                (when.question, labels[when.question].index(when.label)) if (when := question.asked_if) else None,
            )
            for question in self.task.questions
        )


# For each question of the task, the logits of its labels.
LabelLogits = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Classified:
    """The label logits of one batch, with the model that gave them."""

    model: ServedModel
    logits: list[LabelLogits]


class Engine(Protocol):
    """Phi-3 (``phi3.Phi3Engine``), or a deterministic stand-in for tests of the streams (``fake.FakeEngine``)."""

    @property
    def model(self) -> ServedModel: ...

    def encode(self, abstract: Text) -> Tokens: ...

    def classify(self, batch: Sequence[Tokens]) -> Classified: ...
