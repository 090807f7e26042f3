"""Heads whose queries and keys are zero, so that they give equal weight to all tokens: they compute means.

phi3-nano has one in each layer (DECISIONS.md). A running sum gives the same result as attention, so on CPUs these heads
get neither queries nor keys. Their gradients are zero too, so that they stay so in training.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .shape import Shape


def joint_weights(shape: Shape) -> list[str]:
    """The names of the weights for queries, keys and values, by layer."""
    return [f"model.layers.{layer}.self_attn.qkv_proj.weight" for layer in range(shape.layers)]


def mean_heads(by_layer: Iterable[Sequence[Tensor]], shape: Shape) -> int:
    """How many of the last heads are means in every layer; at least one other head is left.

    Zero if heads share keys, or if a window may hide earlier tokens, so that the mean would not be that of all.

    Args:
        by_layer: what has a row for each number of queries, keys and values: a weight, and LoRA's second matrices.
        shape: of the model.
    """
    if shape.heads != shape.key_heads or shape.window < shape.max_tokens:
        return 0
    fewest = shape.heads - 1
    for joint in by_layer:
        if any(len(each) != 3 * shape.hidden for each in joint):
            return 0  # packed in four bits
        queries, keys = zip(*(each.unflatten(0, (3, shape.heads, -1))[:2] for each in joint), strict=True)
        looks = (any(each[-count].any() for each in (*queries, *keys)) for count in range(1, fewest + 1))
        fewest = next((count for count, one in enumerate(looks) if one), fewest)
    return fewest


def without_looking(weights: Mapping[str, Tensor], shape: Shape, means: int) -> dict[str, Tensor]:
    """The weights without queries and keys of so many heads of each layer."""
    lean = dict(weights)
    for name in joint_weights(shape) if means else ():
        queries, keys, values = weights[name].chunk(3)
        looking = (shape.heads - means) * shape.head
        lean[name] = torch.cat([queries[:looking], keys[:looking], values])
    return lean


class RunningMeans:
    """Of the values of several prompts in one row, at some positions of each."""

    def __init__(self, positions: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        """
        Args:
            positions: where means are asked for.
            lengths: tokens of each prompt beyond what is past.
        """
        self._lengths = list(lengths)
        self._positions = [torch.tensor(each) for each in positions]
        self._shares = [1 / (each + 1).unsqueeze(1) for each in self._positions]

    def of(self, values: Tensor, past: Tensor | None) -> Tensor:
        """The mean of all up to each position, shape (positions, heads, size).

        Args:
            values: shape (heads, tokens, size).
            past: of the prompt's fixed beginning, as ``values``.
        """
        before, count = (0, 0) if past is None else (past.sum(1, keepdim=True, dtype=torch.float32), past.shape[1])
        means: list[Tensor] = []
        for value, positions, share in zip(values.split(self._lengths, 1), self._positions, self._shares, strict=True):
            sums = value.cumsum(1, dtype=torch.float32) + before
            means.append((sums if len(positions) == sums.shape[1] else sums[:, positions - count]) * share)
        return torch.cat(means, 1).transpose(0, 1).to(values.dtype)
