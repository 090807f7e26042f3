"""The text that the model reads for an abstract, with one slot per question.

    prefix                the instruction and the labels, the same for every abstract
    body                  title and abstract, always plain text
    suffix                the beginning of each answer; the model is asked for the letter after each ``:``

    <|user|>
    ...                   each question, and its labels as lettered lines
    Abstract:
    {title}
    {text}<|end|>
    <|assistant|>
    cancer: A             slot 1 is read before this letter
    cancer_type:          slot 2 is read here

No text is generated. Attention is causal, so an earlier slot cannot see the letter that a later question supposes
(``A`` above), and one forward pass answers every question.

Training and serving both build their input here. ``Prompt.digest`` identifies the exact wording: an adapter trained
on another is refused rather than served badly.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from .task import LETTERS, Question, Task

USER, END, ASSISTANT = "<|user|>", "<|end|>", "<|assistant|>"
CONTROL_TOKENS = (USER, END, ASSISTANT)
UNSUPPOSED = "-"  # written in a slot whose answer no later question supposes


class Text(Protocol):
    """Anything with a title and an abstract, such as an ``Abstract`` or a ``Submission``."""

    @property
    def title(self) -> str | None: ...

    @property
    def abstract(self) -> str: ...


@dataclass(frozen=True)
class Slot:
    """The place where one question is answered: the suffix text before it, and the text of each possible answer."""

    question: Question
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """The fixed wording around an abstract, for one task."""

    task: Task

    @cached_property
    def prefix(self) -> str:
        """Everything before the abstract; the same for all abstracts of a task."""
        asked = "".join(_ask(question) for question in self.task.questions)
        return f"{USER}\nRead the abstract and answer with one letter each.\n{asked}Abstract:\n"

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """One slot per question, in order. Each slot's text begins with the slot before it."""
        slots: list[Slot] = []
        text = f"{END}\n{ASSISTANT}\n"
        for question in self.task.questions:
            text += f"{question.name}:"
            slots.append(Slot(question, text, tuple(f" {letter}" for letter in LETTERS[: len(question.labels)])))
            supposed = self.task.supposed(question)
            text += f" {question.letter(supposed) if supposed else UNSUPPOSED}\n"
        return tuple(slots)

    @staticmethod
    def body(abstract: Text) -> str:
        """Title and text as the model sees them: plain text, never control tokens."""
        title, text = (abstract.title or "").strip(), abstract.abstract.strip()
        return f"{title}\n{text}" if title and text else title or text

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` over the task and all fixed wording."""
        wording = {
            "task": self.task.model_dump(mode="json"),
            "prefix": self.prefix,
            "slots": [[slot.text, slot.answers] for slot in self.slots],
            "body": "{title}\n{abstract}",
        }
        canonical = json.dumps(wording, sort_keys=True, ensure_ascii=False).encode()
        return f"sha256:{hashlib.sha256(canonical).hexdigest()}"


def _ask(question: Question) -> str:
    lines = "".join(
        f"{letter}) {label.replace('_', ' ')}\n" for letter, label in zip(LETTERS, question.labels, strict=False)
    )
    return f"{question.name}: {question.text}\n{lines}"
