"""How two models answered the same abstracts: agreement, flipped labels, shifts of confidence."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...schemas.events import ShadowAnswers
from ..engine.scoring import Scored

Answers = Mapping[str, Scored]
"""The answers to one abstract, by question; questions that were not asked are left out."""


@dataclass
class Question:
    """One question, over the abstracts for which both models answered it."""

    n: int = 0
    shift: float = 0.0  # sum of the second's confidences minus the first's
    flips: Counter[tuple[str, str]] = field(default_factory=Counter)  # (first's label, second's)

    def summary(self) -> ShadowAnswers:
        """As in an event."""
        flips: dict[str, dict[str, int]] = defaultdict(dict)
        for (first, second), count in sorted(self.flips.items()):
            flips[first][second] = count
        same = self.n - sum(self.flips.values())
        return ShadowAnswers(n=self.n, same=same, confidence_shift=self.shift / self.n, flips=dict(flips))


@dataclass
class Comparison:
    """Counts abstract by abstract; ``changed`` are those with any label different from the first model's."""

    abstracts: int = 0
    changed: int = 0
    questions: dict[str, Question] = field(default_factory=dict)

    def add(self, first: Answers, second: Answers) -> bool:
        """Count one abstract; returns whether its answers changed."""
        for name in [name for name in first if name in second]:
            self._ask(name, first[name], second[name])
        changed = labels(first) != labels(second)
        self.abstracts += 1
        self.changed += changed
        return changed

    def _ask(self, name: str, first: Scored, second: Scored) -> None:
        question = self.questions.setdefault(name, Question())
        question.n += 1
        question.shift += second["confidence"] - first["confidence"]
        if first["label"] != second["label"]:
            question.flips[first["label"], second["label"]] += 1

    def summary(self) -> dict[str, ShadowAnswers]:
        """The summaries by question, as in an event."""
        return {name: question.summary() for name, question in self.questions.items()}


def labels(answers: Answers) -> dict[str, str]:
    """Question -> label, for the questions that were asked."""
    return {name: one["label"] for name, one in answers.items()}
