"""Tokens that occur several times in a row: what depends on the token alone is computed once.

Of a pass of 2 048 tokens a third is distinct (ops/bench/RESULTS.md).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def distinct(ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Each token once, and the index of each of ``ids`` in them; on GPUs ``ids`` itself, as counting would synchronize.

    Args:
        ids: shape (tokens,).
    """
    return ids.unique(return_inverse=True) if ids.device.type == "cpu" else (ids, None)


def spread(rows: Tensor, places: Tensor | None) -> Tensor:
    """The rows of distinct tokens, repeated at each of their places from ``distinct``."""
    if places is None:
        return rows
    if rows.requires_grad:
        learned: Tensor = _Spread.apply(rows, places)  # type: ignore[no-untyped-call]
        return learned
    return rows.index_select(0, places)


class _Spread(torch.autograd.Function):
    """Adds the gradients of all places in float32, because in bfloat16 every addition would be rounded."""

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
