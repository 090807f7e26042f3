"""Causal attention on CPUs, for serving and for training: blocks of query rows, each one product, softmax, product.

A training step of a small model is a third faster than with torch's own CPU kernel (DECISIONS.md). transformers makes
no mask for an attention it does not know, so causality is kept here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Phi3ForCausalLM

_NAME = "abstream_blocked"
_BLOCK_ROWS = 256  # fewer would save more of the masked half, and cost more calls


def use_blocked_attention(phi3: Phi3ForCausalLM, max_tokens: int) -> None:
    """Let ``phi3`` attend by ``blocked_attention``, where that is faster and gives the same.

    On CUDA, and where prompts can outgrow the model's sliding window, transformers' own choice stays.
    """
    window = phi3.config.sliding_window
    if phi3.device.type == "cpu" and (window is None or max_tokens < window):
        phi3.set_attn_implementation(_NAME)


def is_blocked(phi3: Phi3ForCausalLM) -> bool:
    """Whether ``phi3`` attends by ``blocked_attention``: causally, to every token before, and without a mask."""
    return bool(phi3.config._attn_implementation == _NAME)


def blocked_attention(
    module: nn.Module,  # noqa: ARG001 - transformers passes it
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - none is made for this attention
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of every query to the keys before it and its own; the last query belongs to the last key.

    Args:
        module: transformers' attention layer; unused.
        query: shape (batch, heads, queries, size).
        key: shape (batch, key heads, keys, size), with at least as many keys as queries.
        value: as ``key``.
        attention_mask: None; padding stands on the right, where no query looks.
        scaling: of the products.

    Returns:
        Shape (batch, queries, heads, size), and no weights.
    """
    batch, heads, queries, size = query.shape
    keys = key.shape[2]
    q = query.reshape(batch * heads, queries, size)
    k, v = (per_head(each, heads).reshape(batch * heads, keys, size) for each in (key, value))
    blocks = []
    for start in range(0, queries, _BLOCK_ROWS):
        rows = q[:, start : start + _BLOCK_ROWS]
        first = keys - queries + start  # the key of this block's first query
        seen = first + rows.shape[1]
        hidden = torch.full((rows.shape[1], seen), -torch.inf, dtype=q.dtype, device=q.device).triu(first + 1)
        scores = torch.baddbmm(hidden, rows, k[:, :seen].transpose(1, 2), alpha=scaling)
        blocks.append(torch.bmm(scores.softmax(-1), v[:, :seen]))
    attended = torch.cat(blocks, 1) if len(blocks) > 1 else blocks[0]
    return attended.view(batch, heads, queries, size).transpose(1, 2), None


def per_head(each: Tensor, heads: int) -> Tensor:
    """Keys or values repeated, where several heads share them."""
    return each if each.shape[1] == heads else each.repeat_interleave(heads // each.shape[1], dim=1)


AttentionInterface.register(_NAME, blocked_attention)
