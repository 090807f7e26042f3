"""The path of a GPU, run where there is none: on tensors that have a shape, a dtype and a device, but no numbers.

Every operation checks that its tensors are on one device, and none may ask for a number, since the host would wait.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import wraps
from typing import Any

import pytest
import torch
from abstream.consumer.engine import forward, fp8, rows, varlen
from abstream.consumer.engine.forward import Forward, Network, SlotClassifier, pack, served
from abstream.consumer.engine.fp8 import Scaled, quantized
from abstream.consumer.engine.parts import OwnParts
from abstream.consumer.engine.products import product
from abstream.consumer.engine.shape import shape_of
from abstream.consumer.engine.tokens import PromptEncoder
from abstream.schemas import ONCOLOGY, Abstract, Prompt
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Phi3Config, Phi3ForCausalLM

GPU = torch.device("meta")  # stands for CUDA, whose tensors torch makes only where it was built with it
LONG_ROPE = {"type": "longrope", "long_factor": [], "short_factor": [1.0] * 48}
# Of the real models, except that these have 2 layers.
FORMS: dict[str, dict[str, Any]] = {
    "Phi-3-mini-4k": {"sliding_window": 2047},
    "Phi-3.5-mini": {"max_position_embeddings": 131_072, "sliding_window": 262_144, "rope_scaling": LONG_ROPE},
    "Phi-3-medium": {
        "hidden_size": 5120,
        "intermediate_size": 17_920,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "sliding_window": 2047,
    },
    "Phi-4-mini": {
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "partial_rotary_factor": 0.75,
        "max_position_embeddings": 131_072,
        "rope_scaling": LONG_ROPE,
    },
}


def config_of(form: str) -> dict[str, Any]:
    sizes = {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32, "num_hidden_layers": 2}
    return {"max_position_embeddings": 4096, **sizes, **FORMS[form]}


def weights_of(form: str) -> dict[str, tuple[int, ...]]:
    config = config_of(form)
    hidden, inner, heads = (config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads"))
    joint = hidden + 2 * hidden // heads * config.get("num_key_value_heads", heads)
    layer = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.qkv_proj": (joint, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_up_proj": (2 * inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    layers = {f"model.layers.{number}.{name}.weight": shape for number in (0, 1) for name, shape in layer.items()}
    outer = {"model.embed_tokens.weight": (32_064, hidden), "lm_head.weight": (32_064, hidden)}
    return {**outer, "model.norm.weight": (hidden,), **layers}


def network_of(form: str, make: Any) -> Network:
    tensors = {name: torch.empty(shape, dtype=torch.bfloat16, device=GPU) for name, shape in weights_of(form).items()}
    return served(OwnParts(tensors, make), shape_of(config_of(form)))


class Crossings(TorchDispatchMode):
    """Lists the operations on tensors of more than one device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        done = function(*given, **(named or {}))
        if len({each.device for each in tree_leaves((given, named, done)) if isinstance(each, Tensor)}) > 1:
            self.found.append(str(function))
        return done


@pytest.fixture(autouse=True)
def brought(monkeypatch) -> Iterator[list[Tensor]]:
    """The kernel is taken to work, nothing is compiled, and what ``moved`` brings to the GPU is listed."""
    brought: list[Tensor] = []

    def moved(tensor: Tensor, device: torch.device) -> Tensor:
        brought.append(tensor)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

    for module in (forward, rows):
        monkeypatch.setattr(module, "varlen_works", lambda *_: True)
    for module in (forward, rows, varlen):
        monkeypatch.setattr(module, "moved", moved)
    monkeypatch.setattr(fp8, "_quantized", quantized)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no such device
    with FakeTensorMode(allow_non_fake_inputs=True):  # ``torch.tensor`` makes them in any mode
        yield brought


@pytest.fixture
def encoder(phi3_nano) -> PromptEncoder:
    return PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 1024)


@pytest.fixture
def batch(encoder):
    texts = ("S", "", "words " * 150, "words " * 5_000)
    return [encoder.encode(Abstract.model_construct(title="", abstract=text)) for text in texts]


@pytest.mark.parametrize("make", [product, Scaled], ids=["bfloat16", "FP8"])
@pytest.mark.parametrize("form", FORMS)
def test_a_pass_computes_on_the_gpu_alone_and_waits_for_nothing(brought, form, make, encoder, batch):
    run = Forward(network_of(form, make), encoder)
    with torch.inference_mode():
        prefix = run.run_prefix()
        with Crossings() as crossings:
            logits = run.slot_logits(*pack(batch, GPU), prefix)

    assert [(each.shape, each.dtype, each.device) for each in logits] == [
        ((4, len(slot.labels)), torch.float32, GPU) for slot in encoder.slots
    ]
    assert {each.dtype for past in prefix for each in past} == {torch.bfloat16}
    assert not crossings.found, "all that a pass needs is brought by ``moved``"
    assert all(each.device.type == "cpu" for each in brought)


@pytest.mark.parametrize("form", FORMS)
def test_the_kernel_gets_what_it_documents(monkeypatch, form, encoder, batch):
    calls: list[tuple[Any, ...]] = []
    right = varlen.kernel()

    @wraps(right)
    def kernel(*given: Any, **named: Any) -> Any:
        calls.append((*given, named))
        return right(*given, **named)

    monkeypatch.setattr(varlen, "kernel", lambda: kernel)
    run = Forward(network_of(form, product), encoder)
    with torch.inference_mode():
        run.slot_logits(*pack(batch, GPU))

    assert len(calls) == 3, "the prefix in the first layer, and the prompts in both"
    for query, key, value, ends, key_ends, longest, longest_keys, named in calls:
        assert {each.dtype for each in (query, key, value)} == {torch.bfloat16}
        assert {each.dtype for each in (ends, key_ends)} == {torch.int32}
        assert {each.stride(-1) for each in (query, key, value)} == {1}
        assert {type(each) for each in (longest, longest_keys)} == {int}
        assert named.get("enable_gqa", False) == (query.shape[1] != key.shape[1])
        assert query.shape[2] in range(8, 257, 8)


@pytest.mark.parametrize("tokens", [1, 33, 256])
@pytest.mark.parametrize("form", FORMS)
def test_fp8_products_have_the_layout_that_cuda_asks_for(form, tokens):
    for rows_, columns in (shape for shape in weights_of(form).values() if len(shape) == 2):
        weight, given = (torch.empty(size, columns, dtype=torch.bfloat16, device="cuda") for size in (rows_, tokens))
        assert Scaled(weight)(given).shape == (tokens, rows_)


def test_a_step_of_training_computes_on_the_gpu_alone(encoder, batch):
    config = Phi3Config(**{**config_of("Phi-3-mini-4k"), "vocab_size": 32_064})
    with GPU:
        phi3 = Phi3ForCausalLM._from_config(config, dtype=torch.bfloat16)
    classifier = SlotClassifier(phi3, encoder)

    with Crossings() as crossings:
        first, second = classifier(*pack(batch, GPU))
        (first.sum() + second.sum()).backward()

    assert all(weight.grad is not None for weight in phi3.parameters())
    assert not crossings.found
