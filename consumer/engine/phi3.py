"""Phi-3 as a classifier: every question of every abstract in one forward pass, nothing generated.

Prompts are padded on the right and attention is causal, so no padding is ever seen and no mask is needed.
The final hidden state is taken at the slots only, and multiplied by the rows of the label tokens only.
"""

from collections.abc import Sequence
from typing import Literal

import torch

from ...schemas import ONCOLOGY, Abstract, Prompt, Task, VerifiedAdapter
from ...schemas.events import ModelReceipt
from ..config import EngineConfig
from . import Classified, ServedModel, Tokens
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
        limit = min(config.max_prompt_tokens, self.phi3.config.max_position_embeddings)
        self.encoder = PromptEncoder(base.path, Prompt(task), limit)
        self.model = _served(base, task, adapter, dtype)
        self._slot_offsets = torch.tensor([slot.offset for slot in self.encoder.slots])
        self._label_rows = [self.phi3.lm_head.weight[list(slot.labels)].float() for slot in self.encoder.slots]

    def encode(self, abstract: Abstract) -> Tokens:
        """Token ids of the whole prompt, cut to the limit. Safe on any thread."""
        return self.encoder.encode(abstract)

    @torch.inference_mode()
    def classify(self, batch: Sequence[Tokens]) -> Classified:
        """The label logits of every question for every prompt, in order."""
        lengths = torch.tensor([len(tokens.ids) for tokens in batch])
        ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens.ids)] = torch.tensor(tokens.ids)
        hidden = self.phi3.model(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        rows = torch.arange(len(batch)).unsqueeze(1)
        slots = hidden[rows, lengths.unsqueeze(1) + self._slot_offsets].float()  # (batch, question, hidden)
        logits = [(slots[:, question] @ labels.T).tolist() for question, labels in enumerate(self._label_rows)]
        return Classified(self.model, [tuple(map(tuple, rows)) for rows in zip(*logits, strict=True)])


def _device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
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
