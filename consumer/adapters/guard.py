"""Whether a new adapter behaves as the one before did: the shares among its first answers, held against chance.

The labels of live abstracts are not those of a validation set, so a new adapter is held against what the one before it
answered on this same stream; its errors, where there was none before, against none.
"""

import math
from asyncio import Queue
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...schemas.announced import Announced
from ..config import WorkerConfig
from ..engine import ServedModel
from ..stages import Answered, Inferred, Predicted, Refused

# A look each time the number of answers has doubled, so that chance has few tries; fewer answers say nothing.
FIRST_LOOK = 32
# Of a normal distribution: once in 16 000 looks an adapter that just keeps its bounds is found to leave them.
DEVIATIONS = 4.0
MOST_REMEMBERED = 2_000  # answers of an adapter; beyond, the older ones count half

Interval = tuple[float, float]


@dataclass(frozen=True)
class Share:
    """So many out of so many."""

    count: int
    total: int

    def __str__(self) -> str:
        return f"{self.count} of {self.total}"

    @property
    def value(self) -> float:
        return self.count / self.total if self.total else 0.0


@dataclass
class Signals:
    """What one adapter answered on this worker. ``first_label`` is of the task's first question, such as Cancer."""

    question: str
    label: str
    abstracts: int = 0
    reviews: int = 0
    first_labels: int = 0
    errors: int = 0

    @classmethod
    def of(cls, model: ServedModel) -> "Signals":
        """None yet."""
        question = model.task.questions[0]
        return cls(question.name, question.labels[0])

    def count(self, answered: Iterable[Answered]) -> None:
        """Add the answers of a batch."""
        for one in answered:
            self.abstracts += 1
            if isinstance(one, Predicted):
                self.reviews += one.review.required
                self.first_labels += one.answers[self.question]["label"] == self.label
            elif isinstance(one, Refused):
                self.errors += 1
        if self.abstracts > MOST_REMEMBERED:
            for name in ("abstracts", "reviews", "first_labels", "errors"):
                setattr(self, name, getattr(self, name) // 2)


class Guard:
    """Owns what the live adapter answered here, and the trial that it is on."""

    def __init__(self, config: WorkerConfig, model: ServedModel) -> None:
        self._config = config
        self._digest, self._live = model.receipt.adapter_digest, Signals.of(model)
        self._trial: tuple[Announced, Trial] | None = None
        self.objections: Queue[tuple[Announced, str]] = Queue()
        """Adapters that left their bounds, and which."""

    def switched(self, announced: Announced, model: ServedModel) -> None:
        """Another adapter is live; one that was rolled back to is not watched, or two would take turns for ever."""
        before, self._live = self._live, Signals.of(model)
        self._digest = model.receipt.adapter_digest
        watched = announced.update.action == "activate" and self._config.guard_abstracts
        self._trial = (announced, Trial(self._config, self._live, before)) if watched else None

    def observe(self, inferred: Inferred, answered: Sequence[Answered]) -> None:
        """Count a batch; those that the adapter before had in hand at the switch are not the new one's."""
        if inferred.batch[0].engine.model.receipt.adapter_digest != self._digest:
            return
        self._live.count(answered)
        if self._trial is None:
            return
        announced, trial = self._trial
        if objection := trial.objection():
            self.objections.put_nowait((announced, objection))
        if objection or trial.is_over:
            self._trial = None


class Trial:
    """The first answers of an adapter, beside those of the one before it."""

    def __init__(self, config: WorkerConfig, own: Signals, before: Signals) -> None:
        self._config = config
        self._own = own
        self._before = before
        self._next_look = min(FIRST_LOOK, config.guard_abstracts)

    @property
    def is_over(self) -> bool:
        """Whether all the abstracts were seen that were to be watched."""
        return self._own.abstracts >= self._config.guard_abstracts

    def objection(self) -> str | None:
        """What is wrong with the adapter, at the looks; None between them, and where nothing is."""
        if self._own.abstracts < self._next_look:
            return None
        self._next_look = min(2 * self._own.abstracts, self._config.guard_abstracts)
        return objection(self._own, self._before, self._config)


def objection(own: Signals, before: Signals, config: WorkerConfig) -> str | None:
    """Which share of ``own`` answers is beyond its bound by more than chance explains; None where none is.

    Args:
        own: of the new adapter.
        before: of the one before it, on this worker.
        config: the bounds.
    """
    total = own.abstracts
    errors, errors_before = Share(own.errors, total), Share(before.errors, before.abstracts)
    if difference(errors, errors_before)[0] > config.guard_errors:
        return _say("failed", errors, errors_before)
    if before.abstracts < FIRST_LOOK:
        return None
    reviews, reviews_before = Share(own.reviews, total), Share(before.reviews, before.abstracts)
    if difference(reviews, reviews_before)[0] > config.guard_shift:
        return _say("went to review", reviews, reviews_before)
    labels, labels_before = Share(own.first_labels, total), Share(before.first_labels, before.abstracts)
    low, high = difference(labels, labels_before)
    if (own.question, own.label) == (before.question, before.label) and max(low, -high) > config.guard_shift:
        return _say(f"were answered {own.label}", labels, labels_before)
    return None


def _say(what: str, own: Share, before: Share) -> str:
    with_the_one_before = f", with the adapter before it {before} ({before.value:.0%})" if before.total else ""
    return f"of its first abstracts {own} ({own.value:.0%}) {what}{with_the_one_before}"


def difference(one: Share, other: Share) -> Interval:
    """Between which the difference of two shares lies, ``one`` minus ``other``.

    From their Wilson intervals, as Newcombe has it (Statistics in Medicine 17, 1998, 873, method 10). Of nothing, a
    share counts as none.
    """
    (low, high), (other_low, other_high) = wilson(one), wilson(other) if other.total else (0.0, 0.0)
    middle = one.value - other.value
    below = math.hypot(one.value - low, other_high - other.value)
    above = math.hypot(high - one.value, other.value - other_low)
    return middle - below, middle + above


def wilson(share: Share) -> Interval:
    """Between which a share of all lies, of which ``share`` is a sample (Wilson 1927)."""
    squared = DEVIATIONS**2
    middle = (share.count + squared / 2) / (share.total + squared)
    spread = math.sqrt(share.value * (1 - share.value) * share.total + squared / 4) * DEVIATIONS
    return middle - spread / (share.total + squared), middle + spread / (share.total + squared)
