"""Whether a new adapter behaves like the previous one, judged by the shares among its first answers.

The labels of live abstracts differ from those of a validation set. So a new adapter is compared with what the previous
one answered on the same stream, and only differences beyond chance count.
"""

import math
from asyncio import Queue
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...schemas.announced import Announced
from ..config import WorkerConfig
from ..engine import ServedModel
from ..stages import Answered, Inferred, Predicted, Refused

# The first look; then one each time the number of answers has doubled, so that chance has few tries.
FIRST_LOOK = 32
# Of a normal distribution: an adapter that just keeps its bounds is rejected once in 16 000 looks.
DEVIATIONS = 4.0
MOST_REMEMBERED = 2_000  # answers of an adapter after its trial; beyond that, older ones count half

Interval = tuple[float, float]


@dataclass(frozen=True)
class Share:
    """A count out of a total."""

    count: int
    total: int

    def __str__(self) -> str:
        return f"{self.count} of {self.total}"

    @property
    def value(self) -> float:
        return self.count / self.total if self.total else 0.0


@dataclass
class Signals:
    """Counts of one adapter's answers on this worker; ``label`` is the first one of the first question, as Cancer."""

    question: str
    label: str
    abstracts: int = 0
    reviews: int = 0
    first_labels: int = 0
    errors: int = 0

    @classmethod
    def of(cls, model: ServedModel) -> "Signals":
        """Signals without any answers."""
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

    def fade(self) -> None:
        """Let older answers count half, once there are many."""
        if self.abstracts > MOST_REMEMBERED:
            for name in ("abstracts", "reviews", "first_labels", "errors"):
                setattr(self, name, getattr(self, name) // 2)


class Guard:
    """Owns the counts of the live adapter's answers, and the trial that it is on."""

    def __init__(self, config: WorkerConfig, model: ServedModel) -> None:
        self._config = config
        self._digest, self._live = model.receipt.adapter_digest, Signals.of(model)
        self._trial: tuple[Announced, Trial] | None = None
        self.objections: Queue[tuple[Announced, str]] = Queue()
        """Adapters that left their bounds, with the reason."""

    def switched(self, announced: Announced, model: ServedModel) -> None:
        """Another adapter is live. After a rollback it is not watched, or two adapters could take turns for ever."""
        before, self._live = self._live, Signals.of(model)
        self._digest = model.receipt.adapter_digest
        watched = announced.update.action == "activate" and self._config.guard_abstracts
        self._trial = (announced, Trial(self._config, self._live, before)) if watched else None

    def observe(self, inferred: Inferred, answered: Sequence[Answered]) -> None:
        """Count a batch, unless it was answered by the previous adapter."""
        if inferred.batch[0].engine.model.receipt.adapter_digest != self._digest:
            return
        self._live.count(answered)
        if self._trial is None:
            self._live.fade()
            return
        announced, trial = self._trial
        if objection := trial.objection():
            self.objections.put_nowait((announced, objection))
        if objection or trial.is_over:
            self._trial = None


class Trial:
    """Compares the first answers of an adapter with those of the previous one."""

    def __init__(self, config: WorkerConfig, own: Signals, before: Signals) -> None:
        self._config = config
        self._own = own
        self._before = before
        self._next_look = min(FIRST_LOOK, config.guard_abstracts)

    @property
    def is_over(self) -> bool:
        """Whether ``guard_abstracts`` have been seen."""
        return self._own.abstracts >= self._config.guard_abstracts

    def objection(self) -> str | None:
        """What is wrong with the adapter; None if nothing is, and between two looks."""
        if self._own.abstracts < self._next_look:
            return None
        self._next_look = min(2 * self._own.abstracts, self._config.guard_abstracts)
        return objection(self._own, self._before, self._config)


def objection(own: Signals, before: Signals, config: WorkerConfig) -> str | None:
    """Which share of ``own`` answers exceeds its bound by more than chance explains; None if none does.

    Args:
        own: of the new adapter.
        before: of the previous one, on this worker.
        config: has the bounds.
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
    """The confidence interval of the difference of two shares, ``one`` minus ``other``.

    From their Wilson intervals by Newcombe's method 10 (Statistics in Medicine 17, 1998, 873). A share without
    observations counts as 0.
    """
    (low, high), (other_low, other_high) = wilson(one), wilson(other) if other.total else (0.0, 0.0)
    middle = one.value - other.value
    below = math.hypot(one.value - low, other_high - other.value)
    above = math.hypot(high - one.value, other.value - other_low)
    return middle - below, middle + above


def wilson(share: Share) -> Interval:
    """The confidence interval of a share, given a sample (Wilson 1927)."""
    squared = DEVIATIONS**2
    middle = (share.count + squared / 2) / (share.total + squared)
    spread = math.sqrt(share.value * (1 - share.value) * share.total + squared / 4) * DEVIATIONS
    return middle - spread / (share.total + squared), middle + spread / (share.total + squared)
