"""Attention over packed prompts on CUDA: a whole row in one call of torch's kernel for sequences of varying length.

The keys and values of the prefix are copied in front of each prompt's. A prompt's queries are its last tokens, as the
kernel's causal mask assumes, which lets the last query see the last key.
"""

from collections.abc import Callable, Sequence
from functools import cache
from inspect import signature
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .attention import BlockAttention, Past

_TOLERANCE = 2e-2  # in bfloat16, for values of about one
Kernel = Callable[..., Any]


class VarlenAttention:
    """As ``BlockAttention``, in one call for a whole row. Heads stay in the shape (tokens, heads, head size)."""

    def __init__(
        self, counts: Sequence[int], lengths: Sequence[int], past: int, window: int, device: torch.device
    ) -> None:
        """
        Args:
            counts: the number of each prompt's queries, which are its last tokens.
            lengths: the number of each prompt's own keys, without those of the past.
            past: the number of tokens of the prefix, which precede those of each prompt.
            window: size of the sliding window: how many tokens a query sees, itself included.
            device: of queries, keys and values.
        """
        self._lengths, self._longest = list(lengths), (max(counts), past + max(lengths))
        ends = [*accumulate(counts, initial=0)], [*accumulate((past + each for each in lengths), initial=0)]
        self._ends = [moved(torch.tensor(each, dtype=torch.int32), device) for each in ends]
        self._look_back = -1 if self._longest[1] <= window else window - 1

    def queries(self, heads: Tensor) -> Tensor:
        return heads

    def keys(self, heads: Tensor) -> Tensor:
        return heads

    def values(self, heads: Tensor) -> Tensor:
        return heads

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: Past | None = None) -> Tensor:
        """One row for each query, its heads concatenated."""
        if past:
            keys, values = (self._behind(old, new) for old, new in zip(past, (keys, values), strict=True))
        call = kernel()
        known = signature(call).parameters
        if queries.shape[1] != keys.shape[1] and "enable_gqa" not in known:
            keys, values = (each.repeat_interleave(queries.shape[1] // keys.shape[1], 1) for each in (keys, values))
        shared = {"enable_gqa": True} if queries.shape[1] != keys.shape[1] else {}
        seen = (self._look_back, 0)  # torch before 2.12 has no window, for which ``varlen_works`` is False
        attended: Tensor = call(queries, keys, values, *self._ends, *self._longest, window_size=seen, **shared)
        return attended.flatten(1)

    def _behind(self, past: Tensor, own: Tensor) -> Tensor:
        return torch.cat([each for piece in own.split(self._lengths) for each in (past, piece)])


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; the host does not wait while it is copied to a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def kernel() -> Kernel:
    """torch's kernel, which older versions do not have."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@cache
def varlen_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has the kernel for this device and dtype, and it is correct; tried once, on two small prompts."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(12, 2, 64, generator=generator).to(device, dtype) for _ in range(3))
    past = key[:3], value[:3]
    blocks = BlockAttention([range(3, 8), range(3, 10)], [5, 7], 6, dtype, device)
    laid = blocks.queries(query), blocks.keys(key), blocks.values(value)
    try:
        with torch.no_grad():
            given = VarlenAttention([5, 7], [5, 7], 3, 6, device).attend(query, key, value, past)
    except (ImportError, RuntimeError, TypeError):  # not built in, or not for this GPU
        return False
    expected = blocks.attend(*laid, (blocks.keys(past[0]), blocks.values(past[1])))
    return bool((given - expected).abs().max() <= _TOLERANCE)
