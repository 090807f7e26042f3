"""Causal attention of packed prompts: each looks at the prompt's fixed beginning and at itself, at no neighbour.

By blocks of query rows, each one product, softmax, product: on CPUs faster than torch's own kernel, for training too
(DECISIONS.md). What a block may see is worked out once and serves every layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

Past = tuple[Tensor, Tensor]
"""Keys and values of the prompt's fixed beginning in one layer, laid out for the attention that they are for."""

# Positions are cut at its multiples, so that the blocks of all prompts have few shapes: oneDNN prepares each shape,
# which takes longer than its product.
_BLOCK = 128
_ROWS = (8, 32, 64, 128)  # of a block, filled up; the fewest are for slots
_KEYS = 64  # a multiple of it, filled up


@dataclass(frozen=True)
class Block:
    """Query rows of one prompt that are computed at once.

    Attributes:
        count: of the queries.
        filling: rows behind them that are computed and dropped.
        keys: what any of them sees, perhaps some beyond the prompt's last that none sees.
        masked: of these the first that not all see.
        hidden: minus infinity where a row does not see a key from ``masked`` on, else zero; shape (rows, keys). None
            where all are seen.
    """

    count: int
    filling: int
    keys: slice
    masked: int
    hidden: Tensor | None


def causal_blocks(positions: Sequence[int], window: int, dtype: torch.dtype, device: torch.device) -> list[Block]:
    """The blocks of one prompt's queries at ``positions``, which rise; keys stand at 0, 1, 2, ….

    Args:
        positions: of the queries.
        window: tokens that a query looks back, its own included.
        dtype: of the scores.
        device: where they are.
    """
    together = groupby(positions, key=lambda position: position // _BLOCK)
    return [_block(list(some), window, dtype, device) for _, some in together]


def _block(positions: list[int], window: int, dtype: torch.dtype, device: torch.device) -> Block:
    filling = next(rows for rows in _ROWS if rows >= len(positions)) - len(positions)
    first, end = max(0, positions[0] + 1 - window), -(-(positions[-1] + 1) // _KEYS) * _KEYS
    # All rows see the keys before the first row's own, unless the last row's window has left some behind.
    masked = first if positions[-1] >= window else positions[0] + 1
    # What fills up goes on from the last, as another prompt's rows would; each must see a key.
    rows = [*positions, *(min(positions[-1] + 1 + number, end - 1) for number in range(filling))]
    hidden = _hidden(tuple(rows), masked, end, window, dtype, device)
    return Block(len(positions), filling, slice(first, end), masked - first, hidden)


@lru_cache(64)  # most prompts have the same
def _hidden(
    rows: tuple[int, ...], masked: int, end: int, window: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    keys, places = torch.arange(masked, end), torch.tensor(rows).unsqueeze(1)
    unseen = (keys > places) | (keys <= places - window)
    return torch.zeros(unseen.shape).masked_fill(unseen, -torch.inf).to(device, dtype) if unseen.any() else None


def attend(
    query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], past: Past | None = None
) -> list[Tensor]:
    """Attention of one prompt's queries, already scaled, block by block.

    Args:
        query: shape (heads, queries, size).
        key, value: shape (key heads, keys, size).
        blocks: of these queries.
        past: keys and values that stand in front of these.

    Returns:
        Of each block shape (queries, heads, size), not contiguous: the caller joins them all at once.
    """
    pasts, end = past or (None, None), blocks[-1].keys.stop
    key, value = (
        per_head(_behind(before, own, end), len(query)) for before, own in zip(pasts, (key, value), strict=True)
    )
    attended = []
    for block, rows in zip(blocks, query.split([block.count for block in blocks], 1), strict=True):
        filled = functional.pad(rows, (0, 0, 0, block.filling)) if block.filling else rows
        scores = torch.bmm(filled, key[:, block.keys].transpose(1, 2))
        if block.hidden is not None:
            # Past autograd: what is hidden has no share in the softmax, and so no gradient in any case.
            scores.detach()[:, :, block.masked :].add_(block.hidden)
        done = torch.bmm(scores.softmax(-1), value[:, block.keys])
        attended.append(done[:, : block.count].transpose(0, 1))
    return attended


def _behind(past: Tensor | None, own: Tensor, end: int) -> Tensor:
    """Keys or values, one behind the other, and zeros up to ``end``."""
    pieces = [own] if past is None else [past, own]
    if filling := end - sum(each.shape[1] for each in pieces):
        pieces.append(own.new_zeros(len(own), filling, own.shape[2]))
    return torch.cat(pieces, 1) if len(pieces) > 1 else own


class InBlocks:
    """Of the prompts of one row, on any device. Heads come as shape (tokens, heads, size)."""

    def __init__(
        self,
        positions: Sequence[Sequence[int]],
        lengths: Sequence[int],
        window: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """
        Args:
            positions: of each prompt's queries.
            lengths: tokens of each prompt beyond what is past.
            window: tokens that a query looks back, its own included.
            dtype: of queries, keys and values.
            device: where they are.
        """
        self._counts, self._lengths = list(map(len, positions)), list(lengths)
        self._blocks = [causal_blocks(each, window, dtype, device) for each in positions]

    def queries(self, heads: Tensor) -> Tensor:
        return heads.mul(heads.shape[-1] ** -0.5).transpose(0, 1)

    def keys(self, heads: Tensor) -> Tensor:
        return heads.transpose(0, 1)

    def values(self, heads: Tensor) -> Tensor:
        return heads.transpose(0, 1)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: Past | None = None) -> Tensor:
        """One row a query, its heads side by side."""
        # Split at once: slices would each have a gradient of the whole's size.
        each = zip(
            queries.split(self._counts, 1), keys.split(self._lengths, 1), values.split(self._lengths, 1), self._blocks,
            strict=True,
        )  # fmt: skip
        attended: list[Tensor] = []
        for query, key, value, blocks in each:
            attended += attend(query, key, value, blocks, past)
        return torch.cat(attended).flatten(1)


def per_head(each: Tensor, heads: int) -> Tensor:
    """Keys or values repeated, where several heads share them; the heads come first."""
    return each if len(each) == heads else each.repeat_interleave(heads // len(each), dim=0)
