"""A base model, read once per process, and adapters merged into copies of the tensors they change.

Each merge starts from the base as stored on disk, in float32, and only then casts to the dtype that is served: so after
a hundred adapters the weights are those of a fresh start, to the bit. Tensors that no adapter changes are shared by all
engines. The arithmetic is PEFT's, without PEFT, whose import and wrapping take longer than all the rest.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...schemas import AdapterRefused, ModelUnusable, Prompt, Task, VerifiedAdapter
from ...schemas.artifacts import ADAPTER_FILES
from ...schemas.lora import LoraConfig, read_lora
from . import fp8, int8
from .breaks import take_a_break
from .config import Device, Dtype, EngineConfig
from .fit import check_fit
from .parts import shared_tensor
from .shape import Shape, read_shape
from .slots import Slots
from .tensor_bytes import sharing_works
from .tokens import PromptEncoder, load_tokenizers
from .weights import locate

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_OF_A_LAYER = (
    "input_layernorm", "post_attention_layernorm", "self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj",
    "mlp.down_proj",
)  # fmt: skip
_STORED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_DOWN = re.compile(r"base_model\.model\.(?P<layer>.+)\.(?:lora_A\.weight|lora_embedding_A)")


class Base:
    """A base model on the device that serves it. Owns its tensors as stored on disk, mapped into memory.

    Attributes:
        slots: the memory shared with other replicas on this machine; None where nothing is shared.
        key: names the base and its precision in shared memory.
    """

    def __init__(self, config: EngineConfig) -> None:
        """
        Raises:
            ModelUnusable, Unavailable: there is no such model, or its weights cannot be read.
        """
        self.config = config
        self.device = device_of(config.device)
        self.precision, self.dtype = _precision(config.dtype, self.device)
        self.folder = locate(config.model, config.revision)
        self.shape = read_shape(self.folder.path)
        self._tokenizers = load_tokenizers(self.folder.path)
        self._encoder: tuple[str, PromptEncoder] | None = None
        self._stored = _read(self.folder.path, self.shape)
        self._shared: WeakValueDictionary[str, Tensor] = WeakValueDictionary()  # tensors as served
        shares = config.slots and self.device.type == "cpu" and sharing_works()
        self.slots = Slots(config.slots) if shares else None
        self.key = f"{self.folder.ref.revision} {self.precision}"

    def encoder(self, task: Task) -> PromptEncoder:
        """The encoder of prompts for a task; the same object as long as the task is the same."""
        prompt = Prompt(task)
        if self._encoder is None or self._encoder[0] != prompt.digest:
            limit = min(self.config.max_prompt_tokens, self.shape.max_tokens)
            self._encoder = prompt.digest, PromptEncoder(self._tokenizers, prompt, limit)
        return self._encoder[1]

    def weights(self, adapter: VerifiedAdapter | None) -> dict[str, Tensor]:
        """All tensors by name, as served, with the adapter merged in. The output head is always the base's own.

        Raises:
            AdapterRefused: it was made for another base, or its tensors do not fit this one, are not finite, or change
                nothing.
        """
        merged = dict(self._merge(adapter)) if adapter else {}
        return {name: merged[name] if name in merged else self.as_it_is(name) for name in (*self._stored, HEAD)}

    def as_it_is(self, name: str) -> Tensor:
        """A tensor of the bare base, as served; the same object for all engines."""
        if name not in self._stored:
            name = EMBEDDING  # tied: it is the output head too
        if (tensor := self._shared.get(name)) is None:
            tensor = self._shared[name] = self._as_served(name)
        return tensor

    def _as_served(self, name: str) -> Tensor:
        stored = self._stored[name]
        if self.slots and stored.dtype != self.dtype and name in (EMBEDDING, HEAD):  # others are packed, or small
            return shared_tensor(self.slots, f"{self.key} {name}", lambda: stored.to(self.dtype))
        return stored.to(self.device, self.dtype)

    @torch.inference_mode()
    def _merge(self, adapter: VerifiedAdapter) -> Iterator[tuple[str, Tensor]]:
        """The tensors that the adapter changes, as served."""
        wanted, revision = adapter.manifest.base_model, self.folder.ref.revision
        if wanted.revision != revision:
            raise AdapterRefused(f"the adapter was trained on {wanted.id} {wanted.revision}, this base is {revision}")
        check_fit(self.folder.path, adapter.path)
        lora = read_lora(adapter.path / ADAPTER_FILES[0])
        changes = False
        for layer, delta in self._deltas(adapter.path / ADAPTER_FILES[1], lora):
            take_a_break()
            merged = self._stored[f"{layer}.weight"].to(self.device, torch.float32) + delta
            if not merged.sum().isfinite():  # infinity and NaN carry over to the sum
                raise AdapterRefused(f"the adapter's weights are not finite numbers, such as those of {layer}")
            changes = changes or bool(delta.any())
            yield f"{layer}.weight", merged.to(self.dtype)
        if not changes:
            raise AdapterRefused("the adapter changes nothing: one tensor of each pair is zero, as before a training")

    def _deltas(self, path: Path, lora: LoraConfig) -> Iterator[tuple[str, Tensor]]:
        """What LoRA adds to the weight of each layer, in float32; ``check_fit`` has checked the shapes."""
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if not (match := _DOWN.fullmatch(name)):
                    continue
                layer, embeds = match["layer"], name.endswith("lora_embedding_A")
                other = name.replace("lora_embedding_A", "lora_embedding_B").replace("lora_A", "lora_B")
                down, up = (file.get_tensor(each).to(self.device, torch.float32) for each in (name, other))
                product = up @ down
                yield layer, (product.T if embeds else product) * (_alpha(lora, layer) / lora.r)


def _alpha(lora: LoraConfig, layer: str) -> float:
    own = (alpha for name, alpha in lora.alpha_pattern.items() if f".{layer}".endswith(f".{name}"))
    return next(own, lora.lora_alpha)


def _read(folder: Path, shape: Shape) -> dict[str, Tensor]:
    """All tensors of all shards, mapped into memory and not yet read.

    Raises:
        ModelUnusable: a file is broken, or a tensor is missing, in two files, or quantized.
    """
    stored: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError) as error:
            raise ModelUnusable(f"the weights in {folder} cannot be loaded: {path.name}: {error}") from error
        if twice := found.keys() & stored.keys():
            raise ModelUnusable(f"{folder} holds {min(twice)} twice, last in {path.name}: which one is meant?")
        stored |= found
    layers = (f"model.layers.{number}.{part}.weight" for number in range(shape.layers) for part in _OF_A_LAYER)
    if lacking := {EMBEDDING, "model.norm.weight", *layers} - stored.keys():
        raise ModelUnusable(f"the weights in {folder} lack {len(lacking)} tensors, such as {min(lacking)}")
    if quantized := sorted(name for name, tensor in stored.items() if tensor.dtype not in _STORED):
        kind = str(stored[quantized[0]].dtype).removeprefix("torch.")
        raise ModelUnusable(f"{quantized[0]} in {folder} is of type {kind}: quantized models are not served")
    return stored


def device_of(wanted: Device) -> torch.device:
    """The device that a setting stands for here.

    Raises:
        ModelUnusable: it is CUDA, and torch finds no GPU here.
    """
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ModelUnusable("--device cuda: torch finds no GPU here; `abstream doctor` tells what there is")
    return torch.device("cuda" if has_gpu and wanted != "cpu" else "cpu")


def _precision(wanted: Dtype, device: torch.device) -> tuple[str, torch.dtype]:
    """The precision as the receipt names it, and the dtype of weights and hidden states.

    Raises:
        ModelUnusable: this device has no products of that precision.
    """
    if wanted == "auto":
        wanted = "bfloat16" if device.type == "cuda" else "float32"
    if wanted == "fp8" and not fp8.fp8_works(device):
        raise ModelUnusable("--dtype fp8 needs a GPU of NVIDIA's Hopper generation or newer: use bfloat16 here")
    if wanted == "int8" and (device.type != "cpu" or not int8.int8_works()):
        raise ModelUnusable("--dtype int8 needs a CPU with products of bytes (AVX-512 VNNI): use bfloat16 here")
    return wanted, torch.float32 if wanted == "float32" else torch.bfloat16
