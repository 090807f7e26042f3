"""The forward pass equals transformers' Phi-3 in all its variants: shared heads, partial rotation, windows, LongRoPE.

All tests run with attention in blocks and with attention in one call for a whole row, where a stand-in for CUDA's
kernel checks that each prompt attends to the prefix and to its own tokens, and not to padding.
"""

from itertools import pairwise

import pytest
import torch
from abstream.consumer.engine import forward, rows, varlen
from abstream.consumer.engine.forward import Forward, Network, pack, served, trained
from abstream.consumer.engine.parts import OwnParts
from abstream.consumer.engine.reference import reference_logits
from abstream.consumer.engine.shape import shape_of
from abstream.consumer.engine.tokens import PromptEncoder
from abstream.schemas import ONCOLOGY, Abstract, Prompt
from torch.nn import functional
from transformers import Phi3Config, Phi3ForCausalLM

TEXTS = ["A longer one, of the spread of tumours", "S", "", "words " * 150]
LONG_ROPE = {"type": "longrope", "short_factor": [1.0, 1.1] * 4, "long_factor": [2.0] * 8}
FORMS = {
    "plain": {},
    "shared heads": {"num_key_value_heads": 2},
    "partial rotation": {"partial_rotary_factor": 0.5},
    "a window that prompts outgrow": {"sliding_window": 200},
    "tied embeddings": {"tie_word_embeddings": True},
    "LongRoPE": {
        "max_position_embeddings": 8192,
        "original_max_position_embeddings": 1024,
        "rope_scaling": LONG_ROPE,
    },
    "LongRoPE by a factor": {"max_position_embeddings": 8192, "rope_scaling": {**LONG_ROPE, "factor": 32.0}},
    "LongRoPE with a gain": {"max_position_embeddings": 8192, "rope_scaling": {**LONG_ROPE, "attention_factor": 1.5}},
    "Phi-4-mini": {
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "hidden_size": 128,
        "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131_072,
        "sliding_window": 262_144,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [1.0, 1.1, 1.2, 30, 40, 50]},
    },
}


@pytest.fixture(params=["in blocks", "in one call"], autouse=True)
def _attention(request, monkeypatch) -> None:
    if request.param == "in one call":
        for module in (forward, rows):
            monkeypatch.setattr(module, "varlen_works", lambda *_: True)
        monkeypatch.setattr(varlen, "kernel", lambda: packed_attention)


def packed_attention(query, key, value, ends_q, ends_k, max_q, max_k, *, window_size, enable_gqa=False) -> torch.Tensor:
    """What ``varlen_attn`` documents, one sequence at a time."""
    attended = []
    for (q, q_end), (k, k_end) in zip(pairwise(ends_q.tolist()), pairwise(ends_k.tolist()), strict=True):
        assert q_end - q <= max_q
        assert k_end - k <= max_k
        places = torch.arange(k_end - k - (q_end - q), k_end - k).unsqueeze(1)
        keys = torch.arange(k_end - k)
        seen = (keys <= places) & (torch.tensor(window_size[0] < 0) | (keys >= places - window_size[0]))
        heads = [each.transpose(0, 1) for each in (query[q:q_end], key[k:k_end], value[k:k_end])]
        one = functional.scaled_dot_product_attention(*heads, attn_mask=seen, enable_gqa=enable_gqa)
        attended.append(one.transpose(0, 1))
    assert (q_end, k_end) == (len(query), len(key)) == (len(query), len(value))
    return torch.cat(attended)


@pytest.fixture
def encoder(phi3_nano) -> PromptEncoder:
    return PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 1024)


@pytest.fixture
def batch(encoder):
    return [encoder.encode(Abstract.model_construct(title="", abstract=text)) for text in TEXTS]


