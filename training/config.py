"""The settings of a fine-tuning run. Each is a flag of ``abstream train``."""

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
from ..schemas.wording import otherwise

# Every linear layer of Phi-3. The QLoRA paper (https://arxiv.org/abs/2305.14314) found that all of them matter.
PHI3_LINEAR = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
# And the embeddings, where a small model's rare words are learned.
PHI3_LAYERS = (*PHI3_LINEAR, "embed_tokens")

ADAPTER_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # a folder of the store
AdapterName = Annotated[
    str,
    StringConstraints(pattern=f"^{ADAPTER_NAME}$"),
    otherwise("must consist of letters, digits, '.', '_' and '-', and begin with a letter or digit"),
]
Share = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(BaseModel):
    """Saved as ``config.json`` beside every run: ``abstream --config config.json train`` repeats the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    data: str = Field(
        description="Labelled abstracts: .jsonl, .csv or .parquet, gzipped or not, or a Hugging Face data set."
    )
    validation: str | None = Field(
        None, description="Validation data, in the same formats; a tenth of the data by default."
    )
    test: str | None = Field(None, description="Test data, in the same formats; the validation data by default.")
    model: str = Field("phi3-nano", description="A shipped model, a local Phi-3 folder, or a Hugging Face id.")
    model_revision: str | None = Field(None, description="Revision of the Hugging Face id.")
    task: Path | None = Field(None, description="Task file; the oncology task by default.")
    name: AdapterName = Field("adapter", description="Name of the adapter.")
    version: NonEmpty = Field("1", description="Version of the adapter.")
    card_notes: Path | None = Field(
        None, description="Markdown file for the model card: where the data comes from, and its licence."
    )

    rank: PositiveInt = Field(16, description="Rank of the LoRA matrices.")
    alpha: PositiveInt = Field(32, description="LoRA's alpha: the update is scaled by alpha / rank.")
    dropout: Share = Field(0.0, description="Dropout before the LoRA matrices. It is slow on a CPU.")
    target_modules: tuple[str, ...] = Field(PHI3_LAYERS, description="Layers that get LoRA matrices.")
    qlora: bool = Field(False, description="Load the base in 4 bits (extra qlora). CUDA only.")

    epochs: PositiveInt = Field(4, description="Epochs at most; the learning rate falls until the last.")
    learning_rate: PositiveFloat = Field(
        1e-3, description="Peak learning rate. The default suits phi3-nano; 2e-4 suits Phi-3-mini."
    )
    weight_decay: NonNegativeFloat = Field(0.01, description="Weight decay of AdamW.")
    warmup: Share = Field(0.1, description="Share of the steps during which the learning rate rises.")
    batch_tokens: PositiveInt = Field(
        4_096, description="Tokens in a batch, with padding, without the prompt's fixed prefix."
    )
    accumulate: PositiveInt = Field(1, description="Batches per optimizer step.")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: every label has the same total weight."
    )
    teacher_weight: NonNegativeInt = Field(
        500,
        description="How many labels the base's own answers count as, times how far they agree with the labels beyond"
        " chance (Cohen's kappa). 0: learn from the labels alone.",
    )
    drop_title: Share = Field(
        0.5, description="Share of the examples shown without a title; different ones in each epoch."
    )
    passages: Share = Field(0.0, description="Share of the texts cut to a passage; a different one in each epoch.")
    passage_words: PositiveInt = Field(110, description="Words in a passage; a shorter text is shown whole.")
    word_dropout: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0,
        description="Share of the words left out of a text on average, at most twice as many; others in each epoch.",
    )
    patience: PositiveInt = Field(3, description="Stop after this many epochs without a lower validation loss.")
    max_prompt_tokens: PositiveInt = Field(2_046, description="Tokens in a prompt at most; longer abstracts are cut.")
    seed: int = Field(7, description="Random seed. On a CPU, the same seed gives bitwise the same adapter.")
    checkpoint_steps: PositiveInt = Field(50, description="Optimizer steps between two checkpoints.")

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA if there is a GPU.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on CUDA, and on CPUs that have it."
    )
    threads: PositiveInt | None = Field(None, description="CPU threads; torch chooses by default.")

    review_recall: Annotated[float, Field(gt=0, le=1)] = Field(
        0.98,
        description="Recall of the first label wanted among the answers that need no review, on the validation data.",
    )
