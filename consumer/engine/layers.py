"""A layer of Phi-3 apart from its attention: what comes before it, and what comes after.

``TrainedLayer`` runs transformers' own modules, so that LoRA layers put into them learn. ``ServedLayer`` runs the bare
weights, for which neither transformers nor PEFT is imported; on CPUs by oneDNN with weights packed once.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from . import products
from .breaks import take_a_break
from .learning import PIECE, gated, linear, normed
from .parts import Parts
from .shape import Shape


class Layer(Protocol):
    """A token is a row. ``project`` and ``finish`` know no other row."""

    def project(self, hidden: Tensor) -> Tensor:
        """Queries, keys and values in one: shape (tokens, (heads + 2 * key heads - 2 * means) * size)."""
        ...

    def project_at(self, hidden: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Queries of the rows ``at``, keys and values of all: the last layer needs no more."""
        ...

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The layer's output, from its input and its attention's, each of shape (tokens, hidden size)."""
        ...


# A piece is filled up to one of few sizes: oneDNN prepares a product for each number of rows, which takes longer than
# the product itself.
_STEP, _FEW = 32, 8


class TrainedLayer:
    """Over a ``Phi3DecoderLayer``, perhaps with LoRA layers in it."""

    def __init__(self, layer: Any, shape: Shape) -> None:
        self._layer = layer
        means, keys = shape.means * shape.head, shape.key_heads * shape.head
        self._queries = shape.heads * shape.head - means
        self._parts = [self._queries, means, keys - means, means, keys] if means else []

    def project(self, hidden: Tensor) -> Tensor:
        projected = linear(self._layer.self_attn.qkv_proj, normed(self._layer.input_layernorm, hidden))
        if not self._parts:
            return projected
        query, _, key, _, value = projected.split(self._parts, 1)
        return torch.cat([query, key, value], 1)

    def project_at(self, hidden: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.project(hidden)
        query, rest = projected.split([self._queries, projected.shape[1] - self._queries], 1)
        return query[at], rest

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        layer = self._layer
        hidden = hidden + layer.resid_attn_dropout(linear(layer.self_attn.o_proj, attended))
        inner = gated(linear(layer.mlp.gate_up_proj, normed(layer.post_attention_layernorm, hidden)))
        finished: Tensor = hidden + layer.resid_mlp_dropout(linear(layer.mlp.down_proj, inner))
        return finished


class ServedLayer:
    """Over the tensors of one layer. On CPUs each addition, and the activation, is done by the product before it."""

    def __init__(self, parts: Parts, number: int, shape: Shape, *, last: bool) -> None:
        take_a_break()  # to pack the weights of a layer takes milliseconds
        of = f"model.layers.{number}."
        queries = (shape.heads - shape.means) * shape.head
        self._before, self._after = (
            parts.tensor(of + name) for name in ("input_layernorm.weight", "post_attention_layernorm.weight")
        )
        self._epsilon = shape.epsilon
        self._joint = parts.products(of + "self_attn.qkv_proj.weight", (queries,) if last else 1)
        (self._out,) = parts.products(of + "self_attn.o_proj.weight")
        self._gated = products.gated(parts.products(of + "mlp.gate_up_proj.weight", 2 if parts.fuses else 1))
        (self._down,) = parts.products(of + "mlp.down_proj.weight")

    def project(self, hidden: Tensor) -> Tensor:
        return in_pieces(lambda rows: self._project(rows, self._joint), hidden)

    def project_at(self, hidden: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        query, rest = (
            in_pieces(lambda rows, part=part: self._project(rows, [part]), rows)
            for part, rows in zip(self._joint, (hidden[at], hidden), strict=True)
        )
        return query, rest

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        return in_pieces(self._finish, hidden, attended)

    def _project(self, hidden: Tensor, parts: Sequence[products.Product]) -> Tensor:
        normed = self._norm(hidden, self._before)
        return torch.cat([part(normed) for part in parts], 1) if len(parts) > 1 else parts[0](normed)

    def _finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = self._out.plus(attended, hidden)
        normed = self._norm(hidden, self._after)
        return self._down.plus(self._gated(normed), hidden)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self._epsilon)


def in_pieces(make: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """``make`` of all rows of several tensors, where each row is made of its like alone; on CPUs piece by piece."""
    if rows[0].device.type != "cpu":
        return make(*rows)
    pieces = zip(*(each.split(PIECE) for each in rows), strict=True)
    done = [make(*filled_up(some))[: len(some[0])] for some in pieces]
    return torch.cat(done) if len(done) > 1 else done[0]


def filled_up(rows: Sequence[Tensor]) -> Sequence[Tensor]:
    """With rows of zeros, to one of few sizes."""
    count = len(rows[0])
    filling = -count % (_STEP if count > 2 * _FEW else _FEW)
    return [functional.pad(each, (0, 0, 0, filling)) for each in rows] if filling else rows
