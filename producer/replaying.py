"""Reading refusals from their stream, and sending refused entries again.

A replay is the original entry with one more field that names the refusal, so that its answer can name it too. Its
identity is the original's: if the abstract was answered meanwhile, it is not answered again. Plain fields without an id
have that of their entry, which a second field names.
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
from ..schemas.streams import EVENT_FIELD, LANES, REPLAY_FIELD, REPLAYED_ENTRY_FIELD, from_fields
from .connection import Shard
from .cursor import RawEntry, join, oldest, place_before, split

_PAGE = 500
REMEMBERED_SECONDS = 30 * 24 * 3600  # how long a replay is remembered: as long as refusals are kept by default

Result = Literal["replayed", "replayed before", "would be replayed", "cannot be replayed"]


@dataclass(frozen=True)
class Refused:
    """A refusal in its stream.

    Attributes:
        entry_id: in its stream; with several shards followed by ``@`` and the number of the shard.
        replayed_as: the entry as which it was sent again, if it was.
        shard: its number.
    """

    entry_id: str
    event: AbstractRefused
    replayed_as: str | None
    shard: int = 0


@dataclass(frozen=True)
class Replay:
    """The result of a replay; ``entry_id`` is the entry as which it was sent, now or before."""

    id: str
    result: Result
    entry_id: str | None = None
    problem: str | None = None


class Refusals:
    """The refusals of one namespace, in all shards.

    Every method raises ``redis.exceptions.ConnectionError`` if Redis is out of reach.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shelves = [_Shelf(shard, number if len(shards) > 1 else None) for number, shard in enumerate(shards)]

    async def all(self, since: str | datetime = "0", reasons: Collection[str] = ()) -> AsyncIterator[Refused]:
        """Yield refusals after ``since``, oldest first; with any reason if none is given."""
        after: str | None = place_before(since) if isinstance(since, datetime) else since
        while after:
            page, after = await self.page(after, _PAGE)
            for refused in page:
                if not reasons or refused.event.data.reason in reasons:
                    yield refused

    async def page(self, after: str, count: int) -> tuple[list[Refused], str | None]:
        """The refusals among the ``count`` oldest entries after a place, and the place after them; None at the end."""
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
        """The refusals with these ids, of events or of stream entries, in the order given.

        Raises:
            AbstreamError: some do not exist; all of these are named.
        """
        found: dict[str, Refused] = {}
        async for refused in self.all():
            found |= {id_: refused for id_ in (refused.entry_id, refused.event.id) if id_ in ids}
        if missing := [id_ for id_ in ids if id_ not in found]:
            raise AbstreamError(f"no refusal {', '.join(missing)}: `abstream refusals list` shows all")
        return list({found[id_].entry_id: found[id_] for id_ in ids}.values())

    async def replay(self, refused: Refused, *, dry_run: bool = False) -> Replay:
        """Send the original to its lane again, unless it was replayed before."""
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
    """The refusals of one shard; ``number`` is None if it is the only one."""

    def __init__(self, shard: Shard, number: int | None) -> None:
        self._redis, self._streams = shard
        self._number = number
        self._replay_script = self._redis.register_script((files(__package__) / "replay.lua").read_text())

    def name(self, entry_id: bytes) -> str:
        """The id of an entry, unique among all shards."""
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
            return "its original was trimmed before it was read, or is too large to be kept: publish it again"
        if original.stream not in map(self._streams.lane, LANES):
            return f"it came from {original.stream}, which is not a lane of this namespace"
        return None

    async def entries(self, **span: str | int) -> list[RawEntry]:
        entries: Any = await self._redis.xrange(self._streams.refusals, **span)  # type: ignore[arg-type]
        return list(entries)

    async def read(self, entries: list[RawEntry]) -> list[Refused]:
        """The refusals among entries; entries that this version cannot read are skipped."""
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
    """The fields of the entry to send: the original ones, byte for byte, and those that keep link and identity."""
    fields = from_original(original)
    if EVENT_FIELD.encode() not in fields and not fields.get(b"id"):
        fields.setdefault(REPLAYED_ENTRY_FIELD.encode(), original.entry_id.encode())  # a replay of a replay has it
    return fields | {REPLAY_FIELD.encode(): refusal_id.encode()}
