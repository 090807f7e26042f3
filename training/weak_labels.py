"""Weak labels of an abstract from a dictionary: Cancer or not, and which type. Rules, not human labels.

The small base model is trained on prompts answered by these rules, so that it can follow the prompt before any
fine-tuning. All that it then knows about the task is distilled from here, which must be said wherever a figure of the
bare base is given.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..schemas import Abstract
from .cancer_words import ELSEWHERE, MELANOMA, TYPE_PATTERN

# Words that name cancer of any organ. Names of single cancers come from the Disease Ontology.
_GENERAL = re.compile(
    r"\b(?:cancers?|cancerous|carcino\w+|adenocarcinomas?|tumou?rs?|tumou?rigen\w*|neoplas\w+|malignan\w+|oncolog\w+"
    r"|oncogen\w*|metasta\w+|chemoradi\w+|leuka?emi\w+|lymphomas?|myelomas?|melanomas?|gliomas?|\w*sarcomas?"
    r"|\w*blastomas?|gleason)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
_BENIGN = frozenset(
    {"adenoma", "angiomyolipoma", "cavernoma", "fibroma", "glaucoma", "granuloma", "hemangioma", "hematoma"}
    | {"lipoma", "neurofibroma", "papilloma"}
)

# The weight of a cancer's name, or of a site with cancer named within _BESIDE characters; other words weigh 1.
_STRONG, _BESIDE = 8, 20
_AMBIGUOUS = 1.25  # the first type must weigh at least this many times as much as the next


class Evidence(NamedTuple):
    """A word that names a type, ``MELANOMA`` or ``ELSEWHERE``; positions are of characters.

    Attributes:
        end: where the word ends.
        strong_at: where a reader knows that this is strong evidence: at the end of the word, or of the cancer named
            after it; None for a sign, or a site alone.
    """

    kind: str
    end: int
    strong_at: int | None


class WeakLabels:
    """The rules, with the names of cancers read from a Disease Ontology file (OBO)."""

    def __init__(self, ontology: Path) -> None:
        names = frozenset(_one_word_names(ontology))
        self._names = names | {f"{name}s" for name in names}

    def __call__(self, abstract: Abstract) -> dict[str, str]:
        """The answers to the oncology task; without ``cancer_type`` if the rules do not agree on one."""
        kind = self.kind(abstract)
        return {"cancer": self.cancer(abstract)} | ({"cancer_type": kind} if kind else {})

    def cancer(self, abstract: Abstract) -> str:
        """``Cancer`` if it is named at least twice, or in the title."""
        named = sum(weight * self._mentions(text) for text, weight in _weighted(abstract))
        return "Cancer" if named >= 2 else "Non-Cancer"

    def kind(self, abstract: Abstract) -> str | None:
        """The type that the words clearly indicate, if there is one.

        Texts that are not about cancer have one too, that of the organ they are about. In serving it is not asked for,
        but it teaches which words belong to which organ, on ten times as many texts.
        """
        return _clear_winner(type_weights(abstract))

    def _mentions(self, text: str) -> int:
        """How often cancer is named."""
        named = sum(word in self._names for word in _WORD.findall(text.lower()) if not _GENERAL.fullmatch(word))
        return named + len(_GENERAL.findall(text))


def cancer_mentions(abstract: Abstract) -> int:
    """How many words name cancer; one in the title counts three times."""
    return sum(weight * len(_GENERAL.findall(text)) for text, weight in _weighted(abstract))


def names_cancer(text: str) -> bool:
    """Whether any word names cancer."""
    return _GENERAL.search(text) is not None


def _weighted(abstract: Abstract) -> tuple[tuple[str, int], ...]:
    """The title and the text with their weights: a word in the title counts three times."""
    return (abstract.title or "", 3), (abstract.abstract, 1)


def type_weights(abstract: Abstract) -> Counter[str]:
    """The weight of an abstract's words for each type that they indicate."""
    weights: Counter[str] = Counter()
    for text, times in _weighted(abstract):
        for kind, weight in _type_weights(text).items():
            weights[kind] += times * weight
    return weights


def mentions(text: str) -> list[tuple[int, int]]:
    """The beginnings and ends of the words that name cancer of any organ."""
    return [match.span() for match in _GENERAL.finditer(text)]


def evidence(text: str) -> Iterator[Evidence]:
    """Every word of the text that indicates a type, in order."""
    cancers = mentions(text)
    ends = [end for _, end in cancers]
    for match in TYPE_PATTERN.finditer(text):
        kind, _, group = str(match.lastgroup).rpartition("_")
        start, end = match.span()
        strong_at = end if group == "names" or not kind else None
        nearest = bisect_left(ends, start - _BESIDE)
        if group == "sites" and nearest < len(cancers) and cancers[nearest][0] <= end + _BESIDE:
            strong_at = max(end, ends[nearest])
        yield Evidence(kind or group, end, strong_at)


def _type_weights(text: str) -> Counter[str]:
    weights: Counter[str] = Counter()
    for kind, _, strong_at in evidence(text):
        weights[kind] += 1 if strong_at is None else _STRONG
    del weights[ELSEWHERE]
    if melanoma := weights.pop(MELANOMA, 0):
        weights["eye" if weights["eye"] >= _STRONG else "skin_melanoma"] += melanoma
    return weights


def _clear_winner(types: Counter[str]) -> str | None:
    """The type with the most weight, if that is at least 2 and clearly more than the next."""
    ranked = [*types.most_common(2), ("", 0), ("", 0)]
    (first, most), (_, next_most) = ranked[:2]
    return first if most >= 2 and most >= _AMBIGUOUS * next_most else None


def _one_word_names(ontology: Path) -> Iterator[str]:
    """Names and synonyms of cancers that consist of one word, such as ``seminoma``."""
    line_of_name = re.compile(r'^(?:name: |synonym: ")(\w+)"?(?: EXACT.*)?$', re.MULTILINE)
    for word in set(line_of_name.findall(ontology.read_text(encoding="utf-8"))):
        # Abbreviations such as ATLL or "cancer" itself are too short, too ambiguous or known already.
        if re.fullmatch(r"[a-z]{5,}(oma|emia)", word.lower()) and word.lower() not in _BENIGN:
            yield word.lower()
