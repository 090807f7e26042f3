"""Mean heads are found, left out and replaced by running means; heads that attend stay as they are."""

from dataclasses import replace

import pytest
import torch
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.forward import Forward, Network, pack, served, trained
from abstream.consumer.engine.layers import TrainedLayer
from abstream.consumer.engine.means import joint_weights, mean_heads, without_queries_and_keys
from abstream.consumer.engine.merging import Base
from abstream.consumer.engine.parts import OwnParts
from abstream.consumer.engine.reference import reference_logits
from abstream.consumer.engine.shape import Shape, shape_of
from abstream.consumer.engine.sharing import parts_in_service
from abstream.consumer.engine.tokens import PromptEncoder
from abstream.schemas import ONCOLOGY, Abstract, Prompt
from abstream.schemas.artifacts import verify
from transformers import Phi3Config, Phi3ForCausalLM

HEADS, HEAD = 4, 16


def phi3_of(**form) -> Phi3ForCausalLM:
    torch.manual_seed(1)
    sizes = {
        "vocab_size": 12_288,
        "hidden_size": HEADS * HEAD,
        "intermediate_size": 96,
        "max_position_embeddings": 1024,
    }
    layers = {"num_hidden_layers": 3, "num_attention_heads": HEADS, "pad_token_id": 1}
    return Phi3ForCausalLM(Phi3Config(**sizes, **layers, **form)).eval()


@torch.no_grad()
def with_mean_heads(phi3: Phi3ForCausalLM, *by_layer: tuple[int, int]) -> Phi3ForCausalLM:
    """Zero the queries of the last heads of each layer, and the keys; ``by_layer`` holds the number of either."""
    for layer, counts in zip(phi3.model.layers, by_layer, strict=True):
        parts = layer.self_attn.qkv_proj.weight.split([HEADS * HEAD, *[phi3.config.num_key_value_heads * HEAD] * 2])
        for part, count in zip(parts, counts, strict=False):
            part[len(part) - count * HEAD :] = 0
    return phi3


def found_in(phi3: Phi3ForCausalLM) -> tuple[int, Shape]:
    shape = shape_of(phi3.config.to_dict())
    weights = phi3.state_dict()
    return mean_heads([[weights[name]] for name in joint_weights(shape)], shape), shape


def test_the_answers_are_those_of_a_network_that_attends_with_all_heads(phi3_nano):
    phi3 = with_mean_heads(phi3_of(), (2, 2), (3, 2), (2, 3))
    encoder = PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 1024)
    texts = ["A longer one, of the spread of tumours", "", "words " * 150]
    batch = [encoder.encode(Abstract.model_construct(title="", abstract=text)) for text in texts]
    means, shape = found_in(phi3)
    assert means == 2

    parts = OwnParts(without_queries_and_keys(phi3.state_dict(), shape, means), means=means)
    with torch.inference_mode():
        given = Forward(served(parts, shape), encoder).slot_logits(*pack(batch, phi3.device))

    expected = [reference_logits(phi3, encoder, tokens) for tokens in batch]
    for slot, rows in enumerate(given):
        torch.testing.assert_close(rows, torch.tensor([one[slot] for one in expected]), atol=1e-5, rtol=1e-4)


def test_their_gradients_are_those_of_heads_that_attend(phi3_nano):
    phi3 = with_mean_heads(phi3_of(), *[(1, 1)] * 3)
    encoder = PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 1024)
    batch = [encoder.encode(Abstract.model_construct(title="", abstract=text)) for text in ("Short", "words " * 150)]
    attending, averaging = replace(trained(phi3), shape=shape_of(phi3.config.to_dict())), trained(phi3)
    layers = [TrainedLayer(layer, attending.shape) for layer in phi3.model.layers]
    attending = replace(attending, layers=layers, last=layers[-1])
    assert (attending.shape.means, averaging.shape.means) == (0, 1)

    def gradients(network: Network) -> list[torch.Tensor]:
        logits = Forward(network, encoder).slot_logits(*pack(batch, phi3.device))
        return list(torch.autograd.grad(sum((rows**2).sum() for rows in logits), list(phi3.model.parameters())))

    given, expected = gradients(averaging), gradients(attending)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4 * max(map(torch.max, expected)).item())
    names = [name for name, _ in phi3.model.named_parameters()]
    queries, keys, _ = given[names.index("layers.1.self_attn.qkv_proj.weight")].unflatten(0, (3, HEADS, HEAD))
    assert [heads[-1].any().item() for heads in (queries, keys)] == [False, False]


@pytest.mark.parametrize(
    ("form", "by_layer", "means"),
    [
        ({}, [(1, 1), (1, 1), (0, 0)], 0),
        ({}, [(1, 0), (1, 1), (0, 1)], 0),
        ({}, [(4, 4), (4, 4), (4, 4)], HEADS - 1),
        ({"num_key_value_heads": 2}, [(2, 1)] * 3, 0),
        ({"sliding_window": 200}, [(1, 1)] * 3, 0),
    ],
    ids=["a layer attends with all", "they have keys", "one is left", "heads share keys", "a window"],
)
def test_no_other_head_is_taken_for_a_mean_head(form, by_layer, means):
    assert found_in(with_mean_heads(phi3_of(**form), *by_layer))[0] == means


def test_the_shipped_model_has_one_with_and_without_its_adapter(phi3_nano):
    base = Base(EngineConfig(model=str(phi3_nano), device="cpu"))
    adapter = verify(phi3_nano.parent / "phi3-nano-oncology")
    assert [parts_in_service(base, each).means for each in (None, adapter)] == [1, 1]


def test_a_mean_head_that_an_adapter_makes_attend_is_served_so(phi3_nano, make_nano_adapter):
    assert parts_in_service(Base(EngineConfig(model=str(phi3_nano), device="cpu")), make_nano_adapter()).means == 0
