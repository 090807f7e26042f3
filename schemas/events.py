"""All events of abstream: a CloudEvents 1.0 envelope around a typed payload.

A value of these types is valid by construction. Unknown fields, as of a newer version, are kept and ignored.
Specification: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    model_validator,
)

from .decoding import made
from .errors import Malformed, RefusalReason
from .task import Task

PLAIN_SOURCE = "urn:abstream:plain"  # the source of entries with plain fields, which have none

MAX_TITLE_CHARACTERS = 2_000
MAX_ABSTRACT_CHARACTERS = 50_000
MAX_METADATA = 32

NonEmpty = Annotated[str, StringConstraints(min_length=1)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0)]
# Fails at the first wrong value: to list half a million of them would take seconds.
Texts = Annotated[tuple[str, ...], FailFast()]


def _not_too_many(values: Any) -> Any:
    if isinstance(values, dict) and len(values) > MAX_METADATA:
        raise ValueError(f"has {len(values)} entries: send at most {MAX_METADATA}")
    return values


Metadata = Annotated[dict[str, str], Field(max_length=MAX_METADATA), BeforeValidator(_not_too_many)]


class Payload(BaseModel):
    """The base of everything in ``data``: immutable, and tolerant of unknown fields."""

    # The contract has fields named `model` and `model_…`, so pydantic's reserved prefix is lifted.
    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


# --- payloads of abstracts -----------------------------------------------------------------------


def has_text(title: str | None, abstract: str) -> bool:
    """Whether there is anything to read."""
    return bool(abstract.strip() or (title and title.strip()))


class Identifiers(Payload):
    """Identifiers of the abstract in other databases. They are copied to the result."""

    pmid: str | None = None
    pmcid: str | None = None
    doi: str | None = None


class Abstract(Payload):
    """An abstract to classify. The model reads only the title and the abstract; identifiers and metadata are echoed."""

    title: Annotated[str, StringConstraints(max_length=MAX_TITLE_CHARACTERS)] | None = None
    abstract: Annotated[str, StringConstraints(max_length=MAX_ABSTRACT_CHARACTERS)]
    identifiers: Identifiers = Identifiers()
    journal: str | None = None
    year: int | None = None
    language: str | None = None
    publication_types: Texts = ()
    mesh: Texts = ()
    # A factory, because pydantic makes a deep copy of a mutable default for every abstract.
    metadata: Metadata = Field(default_factory=dict, json_schema_extra={"default": {}})

    @model_validator(mode="after")
    def _has_text(self) -> "Abstract":
        if not has_text(self.title, self.abstract):
            raise ValueError("title and abstract are both empty: send at least one of them")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Abstract":
        """Build from untrusted values.

        Raises:
            Malformed: with the reason and what the sender must change.
        """
        return made(cls, values)


class Answer(Payload):
    """The answer to one question. ``confidence`` is the calibrated probability of ``label``."""

    label: NonEmpty
    confidence: Probability
    probabilities: dict[str, Probability]

    @model_validator(mode="after")
    def _is_a_distribution(self) -> "Answer":
        if abs(sum(self.probabilities.values()) - 1) > 1e-6:
            raise ValueError("probabilities must sum to 1")
        if self.probabilities.get(self.label) != self.confidence:
            raise ValueError("confidence must be the probability of the label")
        return self


class Review(Payload):
    """Whether a person should check the answers, and why."""

    required: bool
    reason: str | None = None


class ModelReceipt(Payload):
    """Identifies the model that answered. ``adapter`` is null if it was the base model without an adapter."""

    base: NonEmpty
    base_revision: NonEmpty
    adapter: str | None = None
    adapter_version: str | None = None
    adapter_digest: Digest | None = None
    prompt_digest: Digest
    dtype: NonEmpty
    engine: NonEmpty


class InputReceipt(Payload):
    """Identifies the input. ``text_digest`` covers title and abstract as in the prompt, before any truncation."""

    entry_id: NonEmpty
    text_digest: Digest
    tokens: Annotated[int, Field(ge=1)]
    truncated: bool


class Timing(Payload):
    """How long it took: ``queued_ms`` until a worker read the abstract, ``inference_ms`` for the whole batch."""

    queued_ms: Milliseconds
    inference_ms: Milliseconds
    total_ms: Milliseconds


class Prediction(Payload):
    """The classification of an abstract: an answer to every question asked."""

    answers: dict[str, Answer]
    review: Review
    model: ModelReceipt
    input: InputReceipt
    timing: Timing
    worker: NonEmpty
    attempt: Annotated[int, Field(ge=1)]
    identifiers: Identifiers = Identifiers()
    metadata: dict[str, str] = {}


class OriginalEntry(Payload):
    """The refused entry. All values are base64 if one is not UTF-8. ``fields`` is empty if it could not be kept."""

    stream: NonEmpty
    entry_id: NonEmpty
    fields: dict[str, str]
    encoding: Literal["utf8", "base64"]


class Refusal(Payload):
    """Why an abstract was not classified. If ``retryable``, submitting it again unchanged may succeed."""

    reason: RefusalReason
    message: NonEmpty
    deliveries: Annotated[int, Field(ge=0)]  # 0 if it was removed before any worker was given it
    consumers: tuple[str, ...]
    retryable: bool
    original: OriginalEntry
    replay_of: str | None = None


# --- payloads of adapters ------------------------------------------------------------------------


class ArtifactFile(Payload):
    """A file of an adapter. Check ``path`` with ``artifacts.check_paths`` before writing it to disk."""

    path: NonEmpty
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class BaseModelRef(Payload):
    """The base model that an adapter was trained for."""

    id: NonEmpty
    revision: NonEmpty


class LoraShape(Payload):
    """The LoRA hyperparameters of an adapter."""

    r: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0)]
    target_modules: tuple[str, ...]


class Metrics(Payload):
    """Metrics on an evaluation data set, before and after training."""

    dataset: NonEmpty
    n: Annotated[int, Field(ge=0)]
    before: dict[str, float]
    after: dict[str, float]


class Gate(Payload):
    """Whether an adapter passed the rules for its release."""

    passed: bool
    rules: tuple[str, ...]


class AdapterUpdate(Payload):
    """An announced adapter, new or old. It is identified by ``digest``, never by ``name``."""

    name: NonEmpty
    version: NonEmpty
    digest: Digest
    uri: NonEmpty
    files: tuple[ArtifactFile, ...]
    base_model: BaseModelRef
    task: Task
    prompt_digest: Digest
    lora: LoraShape
    calibration: dict[str, Annotated[float, Field(gt=0)]] = {}
    thresholds: dict[str, Probability] = {}
    metrics: Metrics | None = None
    gate: Gate | None = None
    action: Literal["activate", "shadow", "rollback"]
    reason: str | None = None  # of a rollback
    signature: str | None = None  # see artifacts.signed_bytes


class Probes(Payload):
    """How closely an adapter reproduced its golden probes when it was loaded."""

    n: Annotated[int, Field(ge=0)]
    max_abs_diff: Annotated[float, Field(ge=0)]


class ShadowAnswers(Payload):
    """How a candidate's answers to one question compare with those of the live adapter.

    Attributes:
        n: number of abstracts for which both answered it.
        same: number of abstracts with the same label.
        confidence_shift: the candidate's mean confidence minus that of the live adapter.
        flips: number of abstracts by the live adapter's label, then by the candidate's.
    """

    n: Annotated[int, Field(ge=0)]
    same: Annotated[int, Field(ge=0)]
    confidence_shift: float
    flips: dict[str, dict[str, int]] = {}


class ShadowSummary(Payload):
    """One worker's results so far for a shadow candidate, which scores abstracts and publishes nothing."""

    worker: NonEmpty
    name: NonEmpty
    version: NonEmpty
    digest: Digest
    live_digest: Digest | None = None
    abstracts: Annotated[int, Field(ge=0)]
    changed: Annotated[int, Field(ge=0)]  # with any label other than the live adapter's
    dropped: Annotated[int, Field(ge=0)]  # for lack of idle time
    failed: Annotated[int, Field(ge=0)]
    questions: dict[str, ShadowAnswers]
    ended: bool


