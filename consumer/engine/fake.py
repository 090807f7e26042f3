"""A deterministic engine for stream and load tests: no model, no torch; every answer depends on the text alone."""

import hashlib
from collections.abc import Sequence
from zlib import crc32

from ...schemas import ONCOLOGY, Abstract, Prompt, Task
from ...schemas.events import ModelReceipt
from . import Classified, LabelLogits, ServedModel, Tokens


class FakeEngine:
    """Answers by a hash of the words."""

    def __init__(self, task: Task = ONCOLOGY, max_prompt_tokens: int = 2_046) -> None:
        self._limit = max_prompt_tokens
        self.model = ServedModel(
            receipt=ModelReceipt(
                base="fake", base_revision="1", prompt_digest=Prompt(task).digest, dtype="float64", engine="fake"
            ),
            task=task,
        )

    def encode(self, abstract: Abstract) -> Tokens:
        """One token a word."""
        words = Prompt.body(abstract).split()
        ids = tuple(crc32(word.encode()) for word in words[: self._limit])
        return Tokens(ids=ids, body=slice(0, len(ids)), truncated=len(words) > self._limit)

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        """Logits between -4 and 4, the same for the same words."""
        return Classified(self.model, [self._logits(tokens) for tokens in batch])

    def _logits(self, tokens: Tokens) -> LabelLogits:
        # 64 bytes of hash give every label of a question (at most 52) a byte of its own.
        hashed = hashlib.sha512(repr(tokens.ids).encode()).digest()
        return tuple(
            tuple(hashed[(index + 7 * position) % 64] / 32 - 4 for index in range(len(question.labels)))
            for position, question in enumerate(self.model.task.questions)
        )
