"""The settings of the engine, with their units and the reasons for their defaults."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "fp8", "int8"]


class EngineConfig(BaseModel):
    """Which model is served, and where it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str  # a local folder, or a Hugging Face id
    revision: str | None = None  # of the Hugging Face id
    device: Device = "auto"  # CUDA where there is one
    # auto: bfloat16 on CUDA, float32 on CPUs; never fp8 or int8.
    dtype: Dtype = "auto"
    # From 2 047 tokens on, Phi-3-mini's sliding window begins to hide the start of the prompt.
    max_prompt_tokens: Annotated[int, Field(ge=64, le=131_072)] = 2_046
    threads: PositiveInt | None = None  # of the CPU; torch's default where None
    budgets: Path | None = None  # a file that remembers how many tokens a pass takes; no GPU is probed where None
    slots: tuple[int, ...] = ()  # file descriptors from ``make_slots``, shared by the replicas on this machine