class AdapterAnswer(Payload):
    """A worker's response to an adapter update."""

    worker: NonEmpty
    name: NonEmpty
    version: NonEmpty
    digest: Digest
    previous_digest: Digest | None = None
    load_ms: Milliseconds
    switch_ms: Milliseconds
    probes: Probes | None = None
    reason: str | None = None


# --- the envelope --------------------------------------------------------------------------------


REQUIRED = ("specversion", "id", "source", "type", "data")
CARRIED_OVER = ("subject", "traceparent", "tracestate", "correlationid")  # from an event to its answer


class Event(BaseModel):
    """A CloudEvents envelope. ``source`` + ``id`` is the identity of an event."""

    model_config = ConfigDict(frozen=True, extra="allow", json_schema_extra={"required": list(REQUIRED)})

    specversion: Literal["1.0"] = "1.0"
    id: NonEmpty
    source: NonEmpty
    type: str
    subject: NonEmpty | None = None
    time: AwareDatetime | None = None
    datacontenttype: str | None = "application/json"
    dataschema: NonEmpty | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    causationid: NonEmpty | None = None
    causationsource: NonEmpty | None = None
    correlationid: NonEmpty | None = None
    sequence: NonEmpty | None = None
    data: Any

    _OPTIONAL: ClassVar[tuple[str, ...]] = (
        "subject", "time", "datacontenttype", "dataschema", "traceparent", "tracestate",
        "causationid", "causationsource", "correlationid", "sequence",
    )  # fmt: skip

    def to_json(self) -> bytes:
        """Structured-mode JSON. Absent attributes are left out, as the specification requires; nulls in data stay."""
        return self.__pydantic_serializer__.to_json(self, exclude=self.absent())

    @property
    def carried_over(self) -> dict[str, str]:
        """The attributes that an answer to this event takes over."""
        return {name: value for name in CARRIED_OVER if (value := getattr(self, name)) is not None}

    def absent(self) -> set[str]:
        """The attributes without a value, which the specification requires to be left out."""
        return {name for name in self._OPTIONAL if getattr(self, name) is None}


