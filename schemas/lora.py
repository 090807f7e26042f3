"""``adapter_config.json`` as PEFT writes it, read strictly: PEFT acts on what stands there.

Some of its fields import modules that they name (``auto_mapping``, ``megatron_core``), others change the base
(``layer_replication``, ``init_lora_weights: pissa``). Served is plain LoRA, so that no field may ask for more.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, StringConstraints, ValidationError

from .errors import AdapterRefused
from .events import LoraShape

LayerName = Annotated[str, StringConstraints(pattern=r"^\w+(\.\w+)*$")]


class LoraConfig(BaseModel):
    """The fields that plain LoRA has; of all others none may be set."""

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: Literal["LORA"]
    r: PositiveInt
    lora_alpha: PositiveFloat
    # PEFT takes a regular expression as well: one that never ends would never let go of the thread.
    target_modules: Annotated[tuple[LayerName, ...], Field(min_length=1)]
    # Of layers that have another alpha, by name; PEFT reads a regular expression here too.
    alpha_pattern: dict[LayerName, PositiveFloat] = {}
    # What follows changes nothing about how the adapter is served.
    task_type: Literal["CAUSAL_LM"] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    peft_version: str | None = None
    inference_mode: bool = True
    init_lora_weights: bool | Literal["gaussian"] = True
    lora_dropout: float = 0
    bias: Literal["none"] = "none"
    # Defaults of fields that need others to mean anything.
    megatron_core: Literal["megatron.core"] | None = None
    qalora_group_size: int | None = None

    @property
    def shape(self) -> LoraShape:
        """As an adapter update announces it."""
        return LoraShape(r=self.r, alpha=self.lora_alpha, target_modules=tuple(sorted(self.target_modules)))


def read_lora(path: Path) -> LoraConfig:
    """Read ``adapter_config.json``.

    Raises:
        AdapterRefused: it is not that of a plain LoRA.
    """
    try:
        config = LoraConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AdapterRefused(f"{path.name} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the whole"
        raise AdapterRefused(f"{path.name} is no LoRA configuration of PEFT: {where}: {problem['msg']}") from None
    if asked := sorted(name for name, value in (config.model_extra or {}).items() if value):
        raise AdapterRefused(f"{path.name} sets {', '.join(asked)}: only plain LoRA is served, without any of these")
    return config
