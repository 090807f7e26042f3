"""``adapter_config.json`` as PEFT writes it, read strictly, because PEFT acts on what it says.

Some of its fields import modules that they name (``auto_mapping``, ``megatron_core``), others change the base
(``layer_replication``, ``init_lora_weights: pissa``). Only plain LoRA is served, so no field may ask for more.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, StringConstraints, ValidationError

from .errors import AdapterRefused
from .events import LoraShape
from .wording import first

LayerName = Annotated[str, StringConstraints(pattern=r"^\w+(\.\w+)*$")]


class LoraConfig(BaseModel):
    """The fields of plain LoRA; no other field may be set."""

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: Literal["LORA"]
    r: PositiveInt
    lora_alpha: PositiveFloat
    # PEFT accepts a regular expression as well, and a malicious one could block the thread for ever.
    target_modules: Annotated[tuple[LayerName, ...], Field(min_length=1)]
    # Other values of alpha, by layer name; PEFT reads regular expressions here too.
    alpha_pattern: dict[LayerName, PositiveFloat] = {}
    # The following fields do not change how the adapter is served.
    task_type: Literal["CAUSAL_LM"] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    peft_version: str | None = None
    inference_mode: bool = True
    init_lora_weights: bool | Literal["gaussian"] = True
    lora_dropout: float = 0
    bias: Literal["none"] = "none"
    # Defaults of fields that have no effect without others.
    megatron_core: Literal["megatron.core"] | None = None
    qalora_group_size: int | None = None

    @property
    def shape(self) -> LoraShape:
        """The shape that an adapter update announces."""
        return LoraShape(r=self.r, alpha=self.lora_alpha, target_modules=tuple(sorted(self.target_modules)))


def read_lora(path: Path) -> LoraConfig:
    """Read ``adapter_config.json``.

    Raises:
        AdapterRefused: it cannot be read, or is not that of a plain LoRA.
    """
    try:
        config = LoraConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AdapterRefused(f"{path.name} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise AdapterRefused(f"{path.name} is no LoRA configuration of PEFT: {first(error)}") from None
    if asked := sorted(name for name, value in (config.model_extra or {}).items() if value):
        raise AdapterRefused(f"{path.name} sets {', '.join(asked)}: only plain LoRA is served, without any of these")
    return config
