"""A submitted abstract as a worker reads it: by the rules of ``AbstractSubmitted``, without building the models.

msgspec reads and checks an event in half the time that pydantic takes to do it without models. So an ordinary event,
with the contract's names alone, is read by the typed dicts below. Any other is left to the models: they keep what is
unknown, and say why an event is refused.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import DecodeError, Meta, Struct
from msgspec.json import Decoder
from typing_extensions import Required, TypedDict

from .decoding import check_names, count_names
from .events import (
    CARRIED_OVER,
    MAX_ABSTRACT_CHARACTERS,
    MAX_METADATA,
    MAX_TITLE_CHARACTERS,
    AbstractSubmitted,
    has_text,
)
from .parsing import received

Said = Mapping[str, Any]

_NONE: Said = {}


class Submission(Struct, frozen=True, gc=False):
    """The parts of a submitted abstract that are needed to answer it.

    Attributes:
        id: of the event, like ``source``.
        title: as it was sent, like ``abstract``.
        identifiers: as they were sent, including unknown ones.
        mesh: headings, which are never shown to the model.
        metadata: is echoed.
        carried_over: attributes of the envelope that the answer takes over.
    """

    id: str
    source: str
    title: str | None
    abstract: str
    identifiers: Said = _NONE
    mesh: tuple[str, ...] = ()
    metadata: Mapping[str, str] = _NONE
    carried_over: Mapping[str, str] = _NONE

    @classmethod
    def of(cls, event: AbstractSubmitted) -> "Submission":
        """The submission in an event."""
        return _submission(event.model_dump(exclude_unset=True))


def parse_submitted(body: bytes) -> Submission:
    """The submitted abstract in a JSON body; other types of events are refused.

    Raises:
        Malformed: not UTF-8, not JSON, another type, a field missing or wrong, or a name given twice.
    """
    try:
        said: Said = _ORDINARY.decode(body)
        data = said["data"]
        if has_text(data.get("title"), data["abstract"]) and count_names(body) == _names_in(said):
            return _submission(said)
    except (DecodeError, RecursionError):
        pass
    submission = Submission.of(received(AbstractSubmitted, body))
    check_names(body)
    return submission


def _submission(said: Said) -> Submission:
    data: Said = said["data"]
    get = data.get
    return Submission(
        said["id"],
        said["source"],
        get("title"),
        data["abstract"],
        get("identifiers", _NONE),
        get("mesh", ()),
        get("metadata", _NONE),
        _NONE if said.keys().isdisjoint(CARRIED_OVER) else _carried_over(said),
    )


def _carried_over(said: Said) -> dict[str, str]:
    return {name: value for name in CARRIED_OVER if (value := said.get(name)) is not None}


def _names_in(said: Said) -> int:
    data: Said = said["data"]
    return len(said) + len(data) + len(data.get("identifiers", _NONE)) + len(data.get("metadata", _NONE))


NonEmpty = Annotated[str, Meta(min_length=1)]


class OrdinaryIdentifiers(TypedDict, total=False):
    """As ``Identifiers``."""

    pmid: str | None
    pmcid: str | None
    doi: str | None


class OrdinaryAbstract(TypedDict, total=False):
    """As ``Abstract``; whether there is any text is checked apart."""

    title: Annotated[str, Meta(max_length=MAX_TITLE_CHARACTERS)] | None
    abstract: Required[Annotated[str, Meta(max_length=MAX_ABSTRACT_CHARACTERS)]]
    identifiers: OrdinaryIdentifiers
    journal: str | None
    year: int | None
    language: str | None
    publication_types: tuple[str, ...]
    mesh: tuple[str, ...]
    metadata: Annotated[dict[str, str], Meta(max_length=MAX_METADATA)]


class OrdinaryEvent(TypedDict, total=False):
    """As ``AbstractSubmitted``. What msgspec does not know it leaves out, so that the names are too many."""

    specversion: Required[Literal["1.0"]]
    id: Required[NonEmpty]
    source: Required[NonEmpty]
    type: Required[Literal["abstream.abstract.submitted.v1"]]
    subject: NonEmpty | None
    time: Annotated[datetime, Meta(tz=True)] | None
    datacontenttype: str | None
    dataschema: NonEmpty | None
    traceparent: str | None
    tracestate: str | None
    causationid: NonEmpty | None
    causationsource: NonEmpty | None
    correlationid: NonEmpty | None
    sequence: NonEmpty | None
    data: Required[OrdinaryAbstract]


_ORDINARY = Decoder(OrdinaryEvent)
