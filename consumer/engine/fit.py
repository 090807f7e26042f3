"""Checks, from file headers alone, that an adapter has the tensors its configuration asks for in this base.

PEFT only warns of tensors without a target and of targets without tensors: it would serve the bare base.
"""

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ...schemas import AdapterRefused
from ...schemas.artifacts import ADAPTER_FILES
from ...schemas.lora import LoraConfig, read_lora

Shapes = dict[str, tuple[int, ...]]
"""The shapes of tensors by name."""

_PEFT_ROOT = "base_model.model."
_EMBEDDINGS = "embed_tokens"
_DTYPES = frozenset({"F32", "F16", "BF16"})


def check_fit(base: Path, adapter: Path) -> None:
    """Compare the adapter's tensors with its configuration and with the base's weights.

    Raises:
        AdapterRefused: a tensor has no target, a target lacks its tensors, or a rank, shape or dtype does not fit.
    """
    lora = read_lora(adapter / ADAPTER_FILES[0])
    found = _adapter_shapes(adapter / ADAPTER_FILES[1])
    wanted = dict(_wanted(lora, _base_shapes(base)))
    _same_names(set(found), set(wanted))
    for name, shape in found.items():
        if shape != wanted[name]:
            raise AdapterRefused(
                f"the tensor {name} is of shape {shape}: at rank {lora.r} in this base it would be {wanted[name]}"
            )


def _wanted(lora: LoraConfig, base: Shapes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of both LoRA matrices of every target layer.

    Raises:
        AdapterRefused: no layer of the base matches a target.
    """
    layers = {name.removesuffix(".weight"): shape for name, shape in base.items() if len(shape) == 2}
    for target in lora.target_modules:
        matched = [layer for layer in layers if f".{layer}".endswith(f".{target}")]
        if not matched:
            raise AdapterRefused(f"the adapter is for layers named {target}: this base has none")
        for layer in matched:
            rows, columns = layers[layer]
            if layer.endswith(_EMBEDDINGS):  # its weight is stored transposed
                yield f"{_PEFT_ROOT}{layer}.lora_embedding_A", (lora.r, rows)
                yield f"{_PEFT_ROOT}{layer}.lora_embedding_B", (columns, lora.r)
            else:
                yield f"{_PEFT_ROOT}{layer}.lora_A.weight", (lora.r, columns)
                yield f"{_PEFT_ROOT}{layer}.lora_B.weight", (rows, lora.r)


def _same_names(found: set[str], wanted: set[str]) -> None:
    homeless, lacking = found - wanted, wanted - found
    said = [f"{len(homeless)} have no home in the base, such as {min(homeless)}"] if homeless else []
    said += [f"{len(lacking)} of its targets are lacking, such as {min(lacking)}"] if lacking else []
    if said:
        raise AdapterRefused(f"of the adapter's tensors, {'; '.join(said)}")


def _adapter_shapes(path: Path) -> Shapes:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            if others := {piece.get_dtype() for piece in slices.values()} - _DTYPES:
                raise AdapterRefused(f"the adapter's tensors are of type {', '.join(sorted(others))}")
            return {name: tuple(piece.get_shape()) for name, piece in slices.items()}
    except (SafetensorError, OSError) as error:
        raise AdapterRefused(f"{path.name} is no safetensors file: {error}") from error


def _base_shapes(folder: Path) -> Shapes:
    """The shapes in all shards. An unreadable shard is skipped: loading the base reports it."""
    shapes: Shapes = {}
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            continue
    return shapes
