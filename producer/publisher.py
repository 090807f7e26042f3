"""Send abstracts to the workers."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timezone
from uuid import uuid4

from ..schemas import Abstract, AbstractSubmitted, Lane, Malformed
from ..schemas.streams import EVENT_FIELD, MAX_EVENT_BYTES, to_fields
from .connection import Client
from .defaults import DEFAULT_URL, MAX_BACKLOG
from .shipping import Body, Published, Shipper, Terms
from .tracing import sending


class Publisher(Client):
    """Publishes abstracts.

        async with Publisher("redis://localhost") as publisher:
            await publisher.publish(Abstract(title="…", abstract="…"), id="38048813")

    ``source`` and the id are the identity of an abstract: the same pair, sent again within a day, is answered once.
    Without a ``source`` argument, each publisher has a new one.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        namespace: str = "abstream",
        shards: int = 1,
        source: str | None = None,
        max_backlog: int | None = MAX_BACKLOG,
        wait_for_room_seconds: float = 0,
        wait_replicas: int = 0,
    ) -> None:
        """Create a publisher, which connects on first use.

        Args:
            shards: number of shards of the namespace, the same as its workers have.
            max_backlog: publish nothing while this many abstracts of a lane wait for an answer, or a shard's part of
                them in a shard; no limit if None.
            wait_for_room_seconds: how long a call waits for room before it fails.
            wait_replicas: abstracts count as published once so many replicas of Redis have them, within a second.
        """
        super().__init__(url, namespace, shards)
        self.source = source or f"urn:uuid:{uuid4()}"
        limit = -(-(max_backlog or 0) // shards)
        terms = Terms(limit, wait_for_room_seconds, wait_replicas)
        self._shippers = [Shipper(*shard, terms) for shard in self._at.shards]

    async def publish(self, abstract: Abstract, *, id: str | None = None, lane: Lane = "interactive") -> Published:
        """Submit one abstract.

        Args:
            id: the abstract's own id; a new one where None.
            lane: ``bulk`` for back-fills, which wait while there is interactive work.

        Raises:
            Malformed: the event is larger than workers accept, or an id is empty or not text.
            BacklogFull: too many abstracts wait already. Publish again after ``retry_after_seconds``.
            Unavailable: Redis is out of reach. Publish again with the same id: it is answered once.
        """
        return (await self.publish_many([(str(uuid4()) if id is None else id, abstract)], lane=lane))[0]

    async def publish_many(
        self, abstracts: Iterable[tuple[str, Abstract]], *, lane: Lane = "interactive", run: str | None = None
    ) -> list[Published]:
        """Submit abstracts with their ids, many in a round trip; raises as ``publish``.

        If one is malformed, nothing is sent. After any other error some may have been sent; publish all of them again.

        Args:
            run: a name for a publishing that may be interrupted. If the same ids are published again in a run of this
                name within seven days, they are not sent again, and their existing entries are returned.
        """
        with sending(self._names.control.lane(lane)) as trace:
            now = datetime.now(timezone.utc)
            known = {"source": self.source, "time": now, **trace._asdict()}
            events = [(id_, self._encode(AbstractSubmitted.of(one, id_, **known))) for id_, one in abstracts]
            return await self._send_all(events, lane, run)

    async def _send_all(self, events: list[Body], lane: Lane, run: str | None) -> list[Published]:
        """Send to all shards at once. If one of them fails, the others have still got theirs."""
        parts: defaultdict[int, list[int]] = defaultdict(list)
        for place, (id_, _) in enumerate(events):
            parts[self._names.of(id_)].append(place)
        sending = [
            self._shippers[shard].send([events[at] for at in places], lane, run) for shard, places in parts.items()
        ]
        published: dict[int, Published] = {}
        for places, sent in zip(parts.values(), await asyncio.gather(*sending, return_exceptions=True), strict=True):
            if isinstance(sent, BaseException):
                raise sent
            published.update(zip(places, sent, strict=True))
        return [published[place] for place in range(len(events))]

    def _encode(self, event: AbstractSubmitted) -> bytes:
        body = to_fields(event)[EVENT_FIELD]
        if len(body) > MAX_EVENT_BYTES:
            raise Malformed(
                "too_large",
                f"the event of abstract {event.id!r} has {len(body)} bytes, and the limit is {MAX_EVENT_BYTES}: "
                "shorten its metadata or its lists",
            )
        return body
