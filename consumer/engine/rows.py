"""Prompts without their prefix, packed into one row of tokens: the positions of each, and how it attends.

Attention runs in blocks on CPUs, and wherever torch's kernel for a whole row (``varlen``) does not work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from .attention import AttentionOverStates, BlockAttention, Past
from .rotary import Rotation
from .varlen import VarlenAttention, moved, varlen_works

_MULTIPLE = 256  # of tokens, by which GPUs tile products; a prompt that nobody reads pads the row


class Attention(Protocol):
    """Attention over the packed prompts of one row.

    ``queries``, ``keys`` and ``values`` take heads of shape (tokens, heads, head size) and lay them out for ``attend``.
    Queries and keys are rotated after that.
    """

    def queries(self, heads: Tensor) -> Tensor: ...

    def keys(self, heads: Tensor) -> Tensor: ...

    def values(self, heads: Tensor) -> Tensor: ...

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: Past | None = None) -> Tensor:
        """One row for each query: its heads concatenated, or what ``AttentionOverStates`` returns."""
        ...


@dataclass(frozen=True)
class Row:
    """One row of tokens.

    Attributes:
        rotation: of all tokens.
        attention: of all tokens.
        padding: how many tokens at the end are padding.
    """

    rotation: Rotation
    attention: Attention
    padding: int


@dataclass(frozen=True)
class Slots:
    """The slots of a row: the tokens at which answers are read.

    Attributes:
        tokens: the index of each slot in the row, shape (slots,).
        queries: indices of the tokens whose queries ``attention`` takes: the slots, or also tokens around them.
        attention: of these queries.
        chosen: where the slots are among these queries; None where they are the same.
    """

    tokens: Tensor
    queries: Tensor
    attention: Attention
    chosen: Tensor | None


class Rows:
    """Makes the rows of one model on one device."""

    def __init__(self, rotation: Rotation, window: int, past: int, *, over_states: bool) -> None:
        """
        Args:
            rotation: of all positions that a prompt may have.
            window: size of the sliding window: how many tokens a query sees, itself included.
            past: the number of tokens of the prefix.
            over_states: whether attention at the slots takes hidden states in place of values.
        """
        self._window, self._past, self._device = window, past, rotation[0].device
        self._varlen = varlen_works(self._device, rotation[0].dtype)
        # Shaped to broadcast over heads in the layout of the attention.
        self._cosines, self._sines = (each.unsqueeze(1) if self._varlen else each for each in rotation)
        self._at_slots = AttentionOverStates if over_states else BlockAttention

    def beginning(self) -> Row:
        """The row of the prefix alone."""
        return self._row([self._past], 0, 0)

    def row(self, lengths: Sequence[int]) -> Row:
        """A row of prompts with the given numbers of tokens, without their prefix."""
        padding = -sum(lengths) % _MULTIPLE if self._varlen else 0
        return self._row([*lengths, padding] if padding else lengths, self._past, padding)

    def _row(self, lengths: Sequence[int], past: int, padding: int) -> Row:
        places = torch.cat([torch.arange(past, past + length) for length in lengths])
        places = moved(places.clamp_(max=len(self._cosines) - 1), self._device)  # padding may be longer than any prompt
        return Row((self._cosines[places], self._sines[places]), self._attention(lengths, past), padding)

    def _attention(self, lengths: Sequence[int], past: int) -> Attention:
        if self._varlen:
            return VarlenAttention(lengths, lengths, past, self._window, self._device)
        positions = [range(past, past + length) for length in lengths]
        return BlockAttention(positions, lengths, self._window, self._cosines.dtype, self._device)

    def slots(self, lengths: Sequence[int], offsets: Sequence[int]) -> Slots:
        """The slots of a row of prompts.

        Args:
            lengths: as for ``row``.
            offsets: of the slots from the end of a prompt, negative, in rising order.
        """
        ends = torch.tensor([*accumulate(lengths)]).unsqueeze(1)
        tokens = moved((ends + torch.tensor(offsets)).flatten(), self._device)
        if not self._varlen:
            positions = [[self._past + length + offset for offset in offsets] for length in lengths]
            attention = self._at_slots(positions, lengths, self._window, self._cosines.dtype, self._device)
            return Slots(tokens, tokens, attention, None)
        last = -min(offsets)  # the kernel's queries are the last tokens of each prompt
        queries = moved((ends + torch.arange(-last, 0)).flatten(), self._device)
        firsts = last * torch.arange(len(lengths)).unsqueeze(1)
        chosen = moved((firsts + last + torch.tensor(offsets)).flatten(), self._device)
        varlen = VarlenAttention([last] * len(lengths), lengths, self._past, self._window, self._device)
        return Slots(tokens, queries, varlen, chosen)
