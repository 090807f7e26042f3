"""Every knob of a fine-tuning run, its unit, and where its default comes from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

# Every linear layer of Phi-3. The QLoRA paper (https://arxiv.org/abs/2305.14314) found that all of them matter.
PHI3_LINEAR = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


class TrainConfig(BaseModel):
    """What is saved as ``config.json`` beside every run: the run can be repeated from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    data: str  # a local .jsonl, .csv or .parquet file, gzipped or not, or a Hugging Face data set's id
    validation: str | None = None  # the same; a tenth of ``data``, drawn with ``seed``, where None
    test: str | None = None  # the same; what the figures are measured on; ``validation`` where None
    model: str = "phi3-nano"
    model_revision: str | None = None
    task: Path | None = None  # the oncology task where None
    name: str = "adapter"
    version: str = "1"

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: tuple[str, ...] = PHI3_LINEAR
    qlora: bool = False  # the base in 4 bits; CUDA only

    epochs: PositiveInt = 6
    learning_rate: PositiveFloat = 1e-3  # of phi3-nano; 2e-4 suits Phi-3-mini
    weight_decay: NonNegativeFloat = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of the steps
    batch_tokens: PositiveInt = 4_096  # beyond the prompt's fixed beginning, padding included
    accumulate: PositiveInt = 1  # batches in a step
    class_weights: Literal["none", "balanced"] = "none"
    patience: PositiveInt = 2  # epochs without a better validation loss
    max_prompt_tokens: PositiveInt = 2_046
    seed: int = 7
    checkpoint_steps: PositiveInt = 50

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # bfloat16 on CUDA
    threads: PositiveInt | None = None  # of the CPU

    # Answers whose confidence is under the threshold go to review; among the others, this label's recall is at least
    # so high on the validation data. The first label of the first question.
    review_recall: Annotated[float, Field(gt=0, le=1)] = 0.98
