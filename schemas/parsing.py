"""From the JSON of a stream entry to the event it says."""

from typing import TypeVar

from pydantic import BaseModel

from .decoding import check_names, validate
from .errors import Malformed
from .events import EVENTS, REQUIRED, AbstractSubmitted, Event

AnyEvent = TypeVar("AnyEvent", bound=Event)


class _Type(BaseModel):
    type: str


def parse_event(body: bytes) -> Event:
    """The event in a JSON body, by its ``type``.

    Raises:
        Malformed: not UTF-8, not JSON, an unknown type, or a field missing or wrong.
    """
    named = validate(_Type, body).type
    if named not in EVENTS:
        raise Malformed("invalid", f"unknown event type {named[:80]!r}; known: {', '.join(EVENTS)}")
    return _received(EVENTS[named], body)


def parse_submitted(body: bytes) -> AbstractSubmitted:
    """The submitted abstract in a JSON body; other event types are refused, since only these can be answered.

    Raises:
        Malformed: as ``parse_event``.
    """
    event = _received(AbstractSubmitted, body)
    check_names(body, _names_known(event))
    return event


def _names_known(event: AbstractSubmitted) -> int:
    """How many names of its JSON body are of the contract, or of its metadata."""
    known = len(event.data.metadata)
    for part in (event, event.data, event.data.identifiers):
        # As model_fields_set and model_extra, without two calls for each.
        known += len(part.__pydantic_fields_set__) - len(part.__pydantic_extra__ or ())
    return known


def _received(model: type[AnyEvent], body: bytes) -> AnyEvent:
    """An event from outside, which must say itself what one built here has by default."""
    event = validate(model, body)
    if not event.model_fields_set.issuperset(REQUIRED):
        missing = [name for name in REQUIRED if name not in event.model_fields_set]
        raise Malformed("invalid", f"the envelope lacks {', '.join(missing)}: CloudEvents requires it")
    return event
