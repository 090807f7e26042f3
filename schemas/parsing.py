"""From the JSON of a stream entry to its event."""

from typing import TypeVar

from pydantic import BaseModel

from .decoding import validate
from .errors import Malformed
from .events import EVENTS, REQUIRED, Event

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
    return received(EVENTS[named], body)


def received(model: type[AnyEvent], body: bytes) -> AnyEvent:
    """An event from outside, which must contain every required attribute, even one with a default here.

    Raises:
        Malformed: as ``parse_event``.
    """
    event = validate(model, body)
    if not event.model_fields_set.issuperset(REQUIRED):
        missing = [name for name in REQUIRED if name not in event.model_fields_set]
        raise Malformed("invalid", f"the envelope lacks {', '.join(missing)}: CloudEvents requires it")
    return event
