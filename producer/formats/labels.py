"""How an answer is written for ASReview and for reference managers.

ASReview has two labels. Relevant is the first label of the task's first question; every other label is irrelevant.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...schemas import Question

# The columns in which ASReview looks for its label, in this order, without ``label``, which may be a class here.
_COLUMNS = (
    *("asreview_label", "included", "final_included", "label_included"),
    *("included_label", "included_final", "included_flag", "include"),
)


def included(prediction: Mapping[str, Any], questions: Sequence[Question]) -> int:
    """1 for what ASReview calls relevant, else 0."""
    first = questions[0]
    return int(prediction["answers"][first.name]["label"] == first.labels[0])


def label_column(columns: Mapping[str, Any]) -> str:
    """The column in which ASReview will look in this table."""
    named = {name.strip().lower(): name for name in columns}
    return next((named[name] for name in _COLUMNS if name in named), "included")


def said_of(prediction: Mapping[str, Any]) -> dict[str, str]:
    """The columns with the answers, and whether they need review."""
    row: dict[str, str] = {}
    for question, answer in prediction["answers"].items():
        row[f"abstream_{question}"] = answer["label"]
        row[f"abstream_{question}_confidence"] = f"{answer['confidence']:.6f}"
    return row | {"abstream_review": str(prediction["review"]["required"]).lower()}


def note_of(prediction: Mapping[str, Any]) -> str:
    """All answers in one line."""
    answers = prediction["answers"].items()
    return "; ".join(f"{question} {answer['label']} ({answer['confidence']:.3f})" for question, answer in answers)
