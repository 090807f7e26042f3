"""From an abstract to token ids, such that the abstract's own text can never become a control token.

The prompt is assembled as ids: prefix + body + suffix. The model's tokenizer encodes prefix and suffix. A copy of it
without any added token encodes the body, so that ``<|end|>`` in an abstract is seven plain characters. A flag on a
shared tokenizer would not do: it is state that two threads may set differently.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from ...schemas import ModelUnusable, Prompt, Text
from ...schemas.prompt import CONTROL_TOKENS
from . import Tokens


@dataclass(frozen=True)
class SlotIds:
    """Where one answer is read, and the token id of each label.

    Attributes:
        offset: position from the end of the prompt (negative) whose next token is the answer.
        labels: the token id of each label, in the order of the task.
    """

    offset: int
    labels: tuple[int, ...]


class Tokenizers(NamedTuple):
    """The model's tokenizer, and a copy of it without any added token."""

    controlled: Tokenizer
    plain: Tokenizer


class PromptEncoder:
    """Encodes abstracts as ``Tokens`` for one tokenizer, one prompt and one limit. Thread-safe."""

    def __init__(self, model: Path | Tokenizers, prompt: Prompt, max_tokens: int) -> None:
        """Encode prompts of at most ``max_tokens`` tokens for the model in a folder, or with its tokenizers.

        Raises:
            ModelUnusable: as ``load_tokenizers``; or a label is not a single token, or no room is left for a text.
        """
        controlled, self._plain = model if isinstance(model, Tokenizers) else load_tokenizers(model)
        self.prefix = _ids(controlled, prompt.prefix)
        self.suffix = _ids(controlled, prompt.slots[-1].text)
        self._room = max_tokens - len(self.prefix) - len(self.suffix)
        self.max_tokens = max_tokens
        self.slots = tuple(
            SlotIds(
                offset=len(before) - 1 - len(self.suffix),
                labels=tuple(_next_token(controlled, slot.text, before, answer) for answer in slot.answers),
            )
            for slot in prompt.slots
            for before in [_ids(controlled, slot.text)]
        )
        if self._room < 1:
            raise ModelUnusable(f"the questions alone fill {max_tokens} tokens: use a longer limit or fewer labels")

    def encode(self, abstract: Text) -> Tokens:
        """The whole prompt of one abstract; the body is cut where the prompt would exceed the limit."""
        text = Prompt.body(abstract)
        body = _ids(self._plain, text)
        return Tokens(
            ids=(*self.prefix, *body[: self._room], *self.suffix),
            body=slice(len(self.prefix), len(self.prefix) + min(len(body), self._room)),
            truncated=len(body) > self._room,
        )

    def spans(self, abstract: Text) -> list[tuple[int, int]]:
        """Begin and end, as characters of ``Prompt.body``, of each token of the body, cut as by ``encode``."""
        read = self._plain.encode(Prompt.body(abstract), add_special_tokens=False)
        return list(read.offsets[: self._room])


def load_tokenizers(model: Path) -> Tokenizers:
    """Read ``tokenizer.json`` from the folder ``model``. For a small model nothing else takes as long to load.

    Raises:
        ModelUnusable: there is no such file, or it lacks the control tokens of a chat.
    """
    path = model / "tokenizer.json"
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelUnusable(f"{path} is missing: the model folder needs a fast tokenizer") from None
    spec |= {"truncation": None, "padding": None, "post_processor": None}
    controlled = Tokenizer.from_str(json.dumps(spec))
    if missing := [token for token in CONTROL_TOKENS if controlled.token_to_id(token) is None]:
        raise ModelUnusable(f"the tokenizer knows no {', '.join(missing)}: it is not a Phi-3 chat tokenizer")
    return Tokenizers(controlled, Tokenizer.from_str(json.dumps(spec | {"added_tokens": []})))


def _ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def _next_token(tokenizer: Tokenizer, text: str, before: tuple[int, ...], answer: str) -> int:
    """The id of the one token that ``answer`` adds after ``text``."""
    ids = _ids(tokenizer, text + answer)
    if ids[:-1] != before:
        raise ModelUnusable(f"the tokenizer does not write the answer {answer!r} as one token of its own")
    return ids[-1]
