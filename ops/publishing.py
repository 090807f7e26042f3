"""Files to the stream, and the wait for their results."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice

from ..consumer.tasks import end
from ..producer import Published, Publisher, Subscriber
from ..producer.cursor import parse_id
from ..producer.formats import Format, Record
from ..producer.subscriber import BEGINNING, NOW
from ..schemas import AbstractRefused, AbstreamError, Event, Lane, Malformed, Shards
from ..schemas.streams import Output
from .files import CHUNK, Tally, usable
from .progress import bar
from .resuming import begin

_RESULTS: tuple[Output, ...] = ("predictions", "refusals")


@dataclass(frozen=True)
class Terms:
    """How the records of files are published.

    Attributes:
        source: with the ids, the identity of the abstracts: the same again is answered once. A new one where None.
        resume: go on with the last publishing of the same files.
        max_backlog: publish nothing while so many of the lane wait; 0 for any number.
        wait_for_room_seconds: give up after so long without room.
        wait_replicas: what so many replicas of Redis have too is published, and nothing else.
    """

    wanted: Format
    lane: Lane
    source: str | None
    resume: bool
    max_backlog: int
    wait_for_room_seconds: float
    wait_replicas: int = 0

    def publisher(self, url: str, shards: Shards, source: str) -> Publisher:
        return Publisher(
            url,
            namespace=shards.namespace,
            shards=shards.count,
            source=source,
            max_backlog=self.max_backlog or None,
            wait_for_room_seconds=self.wait_for_room_seconds,
            wait_replicas=self.wait_replicas,
        )


async def publish(url: str, shards: Shards, paths: list[str], terms: Terms, wait: float | None) -> Tally:
    """Publish files; print ids and entry ids as they are known, or with ``wait`` every result, as JSON lines.

    Args:
        wait: give up after so many seconds without a result.

    Raises:
        AbstreamError: a file cannot be read, or results did not come.
        Unavailable: Redis is out of reach, or has no room.
    """
    tally = Tally()
    how = (terms.wanted, terms.lane)
    async with Subscriber(url, namespace=shards.namespace, shards=shards.count) as subscriber:
        # With a source of one's own, and in a run that goes on, results may have been published long before.
        since = BEGINNING if terms.source or terms.resume else None
        # Who only publishes may lack the right to read results.
        read = () if wait is None else _RESULTS
        starts = {output: since or await subscriber.resolve(output, NOW) for output in read}
        run = await begin(url, shards.control, paths, how, terms.source, resume=terms.resume)
        published: list[Published] = []
        async with terms.publisher(url, shards, run.source) as publisher:
            async for part in _publish_files(_Out(publisher, terms.lane, run.name), paths, terms.wanted, tally):
                if wait is not None:
                    published += part
                    continue
                for entry in part:
                    print(json.dumps(entry._asdict()))
        if wait is not None:
            await _Results(published, run.source, tally).follow(subscriber, starts, wait)
    return tally


@dataclass(frozen=True)
class _Out:
    """Where the records of a run go."""

    publisher: Publisher
    lane: Lane
    run: str | None

    async def publish(self, chunk: list[Record], tally: Tally) -> list[Published]:
        """Publish records; those that are too large are named on stderr and counted."""
        try:
            abstracts = ((record.id, record.abstract) for record in chunk)
            return await self.publisher.publish_many(abstracts, lane=self.lane, run=self.run)
        except Malformed as problem:  # one is too large, and so none was sent
            if len(chunk) == 1:
                tally.broken += 1
                print(f"{chunk[0].position}: {problem}", file=sys.stderr)
                return []
        return [entry for record in chunk for entry in await self.publish([record], tally)]


async def _publish_files(out: _Out, paths: list[str], wanted: Format, tally: Tally) -> AsyncIterator[list[Published]]:
    """Publish every record of the files, part by part; broken ones are named on stderr and counted."""
    records = usable(paths, wanted, tally)
    with bar("published", None) as show:
        while chunk := list(islice(records, CHUNK)):
            part = await out.publish(chunk, tally)
            tally.done += len(part)
            show(tally.done)
            yield part


class _Results:
    """The results still awaited."""

    def __init__(self, published: list[Published], source: str, tally: Tally) -> None:
        self._awaited = {entry.id: entry.entry_id for entry in published}
        self._total = len(self._awaited)
        self._source = source
        self._tally = tally
        self._news = asyncio.Event()

    async def follow(self, subscriber: Subscriber, since: dict[Output, str], patience_seconds: float) -> None:
        """Print every awaited result as it comes."""
        with bar("answered", self._total) as show:
            readers = [asyncio.create_task(self._read(subscriber, output, since[output])) for output in since]
            try:
                while self._awaited:
                    news = asyncio.create_task(self._news.wait())
                    ended, _ = await asyncio.wait(
                        [news, *readers], timeout=patience_seconds, return_when="FIRST_COMPLETED"
                    )
                    if not ended:
                        raise AbstreamError(
                            f"{len(self._awaited)} of {self._total} abstracts have no result, and none came for "
                            f"{patience_seconds:g} s: is a worker running? Their results will come when one does."
                        )
                    for reader in ended - {news}:
                        reader.result()  # a reader ends only by its error
                    self._news.clear()
                    show(self._total - len(self._awaited))
            finally:
                await end(readers)

    async def _read(self, subscriber: Subscriber, output: Output, since: str) -> None:
        async for _, event in subscriber.events(output, since):
            if self._is_awaited(event):
                sys.stdout.write(event.to_json().decode() + "\n")
                self._tally.refused += isinstance(event, AbstractRefused)
                self._news.set()

    def _is_awaited(self, event: Event) -> bool:
        """Take the event's submission off the list, if it was on it.

        A refusal of an earlier entry is no answer: mended, an abstract may be sent again under its old id.
        """
        id_ = event.causationid or ""
        if event.causationsource != self._source or id_ not in self._awaited:
            return False
        if isinstance(event, AbstractRefused) and parse_id(event.sequence or "0") < parse_id(self._awaited[id_]):
            return False
        del self._awaited[id_]
        return True
