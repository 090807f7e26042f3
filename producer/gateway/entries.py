"""Entries of output streams as a gateway hands them on: their ids, their events, and the events' own bytes."""

import json
from typing import Any, NamedTuple

from redis.asyncio import Redis

from ...schemas import AbstractClassified, AbstractRefused, Streams
from ...schemas.streams import EVENT_FIELD, Output

_EVENT = EVENT_FIELD.encode()
_TYPES: dict[Output, str] = {
    "predictions": AbstractClassified.model_fields["type"].default,
    "refusals": AbstractRefused.model_fields["type"].default,
}

RawEntry = tuple[bytes, dict[bytes, bytes]]
Id = tuple[int, int]
"""An entry's id as it sorts."""


class Entry(NamedTuple):
    """One event of an output stream, and its JSON as it stands there."""

    output: Output
    entry_id: str
    event: dict[str, Any]
    body: bytes


def parse_id(entry_id: str) -> Id:
    """The id that ``1700000000000-0`` writes, or ``1700000000000`` alone."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


def write_id(id: Id) -> str:
    """The id as Redis writes it."""
    return f"{id[0]}-{id[1]}"


def read_entries(output: Output, entries: list[RawEntry]) -> list[Entry]:
    """The events of entries; what holds none is left out, as by every subscriber."""
    found = []
    for entry_id, fields in entries:
        try:
            event = json.loads(fields[_EVENT].decode())
        except (KeyError, ValueError, RecursionError):
            continue
        if isinstance(event, dict) and event.get("type") == _TYPES[output]:
            found.append(Entry(output, entry_id.decode(), event, fields[_EVENT]))
    return found


async def read_after(redis: Redis, streams: Streams, output: Output, after: str, count: int) -> list[RawEntry]:
    """The ``count`` entries after an id, in their order."""
    entries: Any = await redis.xrange(streams.output(output), min=f"({after}", count=count)
    return list(entries)


async def last_id(redis: Redis, streams: Streams, output: Output) -> str:
    """The id of the newest entry; ``0-0`` where there is none."""
    newest: Any = await redis.xrevrange(streams.output(output), count=1)
    return newest[0][0].decode() if newest else "0-0"
