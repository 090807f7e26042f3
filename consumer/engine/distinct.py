"""Computes what depends on a token alone once for each distinct token, not at each of its places.

About a third of the tokens of a 2 048-token pass are distinct (ops/bench/RESULTS.md).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def distinct(ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """The distinct tokens, and for each of ``ids`` its index among them.

    On GPUs ``ids`` as they are, and None: the host would have to wait for the number of distinct tokens.

    Args:
        ids: shape (tokens,).
    """
    return ids.unique(return_inverse=True) if ids.device.type == "cpu" else (ids, None)


def spread(rows: Tensor, places: Tensor | None) -> Tensor:
    """Copy the rows of distinct tokens to all their places, which ``distinct`` returned."""
    if places is None:
        return rows
    if rows.requires_grad:
        learned: Tensor = _Spread.apply(rows, places)  # type: ignore[no-untyped-call]
        return learned
    return rows.index_select(0, places)


class _Spread(torch.autograd.Function):
    """Adds gradients in float32: in bfloat16 a frequent token's sum would be rounded at each addition."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        [places] = ctx.saved_tensors
        total = grad_output.new_zeros(ctx.count, grad_output.shape[1], dtype=torch.float32)
        return total.index_add_(0, places, grad_output.float()).to(grad_output.dtype), None
