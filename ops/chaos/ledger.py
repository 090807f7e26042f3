"""The oracle: what was accepted from the publisher, held against what came out. Pure."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """What was sent, by the id of the submission, or of its entry where it carries none.

    Attributes:
        offered: all for which sending was begun; whether those that are not accepted arrived, nobody knows.
        accepted: those that Redis said it has, and when (monotonic).
        hopeless: those that must be refused: poison, and bad input.
    """

    offered: set[str] = field(default_factory=set)
    accepted: dict[str, float] = field(default_factory=dict)
    hopeless: set[str] = field(default_factory=set)

    def accept(self, submissions: Iterable[str]) -> None:
        """Note that Redis confirmed them."""
        now = time.monotonic()
        for submission in submissions:
            self.accepted.setdefault(submission, now)

    def forgive(self, since: float) -> int:
        """What was accepted since then may be lost; returns how many that is."""
        late = [submission for submission, when in self.accepted.items() if when > since]
        for submission in late:
            del self.accepted[submission]
        return len(late)

    def forget(self) -> None:
        """Redis was emptied: what was accepted so far is owed to nobody."""
        self.accepted.clear()
        self.hopeless.clear()


@dataclass(frozen=True)
class Found:
    """What Redis holds at the end: by submission, how many results of each kind, and what a subscriber saw."""

    predictions: Counter[str]
    refusals: Counter[str]
    seen: Counter[str]
    pending: int
    unread: int


@dataclass(frozen=True)
class Audit:
    """The verdict on a row; all counts but the first three must be zero."""

    accepted: int
    answered: int
    refused: int
    lost: int  # accepted, and neither answered nor refused
    duplicated: int  # results beyond the first of a submission
    refused_wrongly: int  # refused, though nothing is wrong with them
    answered_wrongly: int  # answered, though they had to be refused
    strangers: int  # results of what was never sent
    unseen: int  # results that a subscriber did not see as they stand in Redis
    pending: int
    unread: int

    def faults(self) -> Iterator[str]:
        """The violations, in words."""
        for name in ("lost", "duplicated", "refused_wrongly", "answered_wrongly", "strangers", "unseen"):
            yield from self._fault(name)
        yield from self._fault("pending")
        yield from self._fault("unread")

    def _fault(self, name: str) -> Iterable[str]:
        number = getattr(self, name)
        return [f"{number} {name.replace('_', ' ')}"] if number else []


def audit(ledger: Ledger, found: Found) -> Audit:
    """Hold what was accepted against what was found."""
    results = found.predictions + found.refusals
    known = ledger.accepted.keys()
    unlike = (results - found.seen) + (found.seen - results)
    return Audit(
        accepted=len(known),
        answered=len(known & found.predictions.keys()),
        refused=len(known & found.refusals.keys()),
        lost=len(known - results.keys()),
        duplicated=sum(number - 1 for number in results.values()),
        refused_wrongly=len((known & found.refusals.keys()) - ledger.hopeless),
        answered_wrongly=len(ledger.hopeless & found.predictions.keys()),
        strangers=len(results.keys() - ledger.offered),
        unseen=sum(number for submission, number in unlike.items() if submission in known),
        pending=found.pending,
        unread=found.unread,
    )
