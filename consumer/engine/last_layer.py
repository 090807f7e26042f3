"""The last layer of Phi-3 where answers are read, and nowhere else: nobody looks at its other states.

Keys and values are needed of every token; attention, output projection and MLP of the slots only.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer, rotate_half

from .attention import per_head

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the tokens' positions, each of shape (1, tokens, rotated size)."""


def states_at(
    layer: Phi3DecoderLayer, hidden: Tensor, past: tuple[Tensor, Tensor], rotation: Rotation, at: Tensor
) -> Tensor:
    """What ``layer`` makes of the tokens ``at``: those rows of its whole output.

    Args:
        layer: a decoder layer of transformers' Phi-3.
        hidden: its input, shape (batch, tokens, hidden size).
        past: keys and values of the tokens before, each of shape (batch, key heads, tokens before, head size).
        rotation: of the tokens in ``hidden``.
        at: which tokens, shape (batch, slots).

    Returns:
        Shape (batch, slots, hidden size).
    """
    attention = layer.self_attn
    rows = torch.arange(len(hidden), device=hidden.device).unsqueeze(1)
    query, key, value = _projected(attention, layer.input_layernorm(hidden))
    cosines, sines = (each.unsqueeze(2) for each in rotation)
    query = _rotated(query[rows, at], cosines[0][at], sines[0][at])
    key = torch.cat([past[0], _rotated(key, cosines, sines).transpose(1, 2)], 2)
    value = torch.cat([past[1], value.transpose(1, 2)], 2)
    attended = _attended(query.transpose(1, 2), key, value, past[0].shape[2] + at, attention.scaling)
    states = hidden[rows, at] + layer.resid_attn_dropout(attention.o_proj(attended))
    result: Tensor = states + layer.resid_mlp_dropout(layer.mlp(layer.post_attention_layernorm(states)))
    return result


def _projected(attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each of shape (batch, tokens, heads, head size)."""
    config, size = attention.config, attention.head_dim
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    parts = attention.qkv_proj(hidden).split([each * size for each in heads], -1)
    query, key, value = (part.unflatten(-1, (each, size)) for part, each in zip(parts, heads, strict=True))
    return query, key, value


def _rotated(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions; where a model rotates part of each head, the rest stays (Su et al. 2021, arXiv:2104.09864)."""
    size = cosines.shape[-1]
    turned, still = states[..., :size], states[..., size:]
    return torch.cat([turned * cosines + rotate_half(turned) * sines, still], -1)


def _attended(query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scaling: float) -> Tensor:
    """Attention of each query to the keys up to its own position; shape (batch, slots, heads * head size)."""
    key, value = (per_head(each, query.shape[1]) for each in (key, value))
    hidden = torch.arange(key.shape[2], device=key.device) > positions[:, None, :, None]
    scores = (scaling * query @ key.transpose(2, 3)).masked_fill(hidden, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
