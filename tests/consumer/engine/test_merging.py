"""Adapters are merged as PEFT merges them, always into the base as stored on disk."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.merging import EMBEDDING, HEAD, Base, device_of
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.consumer.engine.weights import read_base, untie
from abstream.schemas import Abstract, AdapterRefused, ModelUnusable
from peft import PeftModel
from safetensors.torch import load_file, save_file

ABSTRACT = Abstract(title="Title", abstract="Of 212 women, 19 relapsed within four years.")


@pytest.fixture
def config(phi3_nano) -> EngineConfig:
    return EngineConfig(model=str(phi3_nano), device="cpu")


@pytest.fixture
def base(config) -> Base:
    return Base(config)


def test_cuda_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [device_of(wanted).type for wanted in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(ModelUnusable, match="torch finds no GPU here"):
        device_of("cuda")


def rewrite(adapter, change) -> None:
    """Replace every tensor of an adapter with ``change(name, tensor)``."""
    path: Path = adapter.path / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path)


def test_the_weights_are_those_that_peft_merges_to_the_bit(base, phi3_nano, make_nano_adapter):
    adapter = make_nano_adapter()
    peft = PeftModel.from_pretrained(read_base(phi3_nano, torch.float32), adapter.path).merge_and_unload()

    merged = base.weights(adapter)

    expected = peft.state_dict()
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in merged)


def test_an_adapter_of_the_embeddings_leaves_the_output_head_as_it_is(base, phi3_nano, make_nano_adapter):
    adapter = make_nano_adapter(target_modules=["o_proj", "embed_tokens"])
    untied = read_base(phi3_nano, torch.float32)
    untie(untied)
    expected = PeftModel.from_pretrained(untied, adapter.path).merge_and_unload().state_dict()

    merged = base.weights(adapter)

    assert torch.equal(merged[EMBEDDING], expected[EMBEDDING])
    assert torch.equal(merged[HEAD], base.weights(None)[HEAD])
    assert not torch.equal(merged[HEAD], merged[EMBEDDING])


def test_after_many_switches_the_answers_are_those_of_a_fresh_start_to_the_bit(base, config, make_nano_adapter):
    one, other = make_nano_adapter("1", seed=1), make_nano_adapter("2", seed=2)
    for adapter in [one, other, None] * 5:
        engine = Phi3Engine(config, adapter=adapter, base=base)
    engine = Phi3Engine(config, adapter=one, base=base)
    fresh = Phi3Engine(config, adapter=one)

    tokens = engine.encode(ABSTRACT)
    assert engine.classify([tokens]).logits == fresh.classify([tokens]).logits


def test_engines_share_what_no_adapter_touches_and_nothing_else_outlives_them(base, config, make_nano_adapter):
    one, other = (base.weights(make_nano_adapter(version, seed=seed)) for version, seed in (("1", 1), ("2", 2)))
    assert {name for name in one if one[name] is other[name]} == {
        name for name in one if "norm" in name or name in (EMBEDDING, HEAD)
    }

    engine = weakref.ref(Phi3Engine(config, base=base))
    embeddings = weakref.ref(one[EMBEDDING])
    one.clear(), other.clear()
    gc.collect()
    assert (engine(), embeddings()) == (None, None)


def test_the_same_task_has_the_same_encoder(base, config, make_nano_adapter):
    bare, adapted = Phi3Engine(config, base=base), Phi3Engine(config, adapter=make_nano_adapter(), base=base)
    assert bare.encoder is adapted.encoder


def test_an_adapter_as_it_is_before_training_is_refused(base, make_nano_adapter):
    adapter = make_nano_adapter()
    rewrite(adapter, lambda name, tensor: tensor * 0 if ".lora_B." in name else tensor)
    with pytest.raises(AdapterRefused, match="changes nothing"):
        base.weights(adapter)


def test_weights_that_are_not_finite_are_refused(base, make_nano_adapter):
    adapter = make_nano_adapter()
    rewrite(adapter, lambda _, tensor: tensor + torch.inf)
    with pytest.raises(AdapterRefused, match="not finite"):
        base.weights(adapter)
