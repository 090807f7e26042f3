"""How two models answered the same abstracts: who agrees, what flips, how sure they are. Pure, but for counting."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...schemas.events import ShadowAnswers
from ..engine.scoring import Scored

Answers = Mapping[str, Scored]
"""Of one abstract, by question; a question that was not asked is left out."""


@dataclass
class Question:
    """One question, over the abstracts where both models were asked it."""

    n: int = 0
    shift: float = 0.0  # the sum of the second's confidences, minus that of the first's
    flips: Counter[tuple[str, str]] = field(default_factory=Counter)  # (first's label, second's)

    def summary(self) -> ShadowAnswers:
        """As an event says it."""
        flips: dict[str, dict[str, int]] = defaultdict(dict)
        for (first, second), count in sorted(self.flips.items()):
            flips[first][second] = count
        same, mean = self.n - sum(self.flips.values()), self.shift / self.n if self.n else 0.0
        return ShadowAnswers(n=self.n, same=same, confidence_shift=mean, flips=dict(flips))


@dataclass
class Comparison:
    """Counts, abstract by abstract. ``changed`` are those with any label other than the first's."""

    abstracts: int = 0
    changed: int = 0
    questions: dict[str, Question] = field(default_factory=dict)

    def add(self, first: Answers, second: Answers) -> bool:
        """Count one abstract; whether its answers changed."""
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
        """Of each question, as an event says it."""
        return {name: question.summary() for name, question in self.questions.items()}


def labels(answers: Answers) -> dict[str, str]:
    """Question -> label, of those that were asked."""
    return {name: one["label"] for name, one in answers.items()}
