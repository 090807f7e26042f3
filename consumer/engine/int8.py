"""Int8 products on CPUs by oneDNN: a scale for each token and for each row of a weight.

Weights are quantized once, activations at each call. Sums are integers; what is between the products is bfloat16, and
float32 within an MLP. Each token has its own scale, so its result does not depend on the other tokens of a pass.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .norms import inverse_rms
from .products import Plain, Product

_LARGEST = 127
_ZERO = 128  # zero point of the activations: CPUs multiply unsigned bytes with signed ones
_PACKED_FOR_ROWS = 512  # about the length of a prompt; any other number of rows works too
_TOLERANCE = 3e-2  # of the largest value


class Quantized(NamedTuple):
    """Rows as bytes with the zero point ``_ZERO``, and the scales to multiply them by, shape (rows, 1)."""

    whole: Tensor
    scales: Tensor


class Int8(Product):
    """Products with an int8 weight. Those of the attention are bfloat16, those of the MLP float32."""

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

    def __call__(self, rows: Tensor | Quantized) -> Tensor:
        product, scales = self._unscaled(rows)
        return product.mul_(scales).bfloat16()

    def gated(self, rows: Tensor | Quantized) -> Tensor:
        product, scales = self._unscaled(rows)
        gate, up = product.mul_(scales).chunk(2, 1)
        return functional.silu(gate, inplace=True).mul_(up)

    def plus(self, rows: Tensor | Quantized, other: Tensor) -> Tensor:
        return torch.addcmul(other.float(), *self._unscaled(rows))

    def normed(self, rows: Tensor, weight: Tensor, epsilon: float) -> Quantized:
        """As of any product, quantized. The norm of a row is a part of its scale, which saves a pass over memory."""
        rows = rows.float()
        whole, scales = quantized(rows * weight.float())
        return Quantized(whole, scales.mul_(inverse_rms(rows, epsilon)))

    def _unscaled(self, rows: Tensor | Quantized) -> tuple[Tensor, Tensor]:
        """The product in float32 before it is multiplied by the scales of the rows, and these scales."""
        whole, scales = rows if isinstance(rows, Quantized) else quantized(rows)
        product: Tensor = self._calls.qlinear_pointwise(
            *(whole, 1.0, _ZERO, self._weight, self._scales, self._zeros, None, 1.0, 0),
            *(torch.float32, "none", [], ""),
        )
        return product, scales


def quantized(rows: Tensor) -> Quantized:
    """Quantize each row, of bfloat16 or float32."""
    rows = rows.float()
    scales = rows.abs().amax(1, keepdim=True).clamp_(min=1e-12).div_(_LARGEST)
    # torch makes signed bytes seven times as fast as unsigned ones. Flipping their highest bit adds the zero point.
    signed = (rows / scales).round_().to(torch.int8)
    return Quantized(signed.view(torch.uint8).bitwise_xor_(_ZERO), scales)


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
