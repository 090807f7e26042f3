"""The shape of a Phi-3 model, from its ``config.json``: all that a forward pass needs to know besides the weights.

It is read here and not by transformers, whose import takes longer than loading phi3-nano.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...schemas import ModelUnusable

_NO_WINDOW = 1 << 30  # tokens; more than any prompt has
_ORIGINAL = 4_096  # positions before LongRoPE made them more, where a configuration does not say
_LONG_ROPE = ("longrope", "su", "yarn")  # one kind, by its names in newer and older configurations


@dataclass(frozen=True)
class Rotary:
    """Parameters of rotary position embeddings (RoPE, Su et al. 2021, arXiv:2104.09864).

    Attributes:
        size: how many components of a head are rotated; the rest stays as it is.
        theta: the base of the frequencies.
        stretch: the divisor of each frequency; empty for none (LongRoPE, Ding et al. 2024, arXiv:2402.13753).
        gain: the factor of cosines and sines.
    """

    size: int
    theta: float
    stretch: tuple[float, ...] = ()
    gain: float = 1.0


@dataclass(frozen=True)
class Shape:
    """The shape of one Phi-3 model.

    Attributes:
        layers: how many.
        hidden: the hidden size.
        heads: query heads.
        key_heads: heads of keys and values; fewer than ``heads`` in grouped-query attention.
        epsilon: of the norms.
        window: size of the sliding window: how many tokens a query sees, itself included.
        max_tokens: the longest prompt; with LongRoPE, the longest that has the short frequencies.
        rotary: the rotary position embeddings.
        means: how many heads, counted from the last, are mean heads without queries and keys (``means``).
    """

    layers: int
    hidden: int
    heads: int
    key_heads: int
    epsilon: float
    window: int
    max_tokens: int
    rotary: Rotary
    means: int = 0

    @property
    def head(self) -> int:
        """The size of one head."""
        return self.hidden // self.heads


def read_shape(folder: Path) -> Shape:
    """The shape of the model in ``folder``.

    Raises:
        ModelUnusable: it has parts that this engine does not support.
    """
    return shape_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def shape_of(config: dict[str, Any]) -> Shape:
    """The shape by the values of a ``config.json`` that transformers 4 or 5 has written.

    Raises:
        ModelUnusable: as ``read_shape``.
    """
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise ModelUnusable(f"the model's activation is {activation!r}: Phi-3 models have 'silu'")
    hidden, heads, longest = (
        config[name] for name in ("hidden_size", "num_attention_heads", "max_position_embeddings")
    )
    if hidden % heads or (config.get("head_dim") or hidden // heads) * heads != hidden:
        raise ModelUnusable(f"the model's {heads} heads do not make up its hidden size, {hidden}: Phi-3's do")
    original = config.get("original_max_position_embeddings") or _ORIGINAL
    rotary = _rotary(config, hidden // heads, longest, original)
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        key_heads=config.get("num_key_value_heads") or heads,
        epsilon=config.get("rms_norm_eps", 1e-5),
        window=config.get("sliding_window") or _NO_WINDOW,
        # Longer prompts have other frequencies at every position, also of their first token.
        max_tokens=min(longest, original) if rotary.stretch else longest,
        rotary=rotary,
    )


def _rotary(config: dict[str, Any], head: int, longest: int, original: int) -> Rotary:
    positions = config.get("rope_parameters") or config.get("rope_scaling") or {}
    share = positions.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    size, theta = int(head * share), positions.get("rope_theta", config.get("rope_theta", 10_000.0))
    kind = positions.get("rope_type", positions.get("type", "default"))
    if kind == "default":
        return Rotary(size, theta)
    stretch = tuple(positions.get("short_factor") or ())
    if kind not in _LONG_ROPE or len(stretch) != size // 2:
        raise ModelUnusable(
            f"the model's positions are of the kind {kind!r}, with {len(stretch)} short factors: Phi-3 models have "
            f"'default', or 'longrope' with one for each of {size // 2} frequencies"
        )
    longer = max(1.0, positions.get("factor") or longest / original)
    gain = positions.get("attention_factor") or math.sqrt(1 + math.log(longer) / math.log(original))
    return Rotary(size, theta, stretch, gain)
