"""Matrix products with a weight, and what follows them, in as few passes over memory as the machine allows.

oneDNN adds, multiplies and activates while it writes the product, and reads a weight faster that was packed for it
once: in float32 it is a fifth faster than MKL on AMD CPUs (DECISIONS.md).
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .fused import Fused
from .norms import rms_norm

# oneDNN prepares a product for each number of rows, and by default caches the last thousand of these, which may take
# 1 MB each. Serving needs fewer: rows come in pieces, and attention in blocks, of few sizes.
_KEPT_PRODUCTS = "96"
for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):  # torch's cache, and oneDNN's
    os.environ.setdefault(_name, _KEPT_PRODUCTS)

_KEPT_IN_TRAINING = "1024"

_PACKED_FOR_ROWS = 512  # about the length of a prompt; any other number of rows works too
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the largest value: the order of additions differs


def keep_more_products() -> None:
    """Have oneDNN cache more products, for the many shapes of attention and its gradients: training is a third faster.

    Must be called before the first product of the process, when oneDNN reads the setting. What the user has set stays.
    """
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    if os.environ[name] == _KEPT_PRODUCTS and torch.backends.mkldnn.is_available():
        os.environ[name] = _KEPT_IN_TRAINING
        torch.ones(1, 1).to_mkldnn().to_dense()
        os.environ[name] = _KEPT_PRODUCTS  # for processes started from here


class Product(ABC):
    """Multiplies rows with one weight, and does what follows; rows have shape (tokens, columns of the weight)."""

    @abstractmethod
    def __call__(self, rows: Any) -> Tensor:
        """The product. Rows are a tensor, or what ``normed`` returns."""

    def activated(self, rows: Any) -> Tensor:
        """SiLU of the product."""
        return functional.silu(self(rows), inplace=True)

    def times(self, rows: Any, other: Tensor) -> Tensor:
        """The product times ``other``, element by element."""
        return self(rows).mul_(other)

    def plus(self, rows: Any, other: Tensor) -> Tensor:
        """The product plus ``other``."""
        return self(rows).add_(other)

    def gated(self, rows: Any) -> Tensor:
        """SiLU of the product's first half, times its second half (SwiGLU)."""
        return _gate(self(rows))

    def normed(self, rows: Tensor, weight: Tensor, epsilon: float) -> Any:
        """RMS norm of the rows, in the form in which products of this kind take them."""
        return rms_norm(rows, weight, epsilon)


def product(weight: Tensor) -> Product:
    """The fastest product that is correct for this weight."""
    works = weight.device.type == "cpu" and packing_works(weight.dtype)
    return Packed.of(weight) if works else Plain.of(weight)


def gated(products: Sequence[Product], rows: Any) -> Tensor:
    """SiLU of the product with the first half of a weight's rows, times that with the second half (SwiGLU).

    Args:
        products: one for each half, or one for the whole weight.
        rows: as the products take them.
    """
    if len(products) == 1:
        return products[0].gated(rows)
    gate, up = products
    return up.times(rows, gate.activated(rows))


def _gate_as_written(joint: Tensor) -> Tensor:
    gate, up = joint.chunk(2, -1)
    return functional.silu(gate).mul_(up)


_gate = Fused(_gate_as_written)


class Plain(Product):
    """A product by torch, on any device."""

    def __init__(self, tensors: Sequence[Tensor], memory: object = None) -> None:
        """Arguments as for ``Packed``, with the weight not packed."""
        self.tensors = tensors
        (self._weight,) = tensors
        self._memory = memory

    @classmethod
    def of(cls, weight: Tensor) -> "Plain":
        return cls([weight])

    def __call__(self, rows: Tensor) -> Tensor:
        return functional.linear(rows, self._weight)

    def plus(self, rows: Tensor, other: Tensor) -> Tensor:
        return torch.addmm(other, rows, self._weight.T)


class Packed(Product):
    """A product by oneDNN, without gradient, with the calls that torch's own compiler makes for CPUs."""

    def __init__(self, tensors: Sequence[Tensor], memory: object = None) -> None:
        """
        Args:
            tensors: the weight, packed.
            memory: what the weight's bytes lie in, if not its own memory; kept alive by the product.
        """
        self.tensors = tensors
        (self._weight,) = tensors
        self._memory = memory
        self._calls: Any = torch.ops.mkldnn

    @classmethod
    def of(cls, weight: Tensor) -> "Packed":
        """Pack a weight."""
        return cls([torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACKED_FOR_ROWS)])

    def __call__(self, rows: Tensor) -> Tensor:
        return self._single(rows, "none")

    def activated(self, rows: Tensor) -> Tensor:
        return self._single(rows, "swish")

    def times(self, rows: Tensor, other: Tensor) -> Tensor:
        return self._with(rows, other, "mul")

    def plus(self, rows: Tensor, other: Tensor) -> Tensor:
        return self._with(rows, other, "add")

    def _single(self, rows: Tensor, then: str) -> Tensor:
        done: Tensor = self._calls._linear_pointwise(rows, self._weight, None, then, [], "")
        return done

    def _with(self, rows: Tensor, other: Tensor, then: str) -> Tensor:
        done: Tensor = self._calls._linear_pointwise.binary(rows, other, self._weight, None, then)
        return done


@cache
def packing_works(dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN's products for this CPU, and they are correct; tried once, on a small weight."""
    if dtype not in _TOLERANCE or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(1)
    weight, rows, other = (torch.randn(size, generator=generator).to(dtype) for size in ((48, 64), (33, 64), (33, 48)))
    try:
        packed = _all_of(Packed.of(weight), rows, other)
    except (RuntimeError, AttributeError):  # not built in, or not for this CPU
        return False
    plain = _all_of(Plain.of(weight), rows, other)
    return all(
        bool((one - two).abs().max() <= _TOLERANCE[dtype] * two.abs().max())
        for one, two in zip(packed, plain, strict=True)
    )


@torch.inference_mode()
def _all_of(product: Product, rows: Tensor, other: Tensor) -> list[Tensor]:
    calls = (product(rows), product.activated(rows), product.times(rows, other), product.plus(rows, other))
    return [each.float() for each in calls]
