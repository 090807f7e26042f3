"""The fake engine, as slow as a model is, and with words that bring a worker down."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from zlib import crc32

from ...consumer.engine import Classified, Tokens
from ...consumer.engine.fake import FakeEngine
from ...schemas import ONCOLOGY, Task, VerifiedAdapter

KILLING_WORD, HANGING_WORD = "chaos:kills-its-worker", "chaos:hangs-its-worker"
_KILLING, _HANGING = (crc32(word.encode()) for word in (KILLING_WORD, HANGING_WORD))  # as FakeEngine makes tokens


class ChaosEngine(FakeEngine):
    """Answers as the fake engine does, unless a word in the text ends it first."""

    def __init__(
        self,
        milliseconds: float,
        task: Task = ONCOLOGY,
        max_prompt_tokens: int = 2_046,
        adapter: VerifiedAdapter | None = None,
    ) -> None:
        """``milliseconds`` is what each abstract takes; otherwise as ``FakeEngine``."""
        super().__init__(task, max_prompt_tokens, adapter)
        self._seconds = milliseconds / 1000

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        """Take the time of so many abstracts; a word among them may end it."""
        time.sleep(self._seconds * len(batch))
        words = {word for tokens in batch for word in tokens.ids}
        if _KILLING in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if _HANGING in words:
            threading.Event().wait()
        return super().classify(batch)
