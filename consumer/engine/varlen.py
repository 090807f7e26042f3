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
        if queries.shape[1] != keys.shape[1] and not _shares_heads(call):
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
def _shares_heads(call: Kernel) -> bool:
    """Whether the kernel knows grouped-query attention, as that of newer versions of torch does."""
    return "enable_gqa" in signature(call).parameters


@cache
def varlen_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has the kernel for this device and dtype, and it is correct; tried once, on two small prompts."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return kernel_is_right(device, dtype)


@torch.inference_mode()
def kernel_is_right(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel agrees with attention in blocks: with shared heads and without, and with a window and without.

    In each case two prompts share a past, and only their last tokens have queries. The blocks are computed in float32,
    so that only the kernel's own rounding counts.
    """
    return all(_agrees(heads, window, device, dtype) for heads in (2, 4) for window in (6, 10))


def _agrees(heads: int, window: int, device: torch.device, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(12, count, 64, generator=generator).to(device, dtype) for count in (heads, 2, 2))
    query, past = torch.cat([query[2:5], query[8:]]), (key[:3], value[:3])
    try:
        given = VarlenAttention([3, 4], [5, 7], 3, window, device).attend(query, key, value, past)
    except (ImportError, RuntimeError, TypeError):  # not built in, or not for this GPU
        return False
    blocks = BlockAttention([range(5, 8), range(6, 10)], [5, 7], window, torch.float32, device)
    own, before = ((blocks.keys(each.float()), blocks.values(other.float())) for each, other in ((key, value), past))
    expected = blocks.attend(blocks.queries(query.float()), *own, before)
    return bool((given - expected).abs().max() <= _TOLERANCE)
