"""Tokens that stand in several places of a row: what is made of a token alone is made once.

Of a pass of 2 048 tokens a third is distinct (ops/bench/RESULTS.md).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def distinct(ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Each token once, and for each of ``ids`` where it is found; on GPUs all as they are, since counting would wait.

    Args:
        ids: shape (tokens,).
    """
    return ids.unique(return_inverse=True) if ids.device.type == "cpu" else (ids, None)


def spread(rows: Tensor, places: Tensor | None) -> Tensor:
    """The rows of distinct tokens at each of their places, as ``distinct`` gives them."""
    if places is None:
        return rows
    if rows.requires_grad:
        learned: Tensor = _Spread.apply(rows, places)  # type: ignore[no-untyped-call]
        return learned
    return rows.index_select(0, places)


class _Spread(torch.autograd.Function):
    """Gradients of all places are added in float32: in bfloat16 a frequent token's sum would be rounded each time."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None]:
        [places] = ctx.saved_tensors
        total = given.new_zeros(ctx.count, given.shape[1], dtype=torch.float32)
        return total.index_add_(0, places, given.float()).to(given.dtype), None
