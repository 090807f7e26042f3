"""Every knob of a fine-tuning run, its unit, and where its default comes from. Each is a flag of ``abstream train``."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
)

from ..schemas.events import NonEmpty

# Every linear layer of Phi-3. The QLoRA paper (https://arxiv.org/abs/2305.14314) found that all of them matter.
PHI3_LINEAR = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
# And the embeddings, where a small model's rare words are learned.
PHI3_LAYERS = (*PHI3_LINEAR, "embed_tokens")

ADAPTER_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # a folder of the store
AdapterName = Annotated[str, StringConstraints(pattern=f"^{ADAPTER_NAME}$")]
Share = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(BaseModel):
    """What is saved as ``config.json`` beside every run: ``abstream --config config.json train`` repeats it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    data: str = Field(description="Labelled .jsonl, .csv or .parquet, gzipped or not; or a Hugging Face data set.")
    validation: str | None = Field(None, description="The same; a tenth of the data by default.")
    test: str | None = Field(None, description="The same; what is measured on. The validation data by default.")
    model: str = Field("phi3-nano", description="A shipped model, a local Phi-3 folder, or a Hugging Face id.")
    model_revision: str | None = Field(None, description="Revision of the Hugging Face id.")
    task: Path | None = Field(None, description="Task file; the oncology task by default.")
    name: AdapterName = Field("adapter", description="Of the adapter.")
    version: NonEmpty = Field("1", description="Of the adapter.")
    card_notes: Path | None = Field(
        None, description="Markdown for the model card: where the data is from, its licence."
    )

    rank: PositiveInt = Field(16, description="Of the LoRA matrices.")
    alpha: PositiveInt = Field(32, description="LoRA's scale, times the rank.")
    dropout: Share = Field(0.0, description="Before the LoRA matrices; its random numbers are slow on a CPU.")
    target_modules: tuple[str, ...] = Field(PHI3_LAYERS, description="Layers that get LoRA matrices.")
    qlora: bool = Field(False, description="The base in 4 bits (extra qlora); CUDA only.")

    epochs: PositiveInt = Field(4, description="At most; the learning rate falls until the last.")
    learning_rate: PositiveFloat = Field(1e-3, description="At its peak; of phi3-nano. 2e-4 suits Phi-3-mini.")
    weight_decay: NonNegativeFloat = Field(0.01, description="AdamW's.")
    warmup: Share = Field(0.1, description="Share of the steps in which the learning rate rises.")
    batch_tokens: PositiveInt = Field(
        4_096, description="Of a batch, beyond the prompt's fixed beginning, with padding."
    )
    accumulate: PositiveInt = Field(1, description="Batches in a step.")
    class_weights: Literal["none", "balanced"] = Field("none", description="balanced: every label counts alike.")
    teacher_weight: NonNegativeInt = Field(
        500,
        description="How many labels the base's own answers count as, times their agreement with the labels beyond"
        " chance (Cohen's kappa). 0: the labels alone.",
    )
    drop_title: Share = Field(0.5, description="Share of the examples shown without their title, each epoch others.")
    passages: Share = Field(0.0, description="Share of the texts of which only a passage is shown, each epoch another.")
    passage_words: PositiveInt = Field(110, description="Of a passage; a shorter text is shown whole.")
    word_dropout: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Share of the words that a text loses, each epoch others: any share up to twice this one."
    )
    patience: PositiveInt = Field(3, description="Epochs without a better validation loss, then it ends.")
    max_prompt_tokens: PositiveInt = Field(2_046, description="Longer abstracts are cut.")
    seed: int = Field(7, description="On a CPU the same seed gives the same bits.")
    checkpoint_steps: PositiveInt = Field(50, description="Steps between two checkpoints.")

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="CUDA where there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on CUDA, and on CPUs that have it."
    )
    threads: PositiveInt | None = Field(None, description="Of the CPU; torch's own choice by default.")

    review_recall: Annotated[float, Field(gt=0, le=1)] = Field(
        0.98, description="Of the first label, among the answers that need no review, on the validation data."
    )
