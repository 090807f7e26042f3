"""The engine: the only part of the consumer that uses torch, and its interface. No torch is imported here.

encode(abstract) -> Tokens                 on any thread
classify([Tokens, ...]) -> Classified      on the one compute thread
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

from ...schemas import Task, Text
from ...schemas.events import ModelReceipt
from ...schemas.expected import Expected


@dataclass(frozen=True, slots=True)
class Tokens:
    """One prompt as token ids.

    Attributes:
        ids: the whole prompt, prefix + body + suffix.
        body: where the abstract's own tokens are in ``ids``.
        truncated: whether the abstract was cut to fit.
    """

    ids: tuple[int, ...]
    body: slice
    truncated: bool

    @property
    def tail_length(self) -> int:
        """The number of tokens after the prompt's fixed beginning, which is computed once for all prompts."""
        return len(self.ids) - int(self.body.start)


class Rung(NamedTuple):
    """One question for scoring; ``asked_if`` is the earlier question and the label that it requires."""

    question: str
    labels: tuple[str, ...]
    temperature: float
    threshold: float
    asked_if: tuple[str, str] | None


@dataclass(frozen=True)
class ServedModel:
    """The model that answers, and how its scores are interpreted; replaced as a whole at a switch."""

    receipt: ModelReceipt
    task: Task
    calibration: dict[str, float] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    expected: Expected | None = None

    @cached_property
    def ladder(self) -> tuple[Rung, ...]:
        """The questions in order, prepared once and not for every abstract."""
        return tuple(
            Rung(
                question.name,
                question.labels,
                self.calibration.get(question.name, 1.0),
                self.thresholds.get(question.name, 0.0),
                (when.question, when.label) if (when := question.asked_if) else None,
            )
            for question in self.task.questions
        )


# One row per question of the task: the logit of each of its labels.
LabelLogits = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Classified:
    """The logits of one batch, with the model that computed them."""

    model: ServedModel
    logits: list[LabelLogits]


class Engine(Protocol):
    """Phi-3 (``phi3.Phi3Engine``), or the deterministic stand-in for stream work (``fake.FakeEngine``)."""

    @property
    def model(self) -> ServedModel: ...

    def encode(self, abstract: Text) -> Tokens: ...

    def classify(self, batch: Sequence[Tokens]) -> Classified: ...
