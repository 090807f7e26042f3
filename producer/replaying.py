"""What was refused, read from the stream and sent again.

A replay is the original entry with one more field that names the refusal, so that what comes of it can name it too.
Its identity is the original's: should the abstract have been answered meanwhile, it is not answered again.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any, Literal

from redis.exceptions import ResponseError

from ..schemas import AbstractRefused, AbstreamError, Malformed
from ..schemas.events import OriginalEntry
from ..schemas.originals import from_original
from ..schemas.streams import EVENT_FIELD, LANES, REPLAY_FIELD, from_fields
from .connection import Shard
from .cursor import RawEntry, join, oldest, split

_PAGE = 500
REMEMBERED_SECONDS = 30 * 24 * 3600  # that a refusal was replayed: as long as refusals are kept by default

Result = Literal["replayed", "replayed before", "would be replayed", "cannot be replayed"]


@dataclass(frozen=True)
class Refused:
    """A refusal as it stands in its stream.

    Attributes:
        entry_id: of its stream; where there are several shards with ``@`` and the number of its shard.
        replayed_as: the entry that it became when it was replayed.
        shard: its number.
    """

    entry_id: str
    event: AbstractRefused
    replayed_as: str | None
    shard: int = 0


@dataclass(frozen=True)
class Replay:
    """What became of a refusal; ``entry_id`` is the entry it was sent as, now or before."""

    id: str
    result: Result
    entry_id: str | None = None
    problem: str | None = None


class Refusals:
    """The refusals of one namespace, from all of its shards.

    Every method raises a ``redis.exceptions.ConnectionError`` where Redis is out of reach.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shelves = [_Shelf(shard, number if len(shards) > 1 else None) for number, shard in enumerate(shards)]

    async def all(self, since: str | datetime = "0", reasons: Collection[str] = ()) -> AsyncIterator[Refused]:
        """Yield refusals after ``since``, oldest first; of any reason where none is given."""
        after: str | None = f"{int(since.timestamp() * 1000) - 1}" if isinstance(since, datetime) else since
        while after:
            page, after = await self.page(after, _PAGE)
            for refused in page:
                if not reasons or refused.event.data.reason in reasons:
                    yield refused

    async def page(self, after: str, count: int) -> tuple[list[Refused], str | None]:
        """The refusals in the ``count`` oldest entries after a place, and the place behind them; None at the end."""
        places = split(after, len(self._shelves))
        pages = [
            await shelf.entries(min=f"({after}", count=count)
            for shelf, after in zip(self._shelves, places, strict=True)
        ]
        rows = oldest(pages, count)
        found: dict[str, Refused] = {}
        for number, shelf in enumerate(self._shelves):
            read = await shelf.read([entry for at, entry in rows if at == number])
            found |= {refused.entry_id: refused for refused in read}
        for at, (entry_id, _) in rows:
            places[at] = entry_id.decode()
        names = [self._shelves[at].name(entry_id) for at, (entry_id, _) in rows]
        return [found[name] for name in names if name in found], join(places) if rows else None

    async def at(self, entry_id: str) -> Refused | None:
        """The refusal in one entry, if there is one."""
        entry, _, number = entry_id.partition("@")
        if int(number or 0) >= len(self._shelves):
            return None
        shelf = self._shelves[int(number or 0)]
        return next(iter(await shelf.read(await shelf.entries(min=entry, max=entry, count=1))), None)

    async def named(self, ids: Collection[str]) -> list[Refused]:
        """Those with these ids, of the events or of the entries in the stream, in the order given.

        Raises:
            AbstreamError: there is no such refusal; all that are missing are named.
        """
        found: dict[str, Refused] = {}
        async for refused in self.all():
            found |= {id_: refused for id_ in (refused.entry_id, refused.event.id) if id_ in ids}
        if missing := [id_ for id_ in ids if id_ not in found]:
            raise AbstreamError(f"no refusal {', '.join(missing)}: `abstream refusals list` shows all")
        return list({found[id_].entry_id: found[id_] for id_ in ids}.values())

    async def replay(self, refused: Refused, *, dry_run: bool = False) -> Replay:
        """Send the original to its lane again, unless that was done before."""
        event = refused.event
        if refused.replayed_as:
            return Replay(event.id, "replayed before", refused.replayed_as)
        shelf = self._shelves[refused.shard]
        if problem := shelf.hindrance(event.data.original):
            return Replay(event.id, "cannot be replayed", problem=problem)
        if dry_run:
            return Replay(event.id, "would be replayed")
        return await shelf.replay(event)


class _Shelf:
    """The refusals of one shard; ``number`` is None where there is no other."""

    def __init__(self, shard: Shard, number: int | None) -> None:
        self._redis, self._streams = shard
        self._number = number
        self._replay_script = self._redis.register_script((files(__package__) / "replay.lua").read_text())

    def name(self, entry_id: bytes) -> str:
        """An entry as it is called among those of all shards."""
        return entry_id.decode() + ("" if self._number is None else f"@{self._number}")

    async def replay(self, event: AbstractRefused) -> Replay:
        original = event.data.original
        flat = [part for field in again(original, event.id).items() for part in field]
        try:
            first, entry_id = await self._replay_script(
                [original.stream, self._streams.replayed], [event.id, REMEMBERED_SECONDS, *flat]
            )
        except ResponseError as error:
            return Replay(event.id, "cannot be replayed", problem=str(error))
        return Replay(event.id, "replayed" if first else "replayed before", entry_id.decode())

    def hindrance(self, original: OriginalEntry) -> str | None:
        if not original.fields:
            return "its entry was gone before it was read, or too large to be kept: publish it again"
        if original.stream not in map(self._streams.lane, LANES):
            return f"it came from {original.stream}, which is no lane of this namespace"
        return None

    async def entries(self, **span: str | int) -> list[RawEntry]:
        entries: Any = await self._redis.xrange(self._streams.refusals, **span)  # type: ignore[arg-type]
        return list(entries)

    async def read(self, entries: list[RawEntry]) -> list[Refused]:
        """The refusals among entries; what this version cannot read is of a later one, or somebody else's."""
        found: list[tuple[str, AbstractRefused]] = []
        for entry_id, fields in entries:
            try:
                event = from_fields(fields)
            except Malformed:
                continue
            if isinstance(event, AbstractRefused):
                found.append((self.name(entry_id), event))
        if not found:
            return []
        became: Any = await self._redis.hmget(self._streams.replayed, [event.id for _, event in found])
        return [
            Refused(name, event, entry.decode() if entry else None, self._number or 0)
            for (name, event), entry in zip(found, became, strict=True)
        ]


def again(original: OriginalEntry, refusal_id: str) -> dict[bytes, bytes]:
    """The fields of the entry to send: the original's, byte for byte, and the refusal that is answered."""
    fields = from_original(original)
    if EVENT_FIELD.encode() not in fields and not fields.get(b"id"):
        fields[b"id"] = original.entry_id.encode()  # which was its identity
    return fields | {REPLAY_FIELD.encode(): refusal_id.encode()}
