"""The status of abstracts that came through a gateway, by their ids, without reading a stream.

Redis keeps a hash of about 150 bytes for each: the abstract's entry, written when it is accepted, and the entry of its
answer, written by every gateway as it reads the results. The hash is kept for a week if there is no answer, and for two
days after the answer. That is the longest time for which workers recognize the abstract and give no second answer, so
the first one can be found here. Later, the result is still in the pages of predictions. Answers that were published
while no gateway was running are recorded when one starts.
"""

import asyncio
import hashlib
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import structlog
from redis.exceptions import RedisError

from ...schemas import Shards
from ...schemas.streams import DEDUPE_WINDOW_SECONDS, LANES, Output
from ..connection import Shard
from ..cursor import parse_id
from ..shipping import Published
from .entries import Entry, read_after, read_entries

_QUEUED_SECONDS = 7 * 24 * 3600
_ANSWERED_SECONDS = 2 * DEDUPE_WINDOW_SECONDS
_HELD = 100_000  # answers that could not be written, until Redis has room for them
_PAGE = 500
_ENTRY_ID = re.compile(r"\d+-\d+")
_OUTPUTS: tuple[Output, ...] = ("predictions", "refusals")

Note = tuple[str, str]
"""The key of a standing, and the answer as it is written there."""

log = structlog.get_logger()


class Identity(NamedTuple):
    """The identity of an abstract."""

    source: str
    id: str


class Answered(NamedTuple):
    """The entry with the answer, and the entry (``sequence``) that it answers."""

    output: Output
    entry_id: str
    sequence: str

    def settles(self, submitted: str | None) -> bool:
        """Whether this answers an abstract that was last sent as the entry ``submitted``.

        A refusal of an earlier entry does not: a mended abstract may be sent again with its old id.
        """
        return self.output == "predictions" or submitted is None or parse_id(self.sequence) >= parse_id(submitted)


class Standing(NamedTuple):
    """The status of an abstract: its entry, and its answer."""

    submitted: str | None
    answered: Answered | None


def identity_of(entry: Entry) -> Identity | None:
    """The abstract that a result answers. If its entry was unreadable or gone, only the entry is known."""
    source, own = entry.event.get("causationsource"), entry.event.get("causationid")
    if isinstance(source, str) and isinstance(own, str):
        return Identity(source, own)
    original = entry.event["data"].get("original")
    if not isinstance(original, dict):
        return None
    if isinstance(original.get("stream"), str) and isinstance(original.get("entry_id"), str):
        return Identity(original["stream"], original["entry_id"])
    return None


def answered_by(entry: Entry) -> Answered:
    """The answer in a result."""
    sequence = str(entry.event.get("sequence"))
    return Answered(entry.output, entry.entry_id, sequence if _ENTRY_ID.fullmatch(sequence) else "0-0")


class Index:
    """The status of all abstracts of a namespace, each in the shard of the abstract."""

    def __init__(self, shards: Sequence[Shard], names: Shards, source: str) -> None:
        """Record results for ``source`` and for the clients' sources below it."""
        self.parts = [IndexOfShard(shard, source) for shard in shards]
        self._names = names

    async def submitted(self, source: str, published: Iterable[Published]) -> None:
        """Record that abstracts were sent. A failure is only logged, because they were sent in any case."""
        shards: defaultdict[int, list[Published]] = defaultdict(list)
        for one in published:
            shards[self._names.of(one.id)].append(one)
        await asyncio.gather(*(self.parts[shard].submitted(source, part) for shard, part in shards.items()))

    async def find(self, identity: Identity) -> Standing | None:
        """The status of an abstract, if it is known."""
        return await self.parts[self._names.of(identity.id)].find(identity)


