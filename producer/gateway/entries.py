"""Entries of output streams: their ids, their events, and the events' original bytes."""

import json
from typing import Any, NamedTuple

from ...schemas import AbstractClassified, AbstractRefused
from ...schemas.streams import EVENT_FIELD, Output
from ..connection import Shard
from ..cursor import RawEntry

_EVENT = EVENT_FIELD.encode()
_TYPES: dict[Output, str] = {
    "predictions": AbstractClassified.model_fields["type"].default,
    "refusals": AbstractRefused.model_fields["type"].default,
}


class Entry(NamedTuple):
    """One event of an output stream, and its JSON as it is there."""

    output: Output
    entry_id: str
    event: dict[str, Any]
    body: bytes


def read_entries(output: Output, entries: list[RawEntry]) -> list[Entry]:
    """The events of entries; entries without a valid one are skipped, as by every subscriber."""
    found = []
    for entry_id, fields in entries:
        try:
            event = json.loads(fields[_EVENT].decode())
        except (KeyError, ValueError, RecursionError):
            continue
        if isinstance(event, dict) and event.get("type") == _TYPES[output] and isinstance(event.get("data"), dict):
            found.append(Entry(output, entry_id.decode(), event, fields[_EVENT]))
    return found


async def read_after(shard: Shard, output: Output, after: str, count: int, until: str = "+") -> list[RawEntry]:
    """The first ``count`` entries after an id, up to another id."""
    entries: Any = await shard.redis.xrange(shard.streams.output(output), min=f"({after}", max=until, count=count)
    return list(entries)


async def last_id(shard: Shard, output: Output) -> str:
    """The id of the newest entry; ``0-0`` if there is none."""
    newest: Any = await shard.redis.xrevrange(shard.streams.output(output), count=1)
    return newest[0][0].decode() if newest else "0-0"
