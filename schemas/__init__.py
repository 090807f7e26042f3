"""The contract: events, tasks, the prompt, names of streams, artifacts and errors."""

from .artifacts import AdapterManifest, VerifiedAdapter
from .errors import (
    AbstreamError,
    AdapterRefused,
    BacklogFull,
    Malformed,
    ModelUnusable,
    TaskInvalid,
    Unavailable,
)
from .events import (
    EVENTS,
    Abstract,
    AbstractClassified,
    AbstractRefused,
    AbstractSubmitted,
    AdapterActivated,
    AdapterRejected,
    AdapterShadowed,
    AdapterUpdated,
    Answer,
    Event,
    Identifiers,
    Prediction,
    Refusal,
)
from .prompt import Prompt, Text
from .shards import Shards
from .streams import Lane, Streams
from .submission import Submission
from .task import ONCOLOGY, Condition, Question, Task

__all__ = [
    "EVENTS",
    "ONCOLOGY",
    "Abstract",
    "AbstractClassified",
    "AbstractRefused",
    "AbstractSubmitted",
    "AbstreamError",
    "AdapterActivated",
    "AdapterManifest",
    "AdapterRefused",
    "AdapterRejected",
    "AdapterShadowed",
    "AdapterUpdated",
    "Answer",
    "BacklogFull",
    "Condition",
    "Event",
    "Identifiers",
    "Lane",
    "Malformed",
    "ModelUnusable",
    "Prediction",
    "Prompt",
    "Question",
    "Refusal",
    "Shards",
    "Streams",
    "Submission",
    "Task",
    "TaskInvalid",
    "Text",
    "Unavailable",
    "VerifiedAdapter",
]
