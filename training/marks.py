"""Marks on single tokens: labels for the base model by the hundred, not one for each text.

At the last token of every word that names cancer or a type, a linear reader is trained to predict from the hidden state
what the word says; at some other tokens, that they say nothing. It reads the input of the last layer, so that this
layer has little left to do but to count. After training the reader is discarded. This is an auxiliary loss on an
intermediate layer, as in Szegedy et al. 2015 (https://arxiv.org/abs/1409.4842), with labels of tokens.
"""

import random
from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..consumer.engine.tokens import PromptEncoder
from ..schemas import Abstract, Prompt
from .cancer_words import ELSEWHERE, MELANOMA, TYPE_WORDS
from .objective import Example
from .weak_labels import evidence, mentions

OTHERS = 0.04  # of the other tokens are marked as saying nothing
_NOTHING, _CANCER, *_SIGNS = range(2 + len(TYPE_WORDS))  # weak evidence of each type, …
_NAMES = range(2 + len(TYPE_WORDS), 2 + 2 * len(TYPE_WORDS))  # … and strong evidence
_KINDS = {kind: number for number, kind in enumerate(TYPE_WORDS)}
_KINDS[MELANOMA] = _KINDS["skin_melanoma"]


@dataclass(frozen=True)
class Marked(Example):
    """An example with marks: pairs of a token's position in the body, from 0, and what it says."""

    marks: tuple[tuple[int, int], ...]


def marks(encoder: PromptEncoder, abstract: Abstract, draws: random.Random) -> tuple[tuple[int, int], ...]:
    """The marks of an abstract, in the order of its tokens."""
    text, spans = Prompt.body(abstract), encoder.spans(abstract)
    starts = [start for start, _ in spans]
    found = {end: _CANCER for _, end in mentions(text)}
    for kind, end, strong_at in evidence(text):
        if kind == ELSEWHERE:
            found[end] = _NOTHING
            continue
        found[end] = _SIGNS[_KINDS[kind]]
        if strong_at is not None:
            found[strong_at] = _NAMES[_KINDS[kind]]
    read = spans[-1][1] if spans else 0  # the text may be truncated
    by_token = {bisect_right(starts, end - 1) - 1: mark for end, mark in found.items() if end <= read}
    for place in range(len(spans)):
        if draws.random() < OTHERS:
            by_token.setdefault(place, _NOTHING)
    return tuple(sorted(by_token.items()))


class Reader(nn.Linear):
    """Predicts a token's mark from its hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__(width, _NAMES.stop)
        nn.init.zeros_(self.weight)

    def loss(self, states: Tensor, batch: list[Marked], lengths: list[int]) -> Tensor:
        """The mean cross-entropy of the marks of a batch; 0 if it has none.

        Args:
            states: hidden states of all tokens of the batch, example after example; shape (tokens, width).
            lengths: the number of tokens of each example.
        """
        begins = torch.tensor([0, *lengths[:-1]]).cumsum(0).tolist()
        places = [begin + place for begin, one in zip(begins, batch, strict=True) for place, _ in one.marks]
        wanted = torch.tensor([mark for one in batch for _, mark in one.marks], dtype=torch.long)
        rows = functional.rms_norm(states[places].float(), states.shape[1:])
        return functional.cross_entropy(self(rows), wanted, reduction="sum") / max(len(places), 1)
