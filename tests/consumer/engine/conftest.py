"""The shipped model, as the engine and as transformers run it."""

from pathlib import Path

import pytest
import torch
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.consumer.engine.weights import read_base
from transformers import Phi3ForCausalLM


@pytest.fixture(scope="session")
def engine(phi3_nano: Path) -> Phi3Engine:
    return Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu"))


@pytest.fixture(scope="session")
def phi3(phi3_nano: Path) -> Phi3ForCausalLM:
    """The shipped model in transformers, for reference."""
    return read_base(phi3_nano, torch.float32).eval()
