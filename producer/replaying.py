"""What was refused, read from the stream and sent again.

A replay is the original entry with one more field that names the refusal, so that what comes of it can name it too.
Its identity is the original's: should the abstract have been answered meanwhile, it is not answered again.
"""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..schemas import AbstractRefused, AbstreamError, Malformed, Streams
from ..schemas.events import OriginalEntry
from ..schemas.originals import from_original
from ..schemas.streams import EVENT_FIELD, LANES, REPLAY_FIELD, from_fields

_PAGE = 500
REMEMBERED_SECONDS = 30 * 24 * 3600  # that a refusal was replayed: as long as refusals are kept by default

Result = Literal["replayed", "replayed before", "would be replayed", "cannot be replayed"]


@dataclass(frozen=True)
class Refused:
    """A refusal as it stands in the stream; ``replayed_as`` is the entry it became when it was replayed."""

    entry_id: str
    event: AbstractRefused
    replayed_as: str | None


@dataclass(frozen=True)
class Replay:
    """What became of a refusal; ``entry_id`` is the entry it was sent as, now or before."""

    id: str
    result: Result
    entry_id: str | None = None
    problem: str | None = None


class Refusals:
    """The refusals of one namespace.

    Every method raises a ``redis.exceptions.ConnectionError`` where Redis is out of reach.
    """

    def __init__(self, redis: Redis, streams: Streams) -> None:
        self._redis = redis
        self._streams = streams
        self._replay_script = redis.register_script((files(__package__) / "replay.lua").read_text())

    async def all(self, since: str | datetime = "0", reasons: Collection[str] = ()) -> AsyncIterator[Refused]:
        """Yield refusals after ``since``, oldest first; of any reason where none is given."""
        after: str | None = f"{int(since.timestamp() * 1000) - 1}" if isinstance(since, datetime) else since
        while after:
            page, after = await self.page(after, _PAGE)
            for refused in page:
                if not reasons or refused.event.data.reason in reasons:
                    yield refused

    async def page(self, after: str, count: int) -> tuple[list[Refused], str | None]:
        """The refusals in the ``count`` entries after an entry id, and the last of these; None where there are none."""
        entries = await self._entries(min=f"({after}", count=count)
        return await self._read(entries), entries[-1][0].decode() if entries else None

    async def at(self, entry_id: str) -> Refused | None:
        """The refusal in one entry, if there is one."""
        return next(iter(await self._read(await self._entries(min=entry_id, max=entry_id, count=1))), None)

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
        event, original = refused.event, refused.event.data.original
        if refused.replayed_as:
            return Replay(event.id, "replayed before", refused.replayed_as)
        if problem := self._hindrance(original):
            return Replay(event.id, "cannot be replayed", problem=problem)
        if dry_run:
            return Replay(event.id, "would be replayed")
        fields = again(original, event.id)
        flat = [part for field in fields.items() for part in field]
        try:
            first, entry_id = await self._replay_script(
                [original.stream, self._streams.replayed], [event.id, REMEMBERED_SECONDS, *flat]
            )
        except ResponseError as error:
            return Replay(event.id, "cannot be replayed", problem=str(error))
        return Replay(event.id, "replayed" if first else "replayed before", entry_id.decode())

    def _hindrance(self, original: OriginalEntry) -> str | None:
        if not original.fields:
            return "its entry was gone before it was read: publish it again"
        if original.stream not in map(self._streams.lane, LANES):
            return f"it came from {original.stream}, which is no lane of this namespace"
        return None

    async def _entries(self, **span: str | int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        entries: Any = await self._redis.xrange(self._streams.refusals, **span)  # type: ignore[arg-type]
        return list(entries)

    async def _read(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[Refused]:
        """The refusals among entries; what this version cannot read is of a later one, or somebody else's."""
        found: list[tuple[str, AbstractRefused]] = []
        for entry_id, fields in entries:
            try:
                event = from_fields(fields)
            except Malformed:
                continue
            if isinstance(event, AbstractRefused):
                found.append((entry_id.decode(), event))
        if not found:
            return []
        became: Any = await self._redis.hmget(self._streams.replayed, [event.id for _, event in found])
        return [
            Refused(entry_id, event, entry.decode() if entry else None)
            for (entry_id, event), entry in zip(found, became, strict=True)
        ]


def again(original: OriginalEntry, refusal_id: str) -> dict[bytes, bytes]:
    """The fields of the entry to send: the original's, byte for byte, and the refusal that is answered."""
    fields = from_original(original)
    if EVENT_FIELD.encode() not in fields and not fields.get(b"id"):
        fields[b"id"] = original.entry_id.encode()  # which was its identity
    return fields | {REPLAY_FIELD.encode(): refusal_id.encode()}
