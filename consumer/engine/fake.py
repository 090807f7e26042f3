"""A deterministic engine for stream and load tests, without a model or torch: the same text gets the same answer."""

import hashlib
from collections.abc import Sequence
from zlib import crc32

from ...schemas import ONCOLOGY, AdapterRefused, Prompt, Task, Text, VerifiedAdapter
from ...schemas.artifacts import ADAPTER_FILES
from ...schemas.events import BaseModelRef, ModelReceipt
from . import Classified, LabelLogits, ServedModel, Tokens

BASE = BaseModelRef(id="fake", revision="1")


class FakeEngine:
    """Derives its logits from a hash of the words and, with an adapter, of the adapter's weights."""

    def __init__(
        self, task: Task = ONCOLOGY, max_prompt_tokens: int = 2_046, adapter: VerifiedAdapter | None = None
    ) -> None:
        """An adapter brings its own task, which replaces ``task``.

        Raises:
            AdapterRefused: the adapter was made for another base.
        """
        manifest = adapter.manifest if adapter else None
        if manifest and manifest.base_model != BASE:
            wanted = manifest.base_model
            raise AdapterRefused(f"the adapter was trained on {wanted.id} {wanted.revision}, this base is fake")
        task = manifest.task if manifest else task
        self._limit = max_prompt_tokens
        self._weights = _digest_of_weights(adapter) if adapter else ""
        self.model = ServedModel(
            receipt=ModelReceipt(
                base=BASE.id,
                base_revision=BASE.revision,
                adapter=manifest.name if manifest else None,
                adapter_version=manifest.version if manifest else None,
                adapter_digest=adapter.digest if adapter else None,
                prompt_digest=Prompt(task).digest,
                dtype="float64",
                engine="fake",
            ),
            task=task,
            calibration=manifest.calibration if manifest else {},
            thresholds=manifest.thresholds if manifest else {},
            expected=manifest.expected if manifest else None,
        )

    def encode(self, abstract: Text) -> Tokens:
        """One token for each word."""
        words = Prompt.body(abstract).split()
        ids = tuple(crc32(word.encode()) for word in words[: self._limit])
        return Tokens(ids=ids, body=slice(0, len(ids)), truncated=len(words) > self._limit)

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        """Logits between -4 and 4, the same for the same words."""
        return Classified(self.model, [self._logits(tokens) for tokens in batch])

    def _logits(self, tokens: Tokens) -> LabelLogits:
        # 64 bytes of hash give every label of a question (at most 52) a byte of its own.
        hashed = hashlib.sha512(f"{self._weights}{tokens.ids!r}".encode()).digest()
        return tuple(
            tuple(hashed[(index + 7 * position) % 64] / 32 - 4 for index in range(len(question.labels)))
            for position, question in enumerate(self.model.task.questions)
        )


def _digest_of_weights(adapter: VerifiedAdapter) -> str:
    """The digest of the weights alone: the adapter's own also covers its expected answers."""
    return next(file.sha256 for file in adapter.manifest.files if file.path == ADAPTER_FILES[1])
