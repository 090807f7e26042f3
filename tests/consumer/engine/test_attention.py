"""Attention in blocks equals masked attention for any number of queries, keys and shared heads, and any window.

Prompts that share a past add up their gradients there.
"""

from functools import partial

import pytest
import torch
from abstream.consumer.engine import attention
from abstream.consumer.engine.attention import BlockAttention
from torch.nn.functional import scaled_dot_product_attention

SIZE = 16


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [1000, 6, 1])
@pytest.mark.parametrize(
    "positions", [[0], [0, 1, 2], range(7, 12), range(9), range(31, 51), [3, 8], [0, 1, 2, 3, 17, 18], [20]]
)
def test_it_equals_attention_with_a_mask_in_values_and_gradients(monkeypatch, positions, window, key_heads):
    monkeypatch.setattr(attention, "_BLOCK", 4)
    keys, past, places = positions[-1] + 1, min(positions[0], 5), torch.tensor(list(positions)).unsqueeze(1)
    query, joint = random(4, 2 * len(positions), SIZE), random(2, key_heads, past + 2 * (keys - past), SIZE)
    before, first, second = joint.split([past, keys - past, keys - past], 2)
    seen = (torch.arange(keys) <= places) & (torch.arange(keys) > places - window)

    blocks = BlockAttention([positions] * 2, [keys - past] * 2, window, torch.float32, torch.device("cpu"))
    own_keys, own_values = torch.cat([first, second], 2).unbind()
    prompts = query, own_keys, own_values, (before[0], before[1]) if past else None
    given = blocks.attend(*prompts)

    masked = partial(scaled_dot_product_attention, attn_mask=seen, scale=1.0, enable_gqa=True)
    both = [torch.cat([before, own], 2)[:, None].unbind() for own in (first, second)]
    expected = torch.cat(
        [masked(queries[None], key, value) for queries, (key, value) in zip(query.chunk(2, 1), both, strict=True)], 2
    )
    expected = expected[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(given, expected)
    weights = random(*given.shape).detach()
    grads = [torch.autograd.grad((out * weights).sum(), (query, joint)) for out in (given, expected)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(blocks.attend(*prompts), given)
