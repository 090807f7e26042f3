"""Attention in blocks is attention with a mask, for any number of queries, keys and shared heads, and any window."""

import pytest
import torch
from abstream.consumer.engine import attention
from abstream.consumer.engine.attention import attend, causal_blocks
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
    keys, places = positions[-1] + 1, torch.tensor(list(positions)).unsqueeze(1)
    query, key, value = (random(heads, n, SIZE) for heads, n in ((4, len(positions)), *2 * [(key_heads, keys)]))
    seen = (torch.arange(keys) <= places) & (torch.arange(keys) > places - window)

    blocks = causal_blocks(positions, window, torch.float32, torch.device("cpu"))
    given = torch.cat(attend(query, key, value, blocks)).flatten(1)

    expected = scaled_dot_product_attention(query[None], key[None], value[None], seen, scale=1.0, enable_gqa=True)
    expected = expected[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(given, expected)
    weights = random(*given.shape).detach()
    grads = [torch.autograd.grad((out * weights).sum(), (query, key, value)) for out in (given, expected)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
