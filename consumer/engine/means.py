"""Mean heads: attention heads whose queries and keys are zero, so that they weigh all tokens they see alike.

phi3-nano has one in each layer (DECISIONS.md). On CPUs their output is a running mean of the values, and their queries
and keys are left out. The gradients of these are zero too, so that a mean head stays one in training.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .shape import Shape


def joint_weights(shape: Shape) -> list[str]:
    """The names of the weights that project to queries, keys and values, one for each layer."""
    return [f"model.layers.{layer}.self_attn.qkv_proj.weight" for layer in range(shape.layers)]


def mean_heads(by_layer: Iterable[Sequence[Tensor]], shape: Shape) -> int:
    """How many heads, counted from the last, are mean heads in every layer; at most all but one.

    0 where heads share keys, or where a sliding window may hide earlier tokens, so that the mean is not over all.

    Args:
        by_layer: the matrices of each layer that have a row for each component of queries, keys and values: the
            weight and, with LoRA, the B matrices.
        shape: of the model.
    """
    if shape.heads != shape.key_heads or shape.window < shape.max_tokens:
        return 0
    fewest = shape.heads - 1
    for joint in by_layer:
        if any(len(each) != 3 * shape.hidden for each in joint):
            return 0  # a weight quantized to four bits
        queries, keys = zip(*(each.unflatten(0, (3, shape.heads, -1))[:2] for each in joint), strict=True)
        attends = (any(each[-count].any() for each in (*queries, *keys)) for count in range(1, fewest + 1))
        fewest = next((count for count, one in enumerate(attends) if one), fewest)
    return fewest


def without_queries_and_keys(weights: Mapping[str, Tensor], shape: Shape, means: int) -> dict[str, Tensor]:
    """The weights without the rows for queries and keys of the last ``means`` heads of each layer."""
    lean = dict(weights)
    for name in joint_weights(shape) if means else ():
        queries, keys, values = weights[name].chunk(3)
        attending = (shape.heads - means) * shape.head
        lean[name] = torch.cat([queries[:attending], keys[:attending], values])
    return lean


class RunningMeans:
    """Means of the values up to given positions, for the packed prompts of one row."""

    def __init__(self, positions: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        """
        Args:
            positions: of each prompt, where means are asked for.
            lengths: the number of each prompt's tokens, without those of the past.
        """
        self._lengths = list(lengths)
        self._positions = [torch.tensor(each) for each in positions]
        self._shares = [1 / (each + 1).unsqueeze(1) for each in self._positions]

    def of(self, values: Tensor, past: Tensor | None) -> Tensor:
        """The mean of all values up to each position, shape (positions, heads, head size).

        Args:
            values: shape (heads, tokens, head size).
            past: the values of the prefix, shaped as ``values``.
        """
        before, count = (0, 0) if past is None else (past.sum(1, keepdim=True, dtype=torch.float32), past.shape[1])
        means: list[Tensor] = []
        for value, positions, share in zip(values.split(self._lengths, 1), self._positions, self._shares, strict=True):
            sums = value.cumsum(1, dtype=torch.float32) + before
            means.append((sums if len(positions) == sums.shape[1] else sums[:, positions - count]) * share)
        return torch.cat(means, 1).transpose(0, 1).to(values.dtype)
