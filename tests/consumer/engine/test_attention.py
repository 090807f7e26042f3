"""Attention in blocks is transformers' own attention, for any number of queries, keys and shared heads."""

import pytest
import torch
from abstream.consumer.engine import attention
from abstream.consumer.engine.attention import blocked_attention, use_blocked_attention
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import Phi3Config, Phi3ForCausalLM

SCALING = 0.25


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize(("queries", "before"), [(1, 0), (3, 0), (5, 7), (8, 0), (9, 2), (20, 31)])
def test_it_equals_attention_with_a_mask_in_values_and_gradients(monkeypatch, queries, before, key_heads):
    """``before`` keys come from the prompt's beginning, which every query sees."""
    monkeypatch.setattr(attention, "_BLOCK_ROWS", 4)
    query, key, value = (random(2, heads, n, 16) for heads, n in ((4, queries), *2 * [(key_heads, before + queries)]))
    seen = torch.ones(queries, before + queries).tril(before).bool()

    expected = scaled_dot_product_attention(query, key, value, seen, scale=SCALING, enable_gqa=True).transpose(1, 2)
    given, _ = blocked_attention(nn.Module(), query, key, value, None, SCALING)

    torch.testing.assert_close(given, expected)
    weights = random(*given.shape).detach()
    grads = [torch.autograd.grad((out * weights).sum(), (query, key, value)) for out in (given, expected)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("window", "used"), [(None, True), (101, True), (100, False)])
def test_a_sliding_window_that_prompts_can_outgrow_is_left_to_transformers(window, used):
    config = Phi3Config(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, sliding_window=window,
    )  # fmt: skip
    phi3 = Phi3ForCausalLM(config)
    use_blocked_attention(phi3, max_tokens=100)
    assert (phi3.config._attn_implementation == attention._NAME) is used
