"""Counterfactual examples: an abstract in which the words of one cancer type replace another's.

A small model that reads a few thousand texts again and again memorises them, and answers by the rest of their content.
If only the words that name a type are changed, only they tell the type (Kaushik et al. 2020,
https://arxiv.org/abs/1909.12434).
"""

import random
import re

from ..schemas import Abstract
from ..schemas.events import MAX_TITLE_CHARACTERS
from .cancer_words import MELANOMA, TYPE_PATTERN, TYPE_WORDS

_TYPES = list(TYPE_WORDS)


class TypeSwap:
    """Learns the words of each type from texts, and exchanges those of one type for another's."""

    def __init__(self) -> None:
        self._words: dict[tuple[str, str], list[str]] = {}

    def learn(self, text: str) -> None:
        """Remember each word of a text that names a type."""
        for match in TYPE_PATTERN.finditer(text):
            kind, group = _kind_and_group(match)
            if kind in TYPE_WORDS:
                words, word = self._words.setdefault((kind, group), []), match.group().lower()
                if word not in words:
                    words.append(word)

    def __call__(self, abstract: Abstract, draws: random.Random) -> Abstract:
        """The abstract with its types permuted at random: a name becomes a name of the new type, a site a site, …"""
        becomes = dict(zip(_TYPES, draws.sample(_TYPES, len(_TYPES)), strict=True))
        chosen: dict[str, str] = {}

        def exchanged(match: re.Match[str]) -> str:
            kind, group = _kind_and_group(match)
            word = match.group().lower()
            if word not in chosen:
                chosen[word] = draws.choice(self._words.get((becomes.get(kind, ""), group), [word]))
            return chosen[word].capitalize() if match.group()[0].isupper() else chosen[word]

        title = abstract.title and TYPE_PATTERN.sub(exchanged, abstract.title)[:MAX_TITLE_CHARACTERS]
        return Abstract(title=title, abstract=TYPE_PATTERN.sub(exchanged, abstract.abstract))


def _kind_and_group(match: re.Match[str]) -> tuple[str, str]:
    if match.lastgroup == MELANOMA:
        return "skin_melanoma", "names"
    kind, _, group = str(match.lastgroup).rpartition("_")
    return kind, group