class IndexOfShard:
    """The same for one shard."""

    def __init__(self, shard: Shard, source: str) -> None:
        self._shard = shard
        self._redis, self._streams = shard
        self._source = source
        self._lanes = frozenset(map(shard.streams.lane, LANES))
        self._unwritten: deque[Note] = deque(maxlen=_HELD)
        self._whole = False  # whether everything before the live tail has been recorded

    async def submitted(self, source: str, published: Iterable[Published]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for one in published:
            key = self._key(Identity(source, one.id))
            pipeline.hset(key, "submitted", one.entry_id)
            pipeline.expire(key, _QUEUED_SECONDS)
        try:
            await pipeline.execute()
        except RedisError as error:
            log.warning("standing_not_noted", error=type(error).__name__)

    async def find(self, identity: Identity) -> Standing | None:
        standing = await self._read(identity)
        if standing and standing.submitted and standing.answered is None:
            # An entry that was trimmed unread is refused without its identity.
            lost = [await self._read(Identity(lane, standing.submitted)) for lane in sorted(self._lanes)]
            return next((Standing(standing.submitted, one.answered) for one in lost if one), standing)
        return standing

    async def note(self, entries: list[Entry]) -> None:
        """Record results, after those that could not be recorded before; a full Redis is asked for one page only."""
        self._unwritten.extend(self._notes(entries))
        try:
            while len(self._unwritten) > _PAGE:
                await self._write_oldest([])
            await self._write_oldest(entries if self._whole else [])
        except RedisError as error:
            log.warning("results_not_noted", waiting=len(self._unwritten), error=type(error).__name__)

    async def catch_up(self, until: dict[Output, str]) -> None:
        """Record what was published while no gateway was running, up to the beginning of the live tail."""
        noted = cast("dict[bytes, bytes]", await self._redis.hgetall(self._streams.noted))
        for output in _OUTPUTS:
            after = noted.get(output.encode(), until[output].encode()).decode()
            while parse_id(after) < parse_id(until[output]):
                raw = await read_after(self._shard, output, after, _PAGE)
                if not raw:
                    break
                entries = read_entries(output, raw)
                await self._write(self._notes(entries), entries)
                after = raw[-1][0].decode()
        mapping: dict[Any, Any] = dict(until)
        if not noted:
            await self._redis.hset(self._streams.noted, mapping=mapping)
        self._whole = True

    def _notes(self, entries: list[Entry]) -> Iterator[Note]:
        """The notes for results of this gateway's clients."""
        for entry in entries:
            identity = identity_of(entry)
            if identity and self._is_ours(identity.source):
                yield self._key(identity), " ".join(answered_by(entry))

    async def _write_oldest(self, passed: list[Entry]) -> None:
        page = list(islice(self._unwritten, _PAGE))
        await self._write(page, passed)
        for _ in page:
            self._unwritten.popleft()

    async def _write(self, notes: Iterable[Note], passed: list[Entry]) -> None:
        """Write notes, and that everything up to the last of ``passed`` is written."""
        pipeline = self._redis.pipeline(transaction=False)
        for key, answered in notes:
            pipeline.hset(key, "answered", answered)
            pipeline.expire(key, _ANSWERED_SECONDS)
        for output in _OUTPUTS:
            if last := [entry.entry_id for entry in passed if entry.output == output]:
                pipeline.hset(self._streams.noted, output, last[-1])
        if len(pipeline):
            await pipeline.execute()

    async def _read(self, identity: Identity) -> Standing | None:
        reply: Any = await self._redis.hmget(self._key(identity), ["submitted", "answered"])
        submitted, answered = (value.decode() if value else None for value in reply)
        if submitted is None and answered is None:
            return None
        return Standing(submitted, Answered(*answered.split()) if answered else None)

    def _is_ours(self, source: str) -> bool:
        return source.startswith(f"{self._source}:") or source == self._source or source in self._lanes

    def _key(self, identity: Identity) -> str:
        digest = hashlib.blake2b(f"{identity.source}\0{identity.id}".encode(errors="surrogatepass"), digest_size=16)
        return self._streams.standing(digest.hexdigest())
