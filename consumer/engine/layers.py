"""A layer of Phi-3 without its attention: the projection before it, and the output projection and MLP after it.

``TrainedLayer`` runs transformers' own modules, so that LoRA layers in them are trained. ``ServedLayer`` runs bare
weights, without importing transformers or PEFT; on CPUs by oneDNN, with weights packed once.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from . import products
from .breaks import take_a_break
from .learning import PIECE, gated, linear, normed
from .norms import rms_norm
from .parts import Parts
from .shape import Shape


class Layer(Protocol):
    """A decoder layer. Tensors have one row per token, and ``project`` and ``finish`` treat each row on its own."""

    def project(self, hidden: Tensor) -> Tensor:
        """Queries, keys and values, joint: shape (tokens, (heads + 2 * key heads - 2 * means) * head size)."""
        ...

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The layer's output, from its input and its attention's output, each of shape (tokens, hidden size)."""
        ...


class LastLayer(Layer, Protocol):
    """The last layer, which needs keys and values of all tokens, and everything else at the slots only.

    Attributes:
        over_states: whether attention at the slots is ``AttentionOverStates``, with hidden states in place of values.
    """

    over_states: bool

    def project_at(self, hidden: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the tokens ``at``, keys and values of all tokens, each of shape (tokens, heads, head size)."""
        ...

    def finish_at(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """As ``finish``, for the tokens whose queries were asked for."""
        ...


# Pieces are padded to one of a few sizes: oneDNN prepares a product for each number of rows, which takes longer than
# the product itself.
_STEP, _FEW = 32, 8


class TrainedLayer:
    """A layer over a ``Phi3DecoderLayer``, which may have LoRA layers in it."""

    over_states = False

    def __init__(self, layer: Any, shape: Shape) -> None:
        self._layer = layer
        self._head = shape.head
        means, values = shape.means * shape.head, shape.key_heads * shape.head
        self._head_counts = [shape.heads - shape.means, shape.key_heads - shape.means, shape.key_heads]
        self._parts = [shape.heads * shape.head - means, means, values - means, means, values] if means else []

    def project(self, hidden: Tensor) -> Tensor:
        projected = linear(self._layer.self_attn.qkv_proj, normed(self._layer.input_layernorm, hidden))
        if not self._parts:
            return projected
        query, _, key, _, value = projected.split(self._parts, 1)
        return torch.cat([query, key, value], 1)

    def project_at(self, hidden: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.project(hidden).unflatten(1, (-1, self._head)).split(self._head_counts, 1)
        return query[at], key, value

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        layer = self._layer
        hidden = hidden + layer.resid_attn_dropout(linear(layer.self_attn.o_proj, attended))
        inner = gated(linear(layer.mlp.gate_up_proj, normed(layer.post_attention_layernorm, hidden)))
        finished: Tensor = hidden + layer.resid_mlp_dropout(linear(layer.mlp.down_proj, inner))
        return finished

    def finish_at(self, hidden: Tensor, attended: Tensor) -> Tensor:
        return self.finish(hidden, attended)


class ServedLayer:
    """A layer over bare weights. On CPUs each addition, and the activation, is fused into the product before it."""

    def __init__(self, parts: Parts, number: int, shape: Shape, cut: int | tuple[int, ...] = 1) -> None:
        """
        Args:
            parts: holds the layer's weights.
            number: index of the layer.
            shape: of the network.
            cut: where the weight that projects to queries, keys and values is cut, as in ``Parts.products``.
        """
        take_a_break()  # packing the weights of a layer takes milliseconds
        of = f"model.layers.{number}."
        self._before, self._after = (
            parts.tensor(of + name) for name in ("input_layernorm.weight", "post_attention_layernorm.weight")
        )
        self._epsilon = shape.epsilon
        self._joint = parts.products(of + "self_attn.qkv_proj.weight", cut)
        (self._out,) = parts.products(of + "self_attn.o_proj.weight")
        self._gate_and_up = parts.products(of + "mlp.gate_up_proj.weight", 2 if parts.fuses else 1)
        (self._down,) = parts.products(of + "mlp.down_proj.weight")

    def project(self, hidden: Tensor) -> Tensor:
        return in_pieces(self._project, hidden)

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        return in_pieces(self._finish, hidden, attended)

    def _project(self, hidden: Tensor) -> Tensor:
        normed = self._joint[0].normed(hidden, self._before, self._epsilon)
        return torch.cat([part(normed) for part in self._joint], 1) if len(self._joint) > 1 else self._joint[0](normed)

    def _finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        joined = self._out.plus(attended, hidden)
        normed = self._gate_and_up[0].normed(joined, self._after, self._epsilon)
        return self._down.plus(products.gated(self._gate_and_up, normed), joined).to(hidden.dtype)


class ServedLast(ServedLayer):
    """The last layer. With ``over_states``, values are projected from the sums at the slots, not from each token."""

    def __init__(self, parts: Parts, number: int, shape: Shape, *, over_states: bool) -> None:
        self._attending, keys = shape.heads - shape.means, shape.key_heads - shape.means
        super().__init__(parts, number, shape, (self._attending * shape.head, (self._attending + keys) * shape.head))
        self._shape = shape
        self.over_states = over_states

    def project_at(self, hidden: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self._joint
        states = in_pieces(self._states, hidden)
        values = states.unsqueeze(1) if self.over_states else self._heads(value, states)
        return self._heads(query, states[at]), self._heads(key, states), values

    def finish_at(self, hidden: Tensor, attended: Tensor) -> Tensor:
        return self.finish(hidden, self._values(attended) if self.over_states else attended)

    def _states(self, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, self._before, self._epsilon)

    def _heads(self, product: products.Product, rows: Tensor) -> Tensor:
        heads: Tensor = in_pieces(product, rows).unflatten(1, (-1, self._shape.head))
        return heads

    def _values(self, found: Tensor) -> Tensor:
        """The heads' output, concatenated, from that of ``AttentionOverStates``; all mean heads share its last sum."""
        values = self._heads(self._joint[-1], found.flatten(0, 1)).unflatten(0, found.shape[:2])
        heads = torch.arange(self._shape.heads, device=found.device)
        own = heads.clamp(max=self._attending), heads * self._shape.key_heads // self._shape.heads
        chosen: Tensor = values[:, own[0], own[1]]
        return chosen.flatten(1)


def in_pieces(make: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Apply ``make``, which treats each row on its own, to the rows of several tensors; on CPUs piece by piece."""
    if rows[0].device.type != "cpu":
        return make(*rows)
    pieces = zip(*(each.split(PIECE) for each in rows), strict=True)
    done = [make(*padded(some))[: len(some[0])] for some in pieces]
    return torch.cat(done) if len(done) > 1 else done[0]


def padded(rows: Sequence[Tensor]) -> Sequence[Tensor]:
    """Pad with rows of zeros to one of a few sizes."""
    count = len(rows[0])
    padding = -count % (_STEP if count > 2 * _FEW else _FEW)
    return [functional.pad(each, (0, 0, 0, padding)) for each in rows] if padding else rows
