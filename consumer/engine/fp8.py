"""FP8 products on GPUs of NVIDIA's Hopper generation and newer: a scale for each token and for each row of a weight.

Weights are quantized once, activations at each call. Results, and everything between the products, are bfloat16.
"""

from functools import cache

import torch
from torch import Tensor

from ...schemas import ModelUnusable
from .fused import Fused
from .products import Plain, Product

_LARGEST = float(torch.finfo(torch.float8_e4m3fn).max)
_MULTIPLE = 16  # of both sides of a weight
_TOLERANCE = 6e-2  # of the largest value: both operands have three bits of mantissa


class Scaled(Product):
    """Products of bfloat16 rows with an FP8 weight."""

    def __init__(self, weight: Tensor) -> None:
        """
        Raises:
            ModelUnusable: the weight's sides are not multiples of 16, as these products need.
        """
        if any(side % _MULTIPLE for side in weight.shape):
            sides = " by ".join(map(str, weight.shape))
            raise ModelUnusable(f"a weight of {sides} has no fp8 products, only multiples of {_MULTIPLE}: use bfloat16")
        rows, scales = quantized(weight)
        self._weight, self._scales = rows.T, scales.T  # the products take the weight column-major

    def __call__(self, rows: Tensor) -> Tensor:
        return self.of_quantized(*_quantized(rows))

    def of_quantized(self, rows: Tensor, scales: Tensor) -> Tensor:
        """The product of rows that ``quantized`` returned."""
        dtype, fast = torch.bfloat16, True
        done: Tensor = torch._scaled_mm(rows, self._weight, scales, self._scales, out_dtype=dtype, use_fast_accum=fast)
        return done


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize each row: FP8 values of the shape of ``rows``, and the scales to multiply them by, shape (rows, 1)."""
    scales = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / _LARGEST
    return (rows / scales).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn), scales


_quantized = Fused(quantized)


@cache
def fp8_works(device: torch.device) -> bool:
    """Whether torch has these products for this GPU, and they are correct; tried once, on a small weight."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return False
    return products_are_right(device)


@torch.inference_mode()
def products_are_right(device: torch.device) -> bool:
    """Whether ``Scaled`` agrees with bfloat16 within the tolerance."""
    generator = torch.Generator().manual_seed(1)
    weight, rows = (torch.randn(size, 64, generator=generator).to(device, torch.bfloat16) for size in (48, 33))
    try:
        given = Scaled(weight)(rows)
    except (RuntimeError, NotImplementedError, AttributeError):  # not built in, or not for this GPU
        return False
    expected = Plain.of(weight)(rows)
    return bool((given - expected).abs().max() <= _TOLERANCE * expected.abs().max())
