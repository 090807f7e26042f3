"""Heads are rotated as complex numbers are, in either layout, and the result is contiguous."""

import pytest
import torch
from abstream.consumer.engine.rotary import cosines_and_sines, rotate
from abstream.consumer.engine.shape import Rotary

TOKENS, HEADS, SIZE = 7, 3, 16


@pytest.mark.parametrize("turned", [SIZE, SIZE // 2])
@pytest.mark.parametrize("heads_first", [True, False])
def test_each_pair_is_rotated_by_its_angle_and_the_rest_stays(turned, heads_first):
    heads = torch.randn(TOKENS, HEADS, SIZE, generator=torch.Generator().manual_seed(1))
    angles = torch.arange(TOKENS).unsqueeze(1) / 10_000 ** (torch.arange(0, turned, 2) / turned)
    first, second, still = heads.split([turned // 2, turned // 2, SIZE - turned], -1)
    pairs = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles).unsqueeze(1)
    expected = torch.cat([pairs.real, pairs.imag, still], -1)

    rotation = cosines_and_sines(Rotary(turned, 10_000), TOKENS, torch.float32, torch.device("cpu"))
    if heads_first:
        heads, expected = heads.transpose(0, 1), expected.transpose(0, 1)
    else:
        rotation = rotation[0].unsqueeze(1), rotation[1].unsqueeze(1)
    given = rotate(heads, rotation)

    torch.testing.assert_close(given, expected)
    assert given.is_contiguous()