def phi3_of(form: str) -> Phi3ForCausalLM:
    sizes = {"vocab_size": 12_288, "hidden_size": 64, "intermediate_size": 96}
    torch.manual_seed(1)
    layers = {"num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 1}
    return Phi3ForCausalLM(Phi3Config(**{**sizes, **layers, **FORMS[form]})).eval()


def networks(phi3: Phi3ForCausalLM) -> list[Network]:
    return [trained(phi3), served(OwnParts(phi3.state_dict()), shape_of(phi3.config.to_dict()))]


@pytest.mark.parametrize("form", FORMS)
def test_the_answers_are_those_of_transformers(form, encoder, batch):
    phi3 = phi3_of(form)
    expected = [torch.tensor(reference_logits(phi3, encoder, tokens)[1]) for tokens in batch]

    for network in networks(phi3):
        with torch.inference_mode():
            _, given = Forward(network, encoder).slot_logits(*pack(batch, phi3.device))
        torch.testing.assert_close(given, torch.stack(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_transformers(form, encoder, batch):
    """Also through the prefix, which is run once for all prompts."""
    phi3 = phi3_of(form)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, list(phi3.model.parameters())))

    first, second = Forward(trained(phi3), encoder).slot_logits(*pack(batch, phi3.device))
    given = gradients((first**2).sum() + (second**2).sum())

    loss = torch.zeros(())
    for tokens in batch:
        logits = phi3(input_ids=torch.tensor([tokens.ids]), use_cache=False).logits[0]
        for slot in encoder.slots:
            loss = loss + (logits[slot.offset, list(slot.labels)] ** 2).sum()
    torch.testing.assert_close(given, gradients(loss), rtol=1e-4, atol=1e-4 * max(map(torch.max, given)).item())


def test_in_blocks_heads_too_large_for_one_tensor_are_projected_in_pieces(request, monkeypatch, encoder, batch):
    network, ran = networks(phi3_of("plain"))[-1], []
    run = Forward(network, encoder)
    layer = network.layers[1]
    project = layer.project
    monkeypatch.setattr(layer, "project", lambda hidden: ran.append(len(hidden)) or project(hidden))

    def answers() -> list[torch.Tensor]:
        ran.clear()
        with torch.inference_mode():
            return run.slot_logits(*pack(batch, torch.device("cpu")))

    expected, whole = answers(), max(ran)
    monkeypatch.setattr(forward, "LARGE_BLOCK_BYTES", 1)
    monkeypatch.setattr(forward, "PIECE", 64)
    given = answers()

    assert max(ran) == (64 if "in blocks" in request.node.name else whole)
    for one, two in zip(given, expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_in_blocks_the_last_layer_projects_values_only_from_the_sums_at_the_slots(request, encoder, batch):
    phi3, rows = phi3_of("plain"), []
    _, network = networks(phi3)
    *others, values = network.last._joint
    network.last._joint = [*others, lambda some: rows.append(len(some)) or values(some)]

    with torch.inference_mode():
        Forward(network, encoder).slot_logits(*pack(batch, phi3.device))

    tokens = len(encoder.prefix) + sum(one.tail_length for one in batch)
    assert sum(rows) < tokens / 4 if "in blocks" in request.node.name else sum(rows) >= tokens


def test_every_state_is_that_of_transformers(encoder, batch):
    phi3 = phi3_of("plain")
    run = Forward(trained(phi3), encoder)
    ids, lengths = pack(batch, phi3.device)

    before, states = run.all_states(ids, lengths)

    whole = [
        phi3.model(input_ids=torch.tensor([tokens.ids]), output_hidden_states=True).hidden_states for tokens in batch
    ]
    begins = len(encoder.prefix)
    for found, layer in ((before, -2), (states, -1)):
        expected = torch.cat([each[layer][0, begins:] for each in whole])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert states[run.slots_of(lengths)].shape == (len(batch) * len(encoder.slots), 64)


def test_a_row_of_one_call_is_padded_to_a_multiple_that_gpus_tile_products_by(request, monkeypatch, encoder, batch):
    phi3, seen = phi3_of("plain"), []
    network = trained(phi3)
    first, run = network.layers[0], Forward(network, encoder)
    finish = first.finish
    monkeypatch.setattr(first, "finish", lambda hidden, attended: seen.append(len(hidden)) or finish(hidden, attended))

    _, states = run.all_states(*pack(batch, phi3.device))

    tokens = sum(one.tail_length for one in batch)
    padded = tokens + -tokens % 256 if "in one call" in request.node.name else tokens
    assert (len(states), seen) == (tokens, [len(encoder.prefix), padded])


@pytest.mark.parametrize("flaw", ["none", "in all", "no window", "always a window", "with shared heads"])
def test_in_one_call_a_kernel_that_errs_in_any_case_is_not_used(request, monkeypatch, flaw):
    if "in blocks" in request.node.name:
        pytest.skip("there is no kernel")

    def kernel(query, key, *given, window_size, enable_gqa=False) -> torch.Tensor:
        seen = {"no window": (-1, 0), "always a window": (5, 0)}.get(flaw, window_size)
        right = packed_attention(query, key, *given, window_size=seen, enable_gqa=enable_gqa)
        return 1.1 * right if flaw == "in all" or (flaw == "with shared heads" and enable_gqa) else right

    monkeypatch.setattr(varlen, "kernel", lambda: kernel)
    assert varlen.kernel_is_right(torch.device("cpu"), torch.bfloat16) == (flaw == "none")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_both_ways_give_the_same(monkeypatch, encoder, batch):
    device = torch.device("cuda")
    phi3 = phi3_of("a window that prompts outgrow").to(device, torch.bfloat16)
    monkeypatch.undo()

    def answers() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat(Forward(networks(phi3)[1], encoder).slot_logits(*pack(batch, device)), 1)

    assert varlen.varlen_works(device, torch.bfloat16)
    in_one_call = answers()
    monkeypatch.setattr(rows, "varlen_works", lambda *_: False)
    torch.testing.assert_close(in_one_call, answers(), atol=3e-2, rtol=3e-2)
