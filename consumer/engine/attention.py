"""Causal attention of packed prompts: each looks at the prompt's fixed beginning and at itself, at no neighbour.

By blocks of query rows, each one product, softmax, product: on CPUs faster than torch's own kernel, for training too
(DECISIONS.md). What a block may see is worked out once and serves every layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Past = tuple[Tensor, Tensor]
"""Keys and values of the prompt's fixed beginning in one layer, laid out for the attention that they are for."""

_BLOCK_ROWS = 128  # fewer would save more of the masked half, and cost more calls


@dataclass(frozen=True)
class Block:
    """Query rows of one prompt that are computed at once.

    Attributes:
        rows: which of the prompt's queries.
        keys: what any of them sees.
        masked: of these the first that not all see.
        hidden: where a row does not see a key from ``masked`` on, shape (rows, keys); None where all are seen.
    """

    rows: slice
    keys: slice
    masked: int
    hidden: Tensor | None


def causal_blocks(positions: Sequence[int], window: int, device: torch.device) -> list[Block]:
    """The blocks of one prompt's queries at ``positions``, which rise; keys stand at 0, 1, 2, ….

    Args:
        positions: of the queries.
        window: tokens that a query looks back, its own included.
        device: of the masks.
    """
    return [
        _block(start, positions[start : start + _BLOCK_ROWS], window, device)
        for start in range(0, len(positions), _BLOCK_ROWS)
    ]


def _block(start: int, positions: Sequence[int], window: int, device: torch.device) -> Block:
    first, end = max(0, positions[0] + 1 - window), positions[-1] + 1
    # All rows see the keys before the first row's own, unless the last row's window has left some behind.
    masked = first if positions[-1] >= window else positions[0] + 1
    keys = torch.arange(masked, end, device=device)
    rows = torch.tensor(positions, device=device).unsqueeze(1)
    hidden = (keys > rows) | (keys <= rows - window) if masked < end else None
    return Block(slice(start, start + len(positions)), slice(first, end), masked - first, hidden)


def attend(query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Attention of one prompt's queries, already scaled, block by block.

    Args:
        query: shape (heads, queries, size).
        key: shape (key heads, size, keys).
        value: shape (key heads, keys, size).
        blocks: of these queries.

    Returns:
        Of each block shape (queries, heads, size), not contiguous: the caller joins them all at once.
    """
    key, value = (per_head(each, len(query)) for each in (key, value))
    attended = []
    for block, rows in zip(blocks, query.split(_BLOCK_ROWS, 1), strict=True):
        scores = torch.bmm(rows, key[:, :, block.keys])
        if block.hidden is not None:
            # Past autograd: what is hidden has no share in the softmax, and so no gradient in any case.
            scores.detach()[:, :, block.masked :].masked_fill_(block.hidden, -torch.inf)
        attended.append(torch.bmm(scores.softmax(-1), value[:, block.keys]).transpose(0, 1))
    return attended


class InBlocks:
    """Of the prompts of one row, on any device. Heads come as shape (tokens, heads, size)."""

    def __init__(
        self, positions: Sequence[Sequence[int]], lengths: Sequence[int], window: int, device: torch.device
    ) -> None:
        """
        Args:
            positions: of each prompt's queries.
            lengths: tokens of each prompt beyond what is past.
            window: tokens that a query looks back, its own included.
            device: where they are.
        """
        self._counts, self._lengths = list(map(len, positions)), list(lengths)
        self._blocks = [causal_blocks(each, window, device) for each in positions]

    def queries(self, heads: Tensor) -> Tensor:
        return heads.mul(heads.shape[-1] ** -0.5).transpose(0, 1).contiguous()

    def keys(self, heads: Tensor) -> Tensor:
        return heads.permute(1, 2, 0)

    def values(self, heads: Tensor) -> Tensor:
        return heads.transpose(0, 1)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: Past | None = None) -> Tensor:
        """One row a query, its heads side by side."""
        # Split at once: slices would each have a gradient of the whole's size.
        each = zip(
            queries.split(self._counts, 1), keys.split(self._lengths, 2), values.split(self._lengths, 1), self._blocks,
            strict=True,
        )  # fmt: skip
        attended: list[Tensor] = []
        for query, key, value, blocks in each:
            if past:
                key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 1)
            attended += attend(query, key, value, blocks)
        return torch.cat(attended).flatten(1)


def per_head(each: Tensor, heads: int) -> Tensor:
    """Keys or values repeated, where several heads share them; the heads come first."""
    return each if len(each) == heads else each.repeat_interleave(heads // len(each), dim=0)
