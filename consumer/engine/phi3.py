"""Phi-3 as a classifier in service: a base, an adapter merged into it if there is one, and a task."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...schemas import ONCOLOGY, Prompt, Task, Text, VerifiedAdapter
from ...schemas.events import ModelReceipt
from . import Classified, LabelLogits, ServedModel, Tokens
from .budget import Budget
from .config import EngineConfig
from .forward import Forward, pack, served
from .fp8 import Scaled
from .int8 import Int8
from .lanes import lanes
from .memory import device_name
from .merging import Base
from .products import Product, product
from .sharing import parts_in_service

_PROBE_TOKENS = 512  # of a prompt after its prefix, about as many as an abstract has

_IN_EIGHT_BITS: dict[str, Callable[[Tensor], Product]] = {"fp8": Scaled, "int8": Int8.of}


class Phi3Engine:
    """One model in service. ``classify`` may be called from one thread only."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        task: Task = ONCOLOGY,
        adapter: VerifiedAdapter | None = None,
        base: Base | None = None,
    ) -> None:
        """Merge the adapter, if there is one, into the base.

        Args:
            config: the engine's settings.
            task: what is asked of the bare base; an adapter brings its own.
            adapter: what is merged into the base.
            base: a base that another engine has read with the same config; read anew where None.

        Raises:
            ModelUnusable, AdapterRefused, Unavailable: see ``merging``.
        """
        if config.threads:
            torch.set_num_threads(config.threads)
        task = adapter.manifest.task if adapter else task
        self.base = base or Base(config)
        self.encoder = self.base.encoder(task)
        self.model = _served(self.base, task, adapter)
        make = _IN_EIGHT_BITS.get(self.base.precision, product)
        with torch.inference_mode():
            parts = parts_in_service(self.base, adapter, make)
            self._forward = Forward(served(parts, self.base.shape), self.encoder)
            self._prefix = self._forward.run_prefix()
        self._lanes = lanes(torch.get_num_threads()) if self.base.device.type == "cpu" else None
        revision, kind = self.base.folder.ref.revision, device_name(self.base.device)
        self._budget = Budget(self.base.device, config.budgets, f"{kind} {revision} {self.model.receipt.dtype}")
        self._budget.probe(lambda tokens: self._pass(self._of_length(tokens)), 16 * self.encoder.max_tokens)

    def encode(self, abstract: Text) -> Tokens:
        """Token ids of the whole prompt, cut to the limit. Thread-safe."""
        return self.encoder.encode(abstract)

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        """The label logits of every question for every prompt, in order. No answer depends on the rest of the batch.

        Raises:
            RuntimeError: there is not enough memory for a single prompt.
        """
        return Classified(self.model, self._budget.run(batch, self._pass, self._lanes))

    @torch.inference_mode()
    def _pass(self, batch: Sequence[Tokens]) -> list[LabelLogits]:
        logits = self._forward.slot_logits(*pack(batch, self.base.device), self._prefix)
        by_abstract = zip(*(rows.tolist() for rows in logits), strict=True)
        return [tuple(map(tuple, rows)) for rows in by_abstract]

    def _of_length(self, tokens: int) -> list[Tokens]:
        """Prompts of a realistic length, with about ``tokens`` tokens in all after their prefix."""
        ids = (*self.encoder.prefix, *[0] * (_PROBE_TOKENS - len(self.encoder.suffix)), *self.encoder.suffix)
        begin = len(self.encoder.prefix)
        one = Tokens(ids, slice(begin, len(ids) - len(self.encoder.suffix)), truncated=False)
        return [one] * max(1, tokens // _PROBE_TOKENS)


def _served(base: Base, task: Task, adapter: VerifiedAdapter | None) -> ServedModel:
    manifest = adapter.manifest if adapter else None
    return ServedModel(
        receipt=ModelReceipt(
            base=base.folder.ref.id,
            base_revision=base.folder.ref.revision,
            adapter=manifest.name if manifest else None,
            adapter_version=manifest.version if manifest else None,
            adapter_digest=adapter.digest if adapter else None,
            prompt_digest=Prompt(task).digest,
            dtype=base.precision,
            engine="torch",
        ),
        task=task,
        calibration=manifest.calibration if manifest else {},
        thresholds=manifest.thresholds if manifest else {},
        expected=manifest.expected if manifest else None,
    )
