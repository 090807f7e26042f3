"""The shipped model, and adapters made on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.consumer.engine.weights import locate
from abstream.schemas import ONCOLOGY, AdapterManifest, Prompt, VerifiedAdapter
from abstream.schemas.artifacts import seal
from peft import LoraConfig, get_peft_model
from transformers import Phi3ForCausalLM

TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


@pytest.fixture(scope="session")
def engine(phi3_nano: Path) -> Phi3Engine:
    return Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu"))


@pytest.fixture
def make_adapter(phi3_nano: Path, tmp_path: Path) -> Callable[..., VerifiedAdapter]:
    """Makes an adapter that visibly changes the answers, as PEFT saves it, sealed as abstream wants it."""

    def make(name: str = "test", seed: int = 1, **manifest: Any) -> VerifiedAdapter:
        folder = tmp_path / name
        torch.manual_seed(seed)
        base = Phi3ForCausalLM.from_pretrained(phi3_nano, dtype=torch.float32)
        adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=False))
        adapted.save_pretrained(folder)
        about = {
            "name": name,
            "version": "1",
            "base_model": locate(str(phi3_nano)).ref,
            "task": ONCOLOGY,
            "prompt_digest": Prompt(ONCOLOGY).digest,
        }
        return seal(folder, AdapterManifest(**(about | manifest)))

    return make
