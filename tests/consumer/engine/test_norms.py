"""RMSNorm in few passes is that of transformers."""

import pytest
import torch
from abstream.consumer.engine.norms import rms_norm
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm

EPSILON = 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_rows_are_normed_as_by_transformers(dtype, tolerance):
    generator = torch.Generator().manual_seed(1)
    rows, weight = (torch.randn(size, generator=generator).to(dtype) for size in ((33, 64), (64,)))
    rows[:11] *= 1000
    rows[-1] = 0
    theirs = Phi3RMSNorm(64, EPSILON)
    theirs.weight.data = weight
    before = rows.clone()

    given = rms_norm(rows, weight, EPSILON)

    assert given.dtype == dtype
    torch.testing.assert_close(given, theirs(rows).detach(), rtol=2 * tolerance, atol=tolerance)
    assert torch.equal(rows, before)
