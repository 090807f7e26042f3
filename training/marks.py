"""What the words of a text say, each for itself: lessons for the base model by the hundred, not one for each text.

Wherever a word of cancer or of a type has been read, a linear reader is to tell from the state of its last token what
that word said, and of some other tokens that they say nothing. It reads what the last layer is given, so that this
layer has little left to do but to count; and is thrown away after training. An auxiliary loss half-way up, as in
Szegedy et al. 2015 (https://arxiv.org/abs/1409.4842), on labels of tokens.
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

OTHERS = 0.04  # of the tokens that say nothing are asked
_NOTHING, _CANCER, *_SIGNS = range(2 + len(TYPE_WORDS))  # a sign of each type, …
_NAMES = range(2 + len(TYPE_WORDS), 2 + 2 * len(TYPE_WORDS))  # … and what weighs much
_KINDS = {kind: number for number, kind in enumerate(TYPE_WORDS)}
_KINDS[MELANOMA] = _KINDS["skin_melanoma"]


@dataclass(frozen=True)
class Marked(Example):
    """An example, and what some tokens of its body say: their positions from the body's first, and the marks."""

    marks: tuple[tuple[int, int], ...]


def marks(encoder: PromptEncoder, abstract: Abstract, draws: random.Random) -> tuple[tuple[int, int], ...]:
    """The marks of an abstract's tokens, in order."""
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
    read = spans[-1][1] if spans else 0  # the text may go on beyond the limit
    by_token = {bisect_right(starts, end - 1) - 1: mark for end, mark in found.items() if end <= read}
    for place in range(len(spans)):
        if draws.random() < OTHERS:
            by_token.setdefault(place, _NOTHING)
    return tuple(sorted(by_token.items()))


class Reader(nn.Linear):
    """Tells a token's mark from its state."""

    def __init__(self, width: int) -> None:
        super().__init__(width, _NAMES.stop)
        nn.init.zeros_(self.weight)

    def loss(self, states: Tensor, batch: list[Marked], lengths: list[int]) -> Tensor:
        """The mean cross-entropy of the marks of a batch, 0 where it has none.

        Args:
            states: of all tokens of the batch, one example behind the other; shape (tokens, width).
            lengths: the tokens of each example.
        """
        begins = torch.tensor([0, *lengths[:-1]]).cumsum(0).tolist()
        places = [begin + place for begin, one in zip(begins, batch, strict=True) for place, _ in one.marks]
        wanted = torch.tensor([mark for one in batch for _, mark in one.marks], dtype=torch.long)
        rows = functional.rms_norm(states[places].float(), states.shape[1:])
        return functional.cross_entropy(self(rows), wanted, reduction="sum") / max(len(places), 1)
