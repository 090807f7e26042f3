"""A reader's position in the results: the last entry that it saw of each shard. As text, the ids in shard order.

With one shard that is an entry id of Redis; with three, ``1700000000000-0,1700000000003-1,0-0``. A single id applies to
every shard: ids begin with the time, so that ``1700000000000`` is a moment in all of them.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import itemgetter

from ..schemas import AbstreamError

RawEntry = tuple[bytes, dict[bytes, bytes]]
Id = tuple[int, int]
"""An entry's id, in a form that can be sorted."""
Place = tuple[Id, ...]
"""The same for every shard."""

_ENTRY_ID = re.compile("[0-9]{1,19}(-[0-9]{1,19})?")


def parse_id(entry_id: str) -> Id:
    """The id in a text such as ``1700000000000-0``, or ``1700000000000`` alone."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


def write_id(id: Id) -> str:
    """The id as Redis writes it."""
    return f"{id[0]}-{id[1]}"


def place_before(moment: datetime) -> str:
    """The place before every entry of this moment and later."""
    return str(max(0, int(moment.timestamp() * 1000) - 1))


def split(cursor: str, shards: int) -> list[str]:
    """The last seen entry id of each shard.

    Raises:
        AbstreamError: the cursor is no position, or one for another number of shards.
    """
    ids = cursor.split(",")
    if not all(map(_ENTRY_ID.fullmatch, ids)):
        raise AbstreamError(
            f"{cursor!r} is no position: give an entry id such as 1700000000000-0, 0 for the beginning, or a datetime"
        )
    if len(ids) == 1:
        return ids * shards
    if len(ids) != shards:
        raise AbstreamError(
            f"the position {cursor!r} is for {len(ids)} shards, and --shards is {shards}: set it to {len(ids)}, or "
            "start from a single entry id"
        )
    return ids


def join(ids: Sequence[str]) -> str:
    """The text of a place, from the ids of its shards."""
    return ",".join(ids)


def parse(cursor: str, shards: int) -> Place:
    """As ``split``, in a form that can be compared."""
    return tuple(map(parse_id, split(cursor, shards)))


def write(place: Place) -> str:
    """The text of a place."""
    return join(list(map(write_id, place)))


def moved(place: Place, shard: int, id: Id) -> Place:
    """The place after a further entry of a shard."""
    return (*place[:shard], id, *place[shard + 1 :])


def oldest(pages: Iterable[list[RawEntry]], count: int) -> list[tuple[int, RawEntry]]:
    """The ``count`` oldest among the entries of all shards, each with the number of its shard."""
    rows = ((parse_id(entry[0].decode()), shard, entry) for shard, page in enumerate(pages) for entry in page)
    return [(shard, entry) for _, shard, entry in sorted(rows, key=itemgetter(0, 1))[:count]]
