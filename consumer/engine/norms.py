"""RMSNorm (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467) in few passes over memory."""

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Each row divided by the root of its mean square, times ``weight``; computed in float32, in the dtype of ``rows``.

    Args:
        rows: shape (tokens, hidden size).
        weight: shape (hidden size,).
        epsilon: added to the mean square.
    """
    if rows.device.type != "cpu":
        return functional.rms_norm(rows, weight.shape, weight, epsilon)  # one kernel
    # torch's own makes five tensors of float32 on CPUs, which do not fit the caches together.
    wide = rows.to(torch.float32, copy=True)
    return wide.mul_(inverse_rms(wide, epsilon)).mul_(weight.float()).to(rows.dtype)


def inverse_rms(rows: Tensor, epsilon: float) -> Tensor:
    """One divided by the root of each row's mean square; rows are float32. Shape (tokens, 1)."""
    squares: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True).square_()
    return squares.div_(rows.shape[1]).add_(epsilon).rsqrt_()
