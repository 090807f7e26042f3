"""A Phi-3 of random weights, and an adapter for it, made on the spot: what a form costs does not depend on numbers.

Its tokenizer is phi3-nano's, whose vocabulary is smaller than that of the real models: token ids above are never seen.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...consumer.engine.weights import BaseFolder
from ...schemas import ONCOLOGY, AdapterManifest, Prompt, VerifiedAdapter
from ...schemas.artifacts import ADAPTER_FILES, seal
from ..settings import shipped_model

REVISION = "0" * 40  # as a snapshot from the hub lies on a disk: nobody has to read it to know which it is
SPREAD = 0.02  # of the weights
RANK = 16  # of the LoRA matrices


@dataclass(frozen=True)
class Form:
    """What differs between Phi-3 models."""

    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int

    @property
    def weights(self) -> dict[str, tuple[int, int]]:
        """The weights of one layer: name to rows and columns."""
        return {
            "self_attn.qkv_proj": (3 * self.hidden, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_up_proj": (2 * self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }

    @property
    def config(self) -> dict[str, Any]:
        """Otherwise as Phi-3-mini-4k-instruct."""
        return {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "dtype": "bfloat16",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4_096,
            "original_max_position_embeddings": 4_096,
            "sliding_window": 2_047,
            "rope_theta": 10_000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }


SMALL = Form(hidden=1_024, inner=2_816, layers=12, heads=16, vocabulary=12_288)  # 180 million weights


def write(form: Form, out: Path, device: torch.device) -> Path:
    """The folder of the model, written unless it is there; numbers are drawn on ``device``."""
    folder = out / "snapshots" / REVISION
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator(device).manual_seed(1)
    places: dict[str, str] = {}
    for number, tensors in enumerate(_shards(form, generator)):
        name = f"model-{number:05}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    (folder / "config.json").write_text(json.dumps(form.config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(shipped_model("phi3-nano")) / name, folder)
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def _shards(form: Form, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
    def random(rows: int, columns: int) -> Tensor:
        drawn = torch.randn(rows, columns, generator=generator, device=generator.device, dtype=torch.bfloat16)
        return (SPREAD * drawn).cpu()

    ones = torch.ones(form.hidden, dtype=torch.bfloat16)
    yield {
        "model.embed_tokens.weight": random(form.vocabulary, form.hidden),
        "lm_head.weight": random(form.vocabulary, form.hidden),
        "model.norm.weight": ones,
    }
    for number in range(form.layers):
        layer = f"model.layers.{number}."
        norms = {layer + name: ones.clone() for name in ("input_layernorm.weight", "post_attention_layernorm.weight")}
        yield norms | {f"{layer}{name}.weight": random(*shape) for name, shape in form.weights.items()}


def adapter_for(form: Form, base: BaseFolder, out: Path) -> VerifiedAdapter:
    """LoRA on every linear layer, without golden probes."""
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for number in range(form.layers):
        for name, (rows, columns) in form.weights.items():
            layer = f"base_model.model.model.layers.{number}.{name}"
            tensors[f"{layer}.lora_A.weight"] = SPREAD * torch.randn(RANK, columns, generator=generator)
            tensors[f"{layer}.lora_B.weight"] = SPREAD * torch.randn(rows, RANK, generator=generator)
    targets = [name.rpartition(".")[2] for name in form.weights]
    lora = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets}
    (out / ADAPTER_FILES[0]).write_text(json.dumps(lora))
    save_file(tensors, out / ADAPTER_FILES[1], metadata={"format": "pt"})
    about = {"name": "random", "version": "1", "base_model": base.ref, "task": ONCOLOGY}
    return seal(out, AdapterManifest.model_validate({**about, "prompt_digest": Prompt(ONCOLOGY).digest}))
