"""Prompts, less their fixed beginning, one behind the other in one row of tokens: where each stands and how it attends.

In blocks on CPUs, and wherever the kernel that takes a whole row at once does not work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from .attention import InBlocks, OverStates, Past
from .rotary import Rotation
from .varlen import InOneCall, moved, varlen_works

_MULTIPLE = 256  # of tokens, for which products on a GPU are cut; a prompt that nobody reads fills the row up


class Attention(Protocol):
    """Of the prompts of one row. Heads come as shape (tokens, heads, size), and are laid out for ``attend``.

    Queries and keys are rotated when they are laid out.
    """

    def queries(self, heads: Tensor) -> Tensor: ...

    def keys(self, heads: Tensor) -> Tensor: ...

    def values(self, heads: Tensor) -> Tensor: ...

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: Past | None = None) -> Tensor:
        """One row a query: its heads side by side, or what ``OverStates`` finds."""
        ...


@dataclass(frozen=True)
class Row:
    """One row of tokens.

    Attributes:
        rotation: of every token.
        attention: of every token.
        filling: tokens at the end that belong to no prompt.
    """

    rotation: Rotation
    attention: Attention
    filling: int


@dataclass(frozen=True)
class Slots:
    """Where the answers of a row are read.

    Attributes:
        tokens: in the row, shape (slots,).
        queries: the tokens whose queries the attention asks for: the slots, or a few tokens around them.
        attention: of these.
        chosen: the slots among these; None where these are the slots.
    """

    tokens: Tensor
    queries: Tensor
    attention: Attention
    chosen: Tensor | None


class Rows:
    """Makes rows for one model on one device."""

    def __init__(self, rotation: Rotation, window: int, past: int, *, over_states: bool) -> None:
        """
        Args:
            rotation: of every position that a prompt may have.
            window: tokens that a query looks back, its own included.
            past: tokens of the prompt's fixed beginning.
            over_states: whether at the slots states are given in place of values.
        """
        self._window, self._past, self._device = window, past, rotation[0].device
        self._in_one_call = varlen_works(self._device, rotation[0].dtype)
        # As ``rotate`` takes them for heads that the attention has laid out.
        self._cosines, self._sines = (each.unsqueeze(1) if self._in_one_call else each for each in rotation)
        self._at_slots = OverStates if over_states else InBlocks

    def beginning(self) -> Row:
        """The fixed beginning alone."""
        return self._row([self._past], 0, 0)

    def row(self, lengths: Sequence[int]) -> Row:
        """Prompts of so many tokens each, beyond the fixed beginning."""
        filling = -sum(lengths) % _MULTIPLE if self._in_one_call else 0
        return self._row([*lengths, filling] if filling else lengths, self._past, filling)

    def _row(self, lengths: Sequence[int], past: int, filling: int) -> Row:
        places = torch.cat([torch.arange(past, past + length) for length in lengths])
        places = moved(places.clamp_(max=len(self._cosines) - 1), self._device)  # the filling may be longer than any
        return Row((self._cosines[places], self._sines[places]), self._attention(lengths, past), filling)

    def _attention(self, lengths: Sequence[int], past: int) -> Attention:
        if self._in_one_call:
            return InOneCall(lengths, lengths, past, self._window, self._device)
        positions = [range(past, past + length) for length in lengths]
        return InBlocks(positions, lengths, self._window, self._cosines.dtype, self._device)

    def slots(self, lengths: Sequence[int], offsets: Sequence[int]) -> Slots:
        """Of a row of such prompts.

        Args:
            lengths: as ``row`` takes them.
            offsets: of the slots from the end of a prompt, negative, rising.
        """
        ends = torch.tensor([*accumulate(lengths)]).unsqueeze(1)
        tokens = moved((ends + torch.tensor(offsets)).flatten(), self._device)
        if not self._in_one_call:
            positions = [[self._past + length + offset for offset in offsets] for length in lengths]
            attention = self._at_slots(positions, lengths, self._window, self._cosines.dtype, self._device)
            return Slots(tokens, tokens, attention, None)
        last = -min(offsets)  # the kernel's queries are the last tokens of each prompt
        queries = moved((ends + torch.arange(-last, 0)).flatten(), self._device)
        firsts = last * torch.arange(len(lengths)).unsqueeze(1)
        chosen = moved((firsts + last + torch.tensor(offsets)).flatten(), self._device)
        one_call = InOneCall([last] * len(lengths), lengths, self._past, self._window, self._device)
        return Slots(tokens, queries, one_call, chosen)
