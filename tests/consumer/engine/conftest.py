"""The shipped model."""

from pathlib import Path

import pytest
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine


@pytest.fixture(scope="session")
def engine(phi3_nano: Path) -> Phi3Engine:
    return Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu"))
