"""All settings of a worker, with their units and the reasons for their defaults."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

MAX_ADAPTER_BYTES = 2_000_000_000  # rank 64 on all layers of Phi-3-mini is 0.4 GB in float32


class WorkerConfig(BaseModel):
    """How one worker reads, batches and leaves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # unique among the running workers of a namespace
    max_batch_tokens: PositiveInt = 8_192  # padding included; about sixteen abstracts
    read_count: PositiveInt = 256  # entries in one read; fewer where they are large, or the engine takes its time
    # Longer than a blocking read and than a pause of the process; batches may take longer, since leases are renewed.
    lease_seconds: PositiveFloat = 15
    max_deliveries: PositiveInt = 5  # an entry that was lost so often is the likely cause
    batch_deadline_seconds: PositiveFloat = 300  # a batch takes seconds; a worker whose batch takes longer ends
    drain_seconds: PositiveFloat = 30  # the grace period Kubernetes gives by default
    burst: bool = False  # stop when nothing is left to read
    # Subscribers may resume after a long weekend; refusals wait for a person. 1 000 results take about 1.2 MB.
    keep_predictions_days: PositiveFloat = 7
    keep_refusals_days: PositiveFloat = 30
    adapter_cache: Path | None = None  # a folder of local copies; None for one that ends with the process
    max_adapter_bytes: PositiveInt = MAX_ADAPTER_BYTES
    adapter_public_key: tuple[Path, ...] = ()  # trusted keys; several while keys are changed
    # The first abstracts of a new adapter, which decide whether it stays; 0: it stays whatever it answers.
    guard_abstracts: NonNegativeInt = 500
    # By how much the share of reviews, or of the first label, may shift; a batch of another journal shifts it too.
    guard_shift: Annotated[float, Field(gt=0, le=1)] = 0.15
    guard_errors: Annotated[float, Field(ge=0, le=1)] = 0.02  # by how much the share of failures may rise
    shadow_share: Annotated[float, Field(ge=0, le=1)] = 1.0  # of live abstracts; idle time is usually the tighter limit
