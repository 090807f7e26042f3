"""Rotary positions: cosines and sines of every position once, and the heads turned by them."""

import torch
from torch import Tensor

from .shape import Rotary

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of tokens, each of shape (tokens, rotated numbers); the first half of the sines is negative."""


def cosines_and_sines(rotary: Rotary, positions: int, dtype: torch.dtype, device: torch.device) -> Rotation:
    """Of the first so many positions."""
    steps = torch.arange(0, rotary.size, 2, dtype=torch.float) / rotary.size
    frequencies = 1 / (torch.tensor(rotary.stretch or 1.0) * rotary.theta**steps)
    angles = torch.arange(positions).float().unsqueeze(1) * frequencies
    cosines, sines = angles.cos() * rotary.gain, angles.sin() * rotary.gain
    return (
        torch.cat([cosines, cosines], 1).to(device, dtype),
        torch.cat([-sines, sines], 1).to(device, dtype),
    )


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Turn each head by its token's position; where a model rotates part of each head, the rest stays.

    Args:
        heads: shape (tokens, heads, size).
        rotation: of these tokens.
    """
    cosines, sines = (each.unsqueeze(1) for each in rotation)
    size = cosines.shape[-1]
    turned, still = heads[..., :size], heads[..., size:]
    first, second = turned.chunk(2, -1)
    turned = torch.addcmul(turned * cosines, torch.cat([second, first], -1), sines)
    return torch.cat([turned, still], -1) if still.shape[-1] else turned
