"""Where the weights are, which exactly they are, and how they become one plain Phi-3 model.

A LoRA adapter is merged into the base in float32, before the weights take the dtype they are served in:
merged weights cost nothing per batch, and merging in bfloat16 would round every weight twice.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import BitsAndBytesConfig, Phi3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from ...schemas import AdapterRefused, ModelUnusable, Unavailable, VerifiedAdapter
from ...schemas.artifacts import ADAPTER_FILES, digest_of, list_files
from ...schemas.events import BaseModelRef
from .fit import check_fit

# What decides the answers; a changed model card is not another model.
_DECISIVE = ("config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json")

# Of each pair of LoRA tensors the one that begins as zero.
_ZERO_AT_FIRST = re.compile(r"\.lora_B\.|\.lora_embedding_A$")


@dataclass(frozen=True)
class BaseFolder:
    """A base model on this disk. ``ref.revision`` is its commit on the hub, or the digest of its files."""

    path: Path
    ref: BaseModelRef


def locate(model: str, revision: str | None = None) -> BaseFolder:
    """Find a local folder, or fetch a Hugging Face id into the local cache.

    Raises:
        ModelUnusable: the folder is no Phi-3 model.
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


def load(
    base: BaseFolder, adapter: VerifiedAdapter | None, dtype: torch.dtype, device: torch.device
) -> Phi3ForCausalLM:
    """A plain Phi-3 on ``device``, the adapter merged into it.

    Raises:
        AdapterRefused: made for another base, or its tensors do not fit this one.
        ModelUnusable: the weights cannot be read.
    """
    if adapter and adapter.manifest.base_model.revision != base.ref.revision:
        wanted = adapter.manifest.base_model
        raise AdapterRefused(
            f"the adapter was trained on {wanted.id} {wanted.revision}, this base is {base.ref.revision}"
        )
    if adapter:
        check_fit(base.path, adapter.path)
    model = read_base(base.path, torch.float32 if adapter else dtype)
    if adapter:
        model = _merge(model, adapter)
    return cast(Phi3ForCausalLM, nn.Module.to(model, device, dtype).eval())


def read_base(folder: Path, dtype: torch.dtype, *, in_4_bits: bool = False) -> Phi3ForCausalLM:
    """The plain base model; ``in_4_bits`` (QLoRA) needs CUDA and bitsandbytes.

    Raises:
        ModelUnusable: the weights cannot be read.
    """
    disable_progress_bar()  # transformers draws one even where stderr is a file
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
    # transformers only warns of weights that are not there, and would go on with random ones.
    model, report = loaded
    if lacking := {*report["missing_keys"], *report["mismatched_keys"]}:
        raise ModelUnusable(f"the weights in {folder} lack {len(lacking)} tensors, such as {min(map(str, lacking))}")
    return cast(Phi3ForCausalLM, model)


def untie(phi3: Phi3ForCausalLM) -> None:
    """Give the output its own copy of the input's embeddings: an adapter of the one leaves the other as it is."""
    if phi3.config.tie_word_embeddings:
        phi3.lm_head.weight = nn.Parameter(phi3.lm_head.weight.detach().clone())
        phi3.config.tie_word_embeddings = False


def _merge(model: Phi3ForCausalLM, adapter: VerifiedAdapter) -> Phi3ForCausalLM:
    from peft import PeftModel, get_peft_model_state_dict

    untie(model)
    try:
        adapted = PeftModel.from_pretrained(model, adapter.path)
    except (ValueError, RuntimeError, KeyError) as error:
        raise AdapterRefused(f"the adapter does not fit the base model: {error}") from error
    with safe_open(adapter.path / ADAPTER_FILES[1], framework="pt") as file:
        unmatched = set(file.keys()) ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
        changing = any(file.get_tensor(name).any() for name in file.keys() if _ZERO_AT_FIRST.search(name))  # noqa: SIM118
    if unmatched:
        raise AdapterRefused(f"{len(unmatched)} of the adapter's tensors do not fit the base, such as {min(unmatched)}")
    if not changing:
        raise AdapterRefused("the adapter changes nothing: one tensor of each pair is zero, as before a training")
    try:
        return cast(Phi3ForCausalLM, adapted.merge_and_unload(safe_merge=True))
    except ValueError as error:
        raise AdapterRefused(f"the adapter's weights are not finite numbers: {error}") from error
