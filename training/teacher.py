"""The base as a teacher: where it agrees with the labels already, what it says itself counts as so many of them.

A few hundred labels, some of them wrong, take from a base what it knows. So a target is a label mixed with the answer
of the frozen base: soft bootstrapping (Reed et al. 2014, https://arxiv.org/abs/1412.6596), with the teacher of
learning without forgetting (Li & Hoiem 2016, https://arxiv.org/abs/1606.09282). Of many labels it changes little, and
of a question that the base cannot answer nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .objective import NOT_ASKED, Probabilities

Answered = tuple[
    str, tuple[int, ...], Probabilities
]  # id, right labels, and the probabilities of each question's labels


@dataclass(frozen=True)
class Teacher:
    """What the base said of each training record, by id, and its share of each question's targets."""

    said: dict[str, Probabilities]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, answered: Sequence[Answered], weight: int) -> "Teacher":
        """``weight``: how many labels a base counts as that agrees with all of them."""
        questions = range(len(answered[0][1]))
        shares = tuple(_share([(right[one], said[one]) for _, right, said in answered], weight) for one in questions)
        return cls({name: said for name, _, said in answered}, shares)


def _share(answered: Iterable[tuple[int, tuple[float, ...]]], weight: int) -> float:
    """Of the targets of one question, by Cohen's kappa (1960, https://doi.org/10.1177/001316446002000104)."""
    from sklearn.metrics import cohen_kappa_score

    asked = [(right, max(range(len(said)), key=said.__getitem__)) for right, said in answered if right != NOT_ASKED]
    labels, found = zip(*asked, strict=True) if asked else ((), ())
    if len(set(labels)) < 2:
        return 0.0  # one label alone shows no agreement
    return max(0.0, float(cohen_kappa_score(labels, found))) * weight / (weight + len(asked))
