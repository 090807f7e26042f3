"""Int8 products on CPUs by oneDNN: a scale for each token and for each row of a weight.

Weights are quantized once, activations at each call. Sums are integers; everything between the products is bfloat16.
Each token has its own scale, so its result does not depend on the other tokens of a pass.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .products import Plain

_LARGEST = 127
_ZERO = 128  # zero point of the activations: CPUs multiply unsigned bytes with signed ones
_PACKED_FOR_ROWS = 512  # about the length of a prompt; any other number of rows works too
_TOLERANCE = 3e-2  # of the largest value


class Int8:
    """A ``Product`` of bfloat16 rows with an int8 weight."""

    def __init__(self, tensors: Sequence[Tensor], memory: object = None) -> None:
        """
        Args:
            tensors: the quantized weight, packed, and the scale of each of its rows.
            memory: what the tensors' bytes lie in, if not their own memory; kept alive by the product.
        """
        self.tensors = tensors
        self._weight, self._scales = tensors
        self._memory = memory
        self._zeros = torch.zeros(len(self._scales), dtype=torch.int64)
        self._calls: Any = torch.ops.onednn

    @classmethod
    def of(cls, weight: Tensor) -> "Int8":
        """Quantize and pack a weight."""
        weight = weight.float()
        scales = weight.abs().amax(1).clamp(min=1e-12) / _LARGEST
        whole = (weight / scales.unsqueeze(1)).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
        return cls([torch.ops.onednn.qlinear_prepack(whole, [_PACKED_FOR_ROWS, weight.shape[1]]), scales])

    def __call__(self, rows: Tensor) -> Tensor:
        scales = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / _LARGEST
        whole = (rows / scales).round_().add_(_ZERO).to(torch.uint8)
        done: Tensor = self._calls.qlinear_pointwise(
            *(whole, 1.0, _ZERO, self._weight, self._scales, self._zeros, None, 1.0, 0),
            *(torch.float32, "none", [], ""),
        )
        return done.mul_(scales).to(rows.dtype)

    def activated(self, rows: Tensor) -> Tensor:
        return functional.silu(self(rows), inplace=True)

    def times(self, rows: Tensor, other: Tensor) -> Tensor:
        return self(rows).mul_(other)

    def plus(self, rows: Tensor, other: Tensor) -> Tensor:
        return self(rows).add_(other)


@cache
def int8_works() -> bool:
    """Whether torch has these products for this CPU, and they are correct; tried once, on small weights."""
    return products_are_right()


@torch.inference_mode()
def products_are_right() -> bool:
    """Whether ``Int8`` agrees with plain products within the tolerance, even where sums are as large as possible."""
    generator = torch.Generator().manual_seed(1)
    for weight, rows in (
        (torch.randn(48, 64, generator=generator), torch.randn(33, 64, generator=generator)),
        (torch.ones(48, 64), torch.ones(33, 64)),  # older CPUs add pairs in 16 bits, which saturate
    ):
        expected = Plain.of(weight)(rows)
        try:
            given = Int8.of(weight)(rows.bfloat16())
        except (RuntimeError, NotImplementedError, AttributeError):  # not built in, or not for this CPU
            return False
        if (given - expected).abs().max() > _TOLERANCE * expected.abs().max():
            return False
    return True
