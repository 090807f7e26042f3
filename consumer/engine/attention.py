"""Causal attention over packed prompts: each attends to the shared prefix and to itself, never to its neighbours.

Queries are computed in blocks: scores, softmax, weighted sum. On CPUs this is faster than torch's own kernel, in
training too (DECISIONS.md). The blocks and their masks are made once for a row of prompts and serve every layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .means import RunningMeans

Past = tuple[Tensor, Tensor]
"""The KV cache of the prefix in one layer: its keys and values, in the layout of the attention that reads them."""

# Blocks are cut at multiples of this position, so that those of all prompts have few shapes: oneDNN prepares each new
# shape, which takes longer than the product itself.
_BLOCK = 128
_ROWS = (8, 32, 64, 128)  # a block is padded to one of these numbers of queries; the smallest is for slots
_KEYS = 64  # keys are padded to a multiple of this
_MASKED = 32  # a mask begins at a multiple of this, the width of a vector: torch adds the rest of a row one by one


@dataclass(frozen=True)
class Block:
    """Queries of one prompt that are computed at once.

    Attributes:
        count: number of queries.
        padding: number of rows after the queries, which are computed and dropped.
        keys: the keys that the queries see, and perhaps padding after the prompt's last key, which none sees.
        masked: where the mask begins, counted from the first of ``keys``: every query sees the keys before it.
        mask: the additive mask from ``masked`` on, shape (rows, masked keys): minus infinity where a row does not
            see a key, else zero. None where every row sees every key.
    """

    count: int
    padding: int
    keys: slice
    masked: int
    mask: Tensor | None


def causal_blocks(positions: Sequence[int], window: int, dtype: torch.dtype, device: torch.device) -> list[Block]:
    """Cut one prompt's queries into blocks.

    Args:
        positions: of the queries, in rising order; the keys' positions are 0, 1, 2, ….
        window: size of the sliding window: how many tokens a query sees, itself included.
        dtype: of the scores.
        device: of the scores.
    """
    together = groupby(positions, key=lambda position: position // _BLOCK)
    return [_block(list(some), window, dtype, device) for _, some in together]


def _block(positions: list[int], window: int, dtype: torch.dtype, device: torch.device) -> Block:
    padding = next(rows for rows in _ROWS if rows >= len(positions)) - len(positions)
    first, end = max(0, positions[0] + 1 - window), -(-(positions[-1] + 1) // _KEYS) * _KEYS
    # Every query sees the keys up to the first query's own, unless the last query's window has moved past some.
    masked = first if positions[-1] >= window else positions[0] + 1
    masked -= (masked - first) % _MASKED
    # Padding takes the next positions, as the rows of a longer prompt would; each row must see a key.
    rows = [*positions, *(min(positions[-1] + 1 + number, end - 1) for number in range(padding))]
    mask = _mask(tuple(rows), masked, end, window, dtype, device)
    return Block(len(positions), padding, slice(first, end), masked - first, mask)


@lru_cache(64)  # most prompts have the same masks
def _mask(
    rows: tuple[int, ...], masked: int, end: int, window: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    keys, places = torch.arange(masked, end), torch.tensor(rows).unsqueeze(1)
    unseen = (keys > places) | (keys <= places - window)
    return torch.zeros(unseen.shape).masked_fill(unseen, -torch.inf).to(device, dtype) if unseen.any() else None


def attend(
    query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], past: Past | None = None
) -> list[Tensor]:
    """Attention of one prompt's queries, which are already scaled, block by block.

    Args:
        query: shape (heads, queries, head size).
        key, value: shape (key heads, keys, head size).
        blocks: of these queries.
        past: keys and values that precede these.

    Returns:
        One tensor for each block, shape (queries, heads, head size), not contiguous: the caller concatenates the
        tensors of all prompts at once.
    """
    key, value = (per_head(each, len(query)) for each in _all_keys_and_values(key, value, blocks, past))
    return [done for _, done in _block_by_block(query, key, value, blocks)]


def _all_keys_and_values(key: Tensor, value: Tensor, blocks: Sequence[Block], past: Past | None) -> Past:
    pasts, end = past or (None, None), blocks[-1].keys.stop
    return _behind(pasts[0], key, end), _behind(pasts[1], value, end)


def _block_by_block(
    query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block]
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each block its attention weights, shape (heads, rows, keys), and its output as ``attend`` returns it."""
    for block, weights in zip(blocks, _weights(query, key, blocks), strict=True):
        yield weights, torch.bmm(weights, value[:, block.keys])[:, : block.count].transpose(0, 1)


