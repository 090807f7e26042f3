"""The streams as an AsyncAPI 3 document, for programs that generate clients or catalogues from one.

Specification: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from typing import Any, Literal, NamedTuple

from pydantic.json_schema import models_json_schema

from ..schemas import EVENTS, Event, Streams
from ..schemas.streams import EVENT_FIELD, GROUP


class _Channel(NamedTuple):
    """A stream, seen from abstream: it receives what others publish and sends what others read."""

    key: str
    action: Literal["receive", "send"]
    description: str
    types: tuple[str, ...]


_STREAMS = Streams()
_SUBMITTED = ("abstream.abstract.submitted.v1",)
_CHANNELS = {
    "abstracts": _Channel(
        _STREAMS.lane("interactive"),
        "receive",
        "Submitted abstracts with priority, whose results somebody is waiting for.",
        _SUBMITTED,
    ),
    "bulkAbstracts": _Channel(
        _STREAMS.lane("bulk"),
        "receive",
        "Submitted abstracts that are classified when no priority ones are waiting.",
        _SUBMITTED,
    ),
    "predictions": _Channel(
        _STREAMS.predictions,
        "send",
        "Classified abstracts, one event for each.",
        ("abstream.abstract.classified.v1",),
    ),
    "refusals": _Channel(
        _STREAMS.refusals,
        "send",
        "Abstracts that could not be classified, each with the reason and the original entry.",
        ("abstream.abstract.refused.v1",),
    ),
    "adapters": _Channel(
        _STREAMS.output("adapters"),
        "receive",
        "Adapter updates. Workers follow the newest one.",
        ("abstream.adapter.updated.v1",),
    ),
    "fleet": _Channel(
        _STREAMS.output("fleet"),
        "send",
        "Each worker's responses to adapter updates, and its comparisons of shadow candidates with the live adapter.",
        ("abstream.adapter.activated.v1", "abstream.adapter.rejected.v1", "abstream.adapter.shadowed.v1"),
    ),
}

_DESCRIPTION = f"""\
Each channel is a Redis stream. Its entries have one field, `{EVENT_FIELD}`, which contains a CloudEvents 1.0 event as
JSON. Publish with XADD. Workers read the two channels of abstracts in the consumer group `{GROUP}`. Read the other
channels with XREAD, or with a consumer group of your own. The braces in a key are a hash tag, which keeps all keys of a
namespace in one slot of a Redis Cluster."""


def document(version: str) -> dict[str, Any]:
    """The AsyncAPI document of abstream ``version``, as plain values."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "abstream",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"redis": {"host": "localhost:6379", "protocol": "redis", "description": "Redis 6.2 or later."}},
        "channels": {name: _described(channel) for name, channel in _CHANNELS.items()},
        "operations": {
            f"{channel.action}{name[0].upper()}{name[1:]}": _operation(name, channel)
            for name, channel in _CHANNELS.items()
        },
        "components": {
            "messages": {name: _message(name, event) for name, event in EVENTS.items()},
            "schemas": _schemas(),
        },
    }


def _described(channel: _Channel) -> dict[str, Any]:
    tag, brace, rest = channel.key.rpartition("}")
    return {
        # Braces in an address are a parameter's, so the hash tag with its braces is the value of one.
        "address": f"{{namespace}}{rest}",
        "description": channel.description,
        "parameters": {"namespace": {"description": "The namespace in braces, as a hash tag.", "default": tag + brace}},
        "messages": {type_: {"$ref": f"#/components/messages/{type_}"} for type_ in channel.types},
    }


def _operation(name: str, channel: _Channel) -> dict[str, Any]:
    address = f"#/channels/{name}"
    return {
        "action": channel.action,
        "channel": {"$ref": address},
        "messages": [{"$ref": f"{address}/messages/{type_}"} for type_ in channel.types],
    }


def _message(type_: str, event: type[Event]) -> dict[str, Any]:
    return {
        "name": type_,
        "contentType": "application/cloudevents+json",
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
    }


def _schemas() -> dict[str, Any]:
    models = [(event, "validation") for event in EVENTS.values()]
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    definitions: dict[str, Any] = schemas["$defs"]
    return definitions
