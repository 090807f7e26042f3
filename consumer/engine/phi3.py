"""Phi-3 as a classifier: a base, perhaps an adapter merged into it, one task, in service."""

from collections.abc import Sequence

import torch

from ...schemas import ONCOLOGY, Abstract, Prompt, Task, VerifiedAdapter
from ...schemas.events import ModelReceipt
from . import Classified, ServedModel, Tokens
from .config import Device, Dtype, EngineConfig
from .forward import Forward, pack, served
from .shape import read_shape
from .tokens import PromptEncoder
from .weights import BaseFolder, load, locate


class Phi3Engine:
    """One model in service: a base, perhaps an adapter, one task. ``classify`` belongs to one thread."""

    def __init__(self, config: EngineConfig, *, task: Task = ONCOLOGY, adapter: VerifiedAdapter | None = None) -> None:
        """Load the base and merge the adapter; the adapter brings its own task.

        Raises:
            ModelUnusable, AdapterRefused, Unavailable: see ``weights``.
        """
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = _device(config.device)
        dtype = _dtype(config.dtype, self.device)
        task = adapter.manifest.task if adapter else task
        base = locate(config.model, config.revision)
        self.phi3 = load(base, adapter, dtype, self.device)
        shape = read_shape(base.path)
        self.encoder = PromptEncoder(base.path, Prompt(task), min(config.max_prompt_tokens, shape.max_tokens))
        self.model = _served(base, task, adapter, dtype)
        with torch.inference_mode():
            self._forward = Forward(served(self.phi3.state_dict(), shape), self.encoder)
            self._prefix = self._forward.run_prefix()

    def encode(self, abstract: Abstract) -> Tokens:
        """Token ids of the whole prompt, cut to the limit. Safe on any thread."""
        return self.encoder.encode(abstract)

    @torch.inference_mode()
    def classify(self, batch: Sequence[Tokens]) -> Classified:
        """The label logits of every question for every prompt, in order."""
        logits = self._forward.slot_logits(*pack(batch, self.device), self._prefix)
        by_abstract = zip(*(rows.tolist() for rows in logits), strict=True)
        return Classified(self.model, [tuple(map(tuple, rows)) for rows in by_abstract])


def _device(wanted: Device) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def _dtype(wanted: Dtype, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]


def _served(base: BaseFolder, task: Task, adapter: VerifiedAdapter | None, dtype: torch.dtype) -> ServedModel:
    manifest = adapter.manifest if adapter else None
    return ServedModel(
        receipt=ModelReceipt(
            base=base.ref.id,
            base_revision=base.ref.revision,
            adapter=manifest.name if manifest else None,
            adapter_version=manifest.version if manifest else None,
            adapter_digest=adapter.digest if adapter else None,
            prompt_digest=Prompt(task).digest,
            dtype=str(dtype).removeprefix("torch."),
            engine="torch",
        ),
        task=task,
        calibration=manifest.calibration if manifest else {},
        thresholds=manifest.thresholds if manifest else {},
    )
