"""Settings of the engine: which model it is and where it runs, with the reasons for defaults."""

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
    # auto: bfloat16 on CUDA, float32 on CPU. fp8 and int8 are never chosen automatically.
    dtype: Dtype = "auto"
    # From 2 047 tokens on, Phi-3-mini's sliding window begins to hide the start of the prompt.
    max_prompt_tokens: Annotated[int, Field(ge=64, le=131_072)] = 2_046
    threads: PositiveInt | None = None  # of the CPU; torch's default if None
    budgets: Path | None = None  # a file that remembers how many tokens a pass takes; GPUs are not probed if None
    slots: tuple[int, ...] = ()  # file descriptors from ``make_slots``, shared by the replicas on this machine
