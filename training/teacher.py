"""The base model as a teacher, so that a few labels, some of them wrong, do not undo what it knows.

A training target mixes the label with the frozen base's own answer: soft bootstrapping (Reed et al. 2014,
https://arxiv.org/abs/1412.6596), with the teacher of learning without forgetting (Li & Hoiem 2016,
https://arxiv.org/abs/1606.09282). The teacher's share falls as the number of labels grows. It is zero for a question on
which the base agrees with the labels no more than by chance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .objective import NOT_ASKED, Probabilities


@dataclass(frozen=True)
class Answered:
    """A training record's id, its label indices (``NOT_ASKED`` where there is none), and what the base answers."""

    id: str
    labels: tuple[int, ...]
    said: Probabilities


@dataclass(frozen=True)
class Teacher:
    """The base's answers by record id, and their share of each question's targets."""

    said: dict[str, Probabilities]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, answered: Sequence[Answered], weight: int) -> "Teacher":
        """The teacher of these records.

        Args:
            answered: every training record.
            weight: how many labels the base's answers count as where it agrees with all of them.
        """
        questions = range(len(answered[0].labels))
        shares = tuple(_share([(one.labels[i], one.said[i]) for one in answered], weight) for i in questions)
        return cls({one.id: one.said for one in answered}, shares)


def _share(answered: Iterable[tuple[int, tuple[float, ...]]], weight: int) -> float:
    """The base's share of one question's targets, from pairs of a label index and the base's probabilities."""
    from sklearn.metrics import cohen_kappa_score

    known = [(label, max(range(len(said)), key=said.__getitem__)) for label, said in answered if label != NOT_ASKED]
    labels, found = zip(*known, strict=True) if known else ((), ())
    if len(set(labels)) < 2:
        return 0.0  # a single label cannot show agreement
    kappa = float(cohen_kappa_score(labels, found))  # Cohen 1960, https://doi.org/10.1177/001316446002000104
    return max(0.0, kappa) * weight / (weight + len(known))
