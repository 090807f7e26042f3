"""What a Phi-3's ``config.json`` says of its form: all that a forward pass needs to know beside the weights.

Read here and not by transformers, whose import takes longer than loading phi3-nano.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...schemas import ModelUnusable

_NO_WINDOW = 1 << 30  # tokens; more than any prompt has


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864).

    Attributes:
        size: how many numbers of a head are rotated; the rest stays.
        theta: the base of the frequencies.
        stretch: what each frequency is divided by; empty for none (LongRoPE, Ding et al. 2024, arXiv:2402.13753).
        gain: factor of cosines and sines.
    """

    size: int
    theta: float
    stretch: tuple[float, ...] = ()
    gain: float = 1.0


@dataclass(frozen=True)
class Shape:
    """The form of one Phi-3.

    Attributes:
        window: tokens that a query looks back, its own included.
        max_tokens: the longest prompt whose positions are all of one kind.
        means: heads, the last ones, that have neither queries nor keys (``means``).
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
        """Numbers of one head."""
        return self.hidden // self.heads


def read_shape(folder: Path) -> Shape:
    """Of the model in ``folder``.

    Raises:
        ModelUnusable: it has parts that this engine does not know.
    """
    return shape_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def shape_of(config: dict[str, Any]) -> Shape:
    """Of the values of a ``config.json``, written by transformers 4 or 5.

    Raises:
        ModelUnusable: as ``read_shape``.
    """
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise ModelUnusable(f"the model's activation is {activation!r}: Phi-3 models have 'silu'")
    hidden, heads, longest = (
        config[name] for name in ("hidden_size", "num_attention_heads", "max_position_embeddings")
    )
    positions = config.get("rope_parameters") or config.get("rope_scaling") or {}
    original = config.get("original_max_position_embeddings", longest)
    stretch = tuple(positions.get("short_factor") or ())
    share = positions.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        key_heads=config.get("num_key_value_heads") or heads,
        epsilon=config.get("rms_norm_eps", 1e-5),
        window=config.get("sliding_window") or _NO_WINDOW,
        # Longer prompts have other frequencies at every position, also of their first token.
        max_tokens=min(longest, original) if stretch else longest,
        rotary=Rotary(
            size=int(hidden // heads * share),
            theta=positions.get("rope_theta", config.get("rope_theta", 10_000.0)),
            stretch=stretch,
            gain=math.sqrt(1 + math.log(max(1.0, longest / original)) / math.log(original)) if stretch else 1.0,
        ),
    )