def _weights(query: Tensor, key: Tensor, blocks: Sequence[Block]) -> Iterator[Tensor]:
    """The attention weights of each block, shape (heads, rows, keys)."""
    for block, rows in zip(blocks, _split(query, blocks), strict=True):
        scores = torch.bmm(rows, transposed(key[:, block.keys]))
        if block.mask is not None:
            scores[:, :, block.masked :].add_(block.mask)
        yield scores.softmax(-1)


def _split(rows: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Split rows by block, each padded to the block's size; shape (heads, rows, head size)."""
    parts = rows.split([block.count for block in blocks], 1)
    return [
        functional.pad(part, (0, 0, 0, block.padding)) if block.padding else part
        for part, block in zip(parts, blocks, strict=True)
    ]


def transposed(part: Tensor) -> Tensor:
    """The transpose of each head. A slice is copied first: torch would copy a transposed one number by number."""
    return part.contiguous().transpose(1, 2)


def _behind(past: Tensor | None, own: Tensor, end: int) -> Tensor:
    """Past and own keys or values, concatenated and padded with zeros up to ``end``."""
    pieces = [own] if past is None else [past, own]
    if padding := end - sum(each.shape[1] for each in pieces):
        pieces.append(own.new_zeros(len(own), padding, own.shape[2]))
    return torch.cat(pieces, 1) if len(pieces) > 1 else own


class BlockAttention:
    """Attention over the packed prompts of one row, in blocks, on any device.

    ``queries``, ``keys`` and ``values`` take heads of shape (tokens, heads, head size) and lay them out for ``attend``.
    """

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
            lengths: the number of each prompt's own keys, without those of the past.
            window: size of the sliding window: how many tokens a query sees, itself included.
            dtype: of queries, keys and values.
            device: of queries, keys and values.
        """
        self._positions, self._counts, self._lengths = positions, list(map(len, positions)), list(lengths)
        self._blocks = [causal_blocks(each, window, dtype, device) for each in positions]

    def queries(self, heads: Tensor) -> Tensor:
        return heads.mul(heads.shape[-1] ** -0.5).transpose(0, 1)

    def keys(self, heads: Tensor) -> Tensor:
        return heads.transpose(0, 1)

    def values(self, heads: Tensor) -> Tensor:
        return heads.transpose(0, 1)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: Past | None = None) -> Tensor:
        """One row for each query, its heads concatenated. The last heads, if they have values only, are mean heads."""
        if len(keys) == len(values):
            return self._attend(queries, keys, values, past).flatten(1)
        kinds = [len(keys), len(values) - len(keys)]
        seen, averaged = values.split(kinds)
        if past is None:
            attended, means = self._attend(queries, keys, seen, None), self._means.of(averaged, None)
        else:
            past_seen, past_averaged = past[1].split(kinds)
            attended = self._attend(queries, keys, seen, (past[0], past_seen))
            means = self._means.of(averaged, past_averaged)
        return torch.cat([attended, means], 1).flatten(1)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: Past | None) -> Tensor:
        """The output of the heads that have queries and keys, shape (queries, heads, head size)."""
        if torch.is_grad_enabled() and queries.requires_grad:
            learned: Tensor = _Attended.apply(self, queries, keys, values, *(past or (None, None)))  # type: ignore[no-untyped-call]
            return learned
        attended: list[Tensor] = []
        for query, key, value, blocks in self.each(queries, keys, values):
            attended += attend(query, key, value, blocks, past)
        return torch.cat(attended)

    @cached_property
    def _means(self) -> RunningMeans:
        return RunningMeans(self._positions, self._lengths)

    def each(
        self, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, list[Block]]]:
        """The queries, keys, values and blocks of each prompt."""
        return zip(
            queries.split(self._counts, 1), keys.split(self._lengths, 1), values.split(self._lengths, 1), self._blocks,
            strict=True,
        )  # fmt: skip


class AttentionOverStates(BlockAttention):
    """Attention at a few tokens of each prompt that sums hidden states instead of values; without gradient.

    A value is a state times a weight, and a weighted sum of such products is the product of the weighted sum. So a
    layer whose output is needed at few tokens multiplies only the sums with the weight, not the states of all tokens.
    """

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: Past | None = None) -> Tensor:
        """The weighted sums of each head, then the mean of all states; shape (queries, heads + 1, hidden size).

        Args:
            queries, keys: in the layout of ``BlockAttention``.
            values: the states, as the values of a single head.
            past: keys and states of the prefix.
        """
        found: list[Tensor] = []
        for query, key, state, blocks in self.each(queries, keys, values):
            key, [states] = _all_keys_and_values(key, state, blocks, past)
            key = per_head(key, len(query))
            # The additional head has zeros as queries, so it weighs all states alike, whatever the keys.
            query, key = functional.pad(query, (0, 0, 0, 0, 0, 1)), torch.cat([key, key[:1]])
            for block, weights in zip(blocks, _weights(query, key, blocks), strict=True):
                sums = weights[:, : block.count].flatten(0, 1) @ states[block.keys]
                found.append(sums.unflatten(0, (len(query), -1)).transpose(0, 1))
        return torch.cat(found)


class _Attended(torch.autograd.Function):
    """Attention whose backward pass adds up the gradients of keys and values in place.

    Autograd would make a tensor of all keys for each block. Queries, keys and values are in the layout of
    ``BlockAttention.attend``; the output has shape (queries, heads, head size).
    """

    @staticmethod
    def forward(
        ctx: Any,
        prompts: BlockAttention,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        past_keys: Tensor | None,
        past_values: Tensor | None,
    ) -> Tensor:
        past = None if past_keys is None or past_values is None else (past_keys, past_values)
        attended: list[Tensor] = []
        saved = [queries]
        for query, key, value, blocks in prompts.each(queries, keys, values):
            joint = _all_keys_and_values(key, value, blocks, past)
            all_keys, all_values = (per_head(each, len(query)) for each in joint)
            weights, done = zip(*_block_by_block(query, all_keys, all_values, blocks), strict=True)
            attended += done
            saved += [*joint, *weights]
        ctx.prompts, ctx.past = prompts, 0 if past is None else past[0].shape[1]
        ctx.own = len(keys), keys.shape[1]
        ctx.save_for_backward(*saved)
        return torch.cat(attended)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        queries, *saved = ctx.saved_tensors
        heads, size, rest = queries.shape[0], queries.shape[2], iter(saved)
        grad_queries, grad_keys = torch.empty_like(queries), queries.new_empty(*ctx.own, size)
        grad_values = queries.new_empty(ctx.own[1], ctx.own[0], size).transpose(0, 1)  # as the projection takes them
        grad_past = [queries.new_zeros(ctx.own[0], ctx.past, size) for _ in range(2)]
        each = zip(
            ctx.prompts.each(queries, grad_keys, grad_values), ctx.prompts.each(grad_queries, grad_keys, grad_values),
            ctx.prompts.each(grad_output.transpose(0, 1), grad_keys, grad_values), strict=True,
        )  # fmt: skip
        for (query, *own, blocks), (grad_query, *_), (gradient, *_) in each:
            joint = [per_head(next(rest), heads) for _ in range(2)]
            weights = [next(rest) for _ in blocks]
            found = _gradients(query, joint, weights, gradient, blocks, grad_query)
            for whole, mine, before in zip(found, own, grad_past, strict=True):
                shared = whole.unflatten(0, (len(mine), -1)).sum(1) if len(mine) < heads else whole
                before += shared[:, : ctx.past]
                mine.copy_(shared[:, ctx.past : ctx.past + mine.shape[1]])
        return None, grad_queries, grad_keys, grad_values, *(grad_past if ctx.past else (None, None))


def _gradients(
    query: Tensor,
    joint: Sequence[Tensor],
    weights: Sequence[Tensor],
    gradient: Tensor,
    blocks: Sequence[Block],
    grad_query: Tensor,
) -> list[Tensor]:
    """The gradients of one prompt's keys and values; those of its queries are written to ``grad_query``."""
    key, value = joint
    grad_key, grad_value = (torch.zeros_like(each) for each in joint)
    counts = [block.count for block in blocks]
    each = zip(
        blocks, weights, _split(query, blocks), _split(gradient, blocks), grad_query.split(counts, 1), strict=True
    )
    for block, share, rows, grad_rows, target in each:
        grad_value[:, block.keys].add_(torch.bmm(share.transpose(1, 2), grad_rows))
        grad_share = torch.bmm(grad_rows, transposed(value[:, block.keys]))
        grad_scores = torch._softmax_backward_data(grad_share, share, -1, share.dtype)
        target.copy_(torch.bmm(grad_scores, key[:, block.keys])[:, : block.count])
        grad_key[:, block.keys].add_(torch.bmm(grad_scores.transpose(1, 2), rows))
    return [grad_key, grad_value]


def per_head(each: Tensor, heads: int) -> Tensor:
    """Keys or values, repeated where several heads share them (grouped-query attention); shape (heads, …)."""
    return each if len(each) == heads else each.repeat_interleave(heads // len(each), dim=0)
