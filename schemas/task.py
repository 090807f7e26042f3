"""The ladder of questions: what is asked of every abstract, and the possible labels.

A task is an ordered list of questions. A later question may depend on the answer of an earlier one
(``cancer_type`` is asked where ``cancer`` is ``Cancer``). The task travels with the adapter, so a
custom task needs a task file and labelled data, and no code.
"""

import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from .errors import TaskInvalid
from .wording import otherwise, reason

# One letter answers one label, so the letters are the limit on labels.
LETTERS = string.ascii_uppercase + string.ascii_lowercase

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$"),
    otherwise("must be a name of at most 40 lower-case letters, digits and '_', with a letter first"),
]
LabelName = Annotated[
    str,
    StringConstraints(pattern=r"^[^\x00-\x1f<>]{1,60}$"),
    otherwise("must be a label of 1 to 60 characters in one line, without '<' and '>'"),
]
QuestionText = Annotated[
    str,
    StringConstraints(pattern=r"^[^\x00-\x1f<>]{1,300}$"),
    otherwise("must be a question of 1 to 300 characters in one line, without '<' and '>'"),
]


class Condition(BaseModel):
    """Asks a question only if an earlier question was answered with ``label``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Name
    label: LabelName


class Question(BaseModel):
    """A question with a fixed list of labels. ``text`` is its wording in the prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    text: QuestionText
    labels: Annotated[tuple[LabelName, ...], Field(min_length=2, max_length=len(LETTERS))]
    asked_if: Condition | None = None

    @model_validator(mode="after")
    def _labels_differ(self) -> "Question":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"question {self.name!r} has a label twice")
        return self

    def letter(self, label: str) -> str:
        """The letter that stands for ``label`` in the prompt."""
        return LETTERS[self.labels.index(label)]


class Task(BaseModel):
    """An ordered list of questions about an abstract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    questions: Annotated[tuple[Question, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _conditions_point_back(self) -> "Task":
        earlier: dict[str, Question] = {}
        conditions: dict[str, str] = {}
        for question in self.questions:
            if question.name in earlier:
                raise ValueError(f"question {question.name!r} stands twice")
            if when := question.asked_if:
                if when.question not in earlier:
                    raise ValueError(
                        f"{question.name!r} depends on {when.question!r}, which is not an earlier question"
                    )
                if when.label not in earlier[when.question].labels:
                    raise ValueError(f"{question.name!r} depends on {when.label!r}, no label of {when.question!r}")
                if conditions.setdefault(when.question, when.label) != when.label:
                    # The prompt has one text for each slot, so later questions can suppose only one answer.
                    raise ValueError(f"two questions suppose different answers of {when.question!r}")
            earlier[question.name] = question
        return self

    def supposed(self, question: Question) -> str | None:
        """The label of ``question`` that later questions suppose, if any does."""
        for later in self.questions:
            if later.asked_if and later.asked_if.question == question.name:
                return later.asked_if.label
        return None

    def asked(self, answers: Mapping[str, str]) -> Iterator[Question]:
        """Yield the questions whose condition is met by ``answers`` (question name to label).

        ``answers`` is read again before each question, so the caller may fill it while iterating.
        """
        for question in self.questions:
            when = question.asked_if
            if when is None or answers.get(when.question) == when.label:
                yield question

    @classmethod
    def from_file(cls, path: Path) -> "Task":
        """Read a task from a JSON file.

        Raises:
            TaskInvalid: the file cannot be read, is not JSON, or contradicts itself.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise TaskInvalid(f"cannot read the task file {path}: {error.strerror}") from error
        except ValidationError as error:
            raise TaskInvalid(f"{path}: {_problems(error)}") from error


def _problems(error: ValidationError) -> str:
    """What is wrong and where. An error of a list is left out if an error within the list explains it."""
    found = [(one["loc"], reason(one)) for one in error.errors()]
    innermost = [
        (place, said)
        for place, said in found
        if not any(len(other) > len(place) and other[: len(place)] == place for other, _ in found)
    ]
    return "; ".join(f"{'.'.join(map(str, place)) or 'task'}: {said}" for place, said in innermost)


ONCOLOGY = Task(
    name="oncology",
    questions=(
        Question(
            name="cancer",
            text="Is this abstract about cancer?",
            labels=("Cancer", "Non-Cancer"),
        ),
        Question(
            name="cancer_type",
            text="Which type of cancer?",
            labels=(
                "bladder_urothelial",
                "brain_cns",
                "breast",
                "colorectal",
                "esophagus_stomach",
                "eye",
                "head_neck",
                "kidney",
                "leukemia",
                "liver_biliary",
                "lung",
                "lymphoma_myeloma",
                "ovary",
                "pancreas",
                "prostate",
                "sarcoma_bone_soft_tissue",
                "skin_melanoma",
                "thyroid",
                "uterus_cervix",
                "other",
            ),
            asked_if=Condition(question="cancer", label="Cancer"),
        ),
    ),
)
"""The default task: Cancer or Non-Cancer, then which of 20 types."""
