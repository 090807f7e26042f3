"""Locates a base model, identifies its revision, and loads it for training."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from ...schemas import ModelUnusable, Unavailable
from ...schemas.artifacts import digest_of, list_files
from ...schemas.events import BaseModelRef

if TYPE_CHECKING:
    from transformers import Phi3ForCausalLM

# The files that decide the answers: a changed model card does not make another model.
_DECISIVE = ("config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True)
class BaseFolder:
    """A base model on disk. ``ref.revision`` is its commit on the Hugging Face hub, or the digest of its files."""

    path: Path
    ref: BaseModelRef


def locate(model: str, revision: str | None = None) -> BaseFolder:
    """Find a local folder, or fetch a Hugging Face id into the local cache.

    Raises:
        ModelUnusable: the folder is not a Phi-3 model.
        Unavailable: the hub cannot be reached, or has no such model.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = _fetch(model, revision)
    try:
        architecture = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"{folder} holds no readable config.json: it is no model folder ({error})") from error
    if architecture != "phi3":
        raise ModelUnusable(f"{folder} is a {architecture!r} model: abstream runs Phi-3 models (model_type 'phi3')")
    if re.fullmatch(r"[0-9a-f]{40}", folder.name) and folder.parent.name == "snapshots":
        return BaseFolder(folder, BaseModelRef(id=model, revision=folder.name))
    decisive = [file for file in list_files(folder) if any(Path(file.path).match(pattern) for pattern in _DECISIVE)]
    return BaseFolder(folder, BaseModelRef(id=folder.resolve().name, revision=digest_of(decisive)))


def _fetch(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(_DECISIVE)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise Unavailable(
            f"{model!r} is neither a folder here nor a model the Hugging Face hub gives: check the name and the network"
        ) from error


def read_base(folder: Path, dtype: torch.dtype, *, in_4_bits: bool = False) -> "Phi3ForCausalLM":
    """Load the plain base model with transformers; ``in_4_bits`` (QLoRA) needs CUDA and bitsandbytes.

    Raises:
        ModelUnusable: the weights cannot be read.
    """
    from transformers import BitsAndBytesConfig, Phi3ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # transformers shows one even if stderr is a file
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4") if in_4_bits else None
    try:
        loaded: Any = Phi3ForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            quantization_config=quantization,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelUnusable(f"the weights in {folder} cannot be loaded: {error}") from error
    # transformers only warns of missing weights, and would go on with random ones.
    model, report = loaded
    if lacking := {*report["missing_keys"], *report["mismatched_keys"]}:
        raise ModelUnusable(f"the weights in {folder} lack {len(lacking)} tensors, such as {min(map(str, lacking))}")
    return cast("Phi3ForCausalLM", model)


def untie(phi3: "Phi3ForCausalLM") -> None:
    """Give the output head its own copy of tied embeddings, so that an adapter of the embeddings leaves it as it is."""
    if phi3.config.tie_word_embeddings:
        phi3.lm_head.weight = nn.Parameter(phi3.lm_head.weight.detach().clone())
        phi3.config.tie_word_embeddings = False
