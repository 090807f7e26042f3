"""Rotary position embeddings (RoPE): the cosines and sines of all positions, and the rotation of heads by them."""

from typing import Any

import torch
from torch import Tensor

from .fused import Fused
from .shape import Rotary

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of tokens, each of shape (tokens, rotated size); the first half of the sines is negated."""


def cosines_and_sines(rotary: Rotary, positions: int, dtype: torch.dtype, device: torch.device) -> Rotation:
    """The cosines and sines of the first ``positions`` positions."""
    steps = torch.arange(0, rotary.size, 2, dtype=torch.float) / rotary.size
    frequencies = 1 / (torch.tensor(rotary.stretch or 1.0) * rotary.theta**steps)
    angles = torch.arange(positions).float().unsqueeze(1) * frequencies
    cosines, sines = angles.cos() * rotary.gain, angles.sin() * rotary.gain
    return (
        torch.cat([cosines, cosines], 1).to(device, dtype),
        torch.cat([-sines, sines], 1).to(device, dtype),
    )


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Rotate each head by its token's position; where a model rotates part of each head, the rest stays as it is.

    Args:
        heads: shape (heads, tokens, head size), which is faster on CPUs, or (tokens, heads, head size).
        rotation: of these tokens, of a shape that broadcasts over the heads.

    Returns:
        A contiguous tensor.
    """
    if heads.requires_grad:
        turned: Tensor = _Turned.apply(heads, *rotation)  # type: ignore[no-untyped-call]
        return turned
    return _turn(heads, *rotation)


class _Turned(torch.autograd.Function):
    """A rotation whose gradient is rotated back by the same angles, in half the passes that autograd would make."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return _turned(heads, cosines, sines)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosines, sines = ctx.saved_tensors
        return _turned(gradients[0], cosines, -sines), None, None


def _turned(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    size = cosines.shape[-1]
    turning, still = heads[..., :size], heads[..., size:]
    first, second = turning.chunk(2, -1)
    turned = torch.cat([second, first], -1).mul_(sines).addcmul_(turning.contiguous(), cosines)
    return torch.cat([turned, still], -1) if still.shape[-1] else turned


_turn = Fused(_turned)