class AbstractSubmitted(Event):
    """An abstract was submitted for classification."""

    type: Literal["abstream.abstract.submitted.v1"] = "abstream.abstract.submitted.v1"
    data: Abstract

    @classmethod
    def of(cls, abstract: Abstract, id: str, **attributes: Any) -> "AbstractSubmitted":
        """The event that submits an abstract with this id.

        Raises:
            Malformed: the id or another attribute is not valid.
        """
        try:
            return made(cls, {"data": abstract, "id": id, **attributes})
        except Malformed as problem:
            raise Malformed(problem.reason, f"abstract {id!r}: {problem.message}") from None


class AbstractClassified(Event):
    """An abstract was classified.

    ``causationid`` is the id of the submitted event, ``sequence`` the id of its stream entry. ``supersedes`` is the id
    of an earlier result that this one replaces.
    """

    type: Literal["abstream.abstract.classified.v1"] = "abstream.abstract.classified.v1"
    supersedes: NonEmpty | None = None
    data: Prediction

    _OPTIONAL: ClassVar[tuple[str, ...]] = (*Event._OPTIONAL, "supersedes")


class AbstractRefused(Event):
    """An abstract could not be classified. ``causationid`` and ``sequence`` are as in a classification."""

    type: Literal["abstream.abstract.refused.v1"] = "abstream.abstract.refused.v1"
    data: Refusal


class AdapterUpdated(Event):
    """An adapter was announced to all workers."""

    type: Literal["abstream.adapter.updated.v1"] = "abstream.adapter.updated.v1"
    data: AdapterUpdate


class AdapterActivated(Event):
    """A worker serves an announced adapter."""

    type: Literal["abstream.adapter.activated.v1"] = "abstream.adapter.activated.v1"
    data: AdapterAnswer


class AdapterRejected(Event):
    """A worker does not serve an announced adapter, for the ``reason`` given, and keeps the previous one."""

    type: Literal["abstream.adapter.rejected.v1"] = "abstream.adapter.rejected.v1"
    data: AdapterAnswer


class AdapterShadowed(Event):
    """A worker reports how a shadow candidate compares with the live adapter."""

    type: Literal["abstream.adapter.shadowed.v1"] = "abstream.adapter.shadowed.v1"
    data: ShadowSummary


EVENTS: dict[str, type[Event]] = {
    cls.model_fields["type"].default: cls
    for cls in (
        AbstractSubmitted,
        AbstractClassified,
        AbstractRefused,
        AdapterUpdated,
        AdapterActivated,
        AdapterRejected,
        AdapterShadowed,
    )
}
"""Every event type of the contract."""
