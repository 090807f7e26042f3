"""Every knob of a worker, its unit, and where its default comes from."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16"]


class EngineConfig(BaseModel):
    """Which model answers, and where it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str  # a local folder, or a Hugging Face id
    revision: str | None = None  # of the Hugging Face id
    device: Device = "auto"  # CUDA where there is one
    dtype: Dtype = "auto"  # bfloat16 on CUDA, float32 on CPU
    # From 2 047 tokens on, Phi-3-mini's sliding window begins to hide the start of the prompt.
    max_prompt_tokens: Annotated[int, Field(ge=64, le=131_072)] = 2_046
    threads: PositiveInt | None = None  # of the CPU; torch's own choice where None


class WorkerConfig(BaseModel):
    """How one worker reads, batches and leaves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # unique among the living workers of a namespace
    max_batch_tokens: PositiveInt = 8_192  # padding included; about sixteen abstracts
    read_count: PositiveInt = 64  # entries in hand beyond the batches at work; the rest stays in Redis
    # Longer than one block of a read and than a pause of the process; batches may take longer, the lease is renewed.
    lease_seconds: PositiveFloat = 15
    max_deliveries: PositiveInt = 5  # an entry that was lost so often is the likely cause
    drain_seconds: PositiveFloat = 30  # the grace period Kubernetes gives by default
    burst: bool = False  # stop when nothing is left to read
