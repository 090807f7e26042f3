"""Send abstracts to the workers."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import NamedTuple
from uuid import uuid4

from redis.exceptions import RedisError

from ..schemas import Abstract, AbstractSubmitted, Lane, Malformed, Unavailable
from ..schemas.streams import MAX_EVENT_BYTES, to_fields
from .connection import AWAY, DEFAULT_URL, Client

_PIPELINE = 256  # entries sent in one round trip


class Published(NamedTuple):
    """The event's id, and the stream entry that carries it."""

    id: str
    entry_id: str


class Publisher(Client):
    """Publishes abstracts.

        async with Publisher("redis://localhost") as publisher:
            await publisher.publish(Abstract(title="…", abstract="…"), id="38048813")

    ``source`` and the id are the identity of an abstract: the same pair again, within a day, is answered once.
    Without a source of your own, each publisher is a new one.
    """

    def __init__(self, url: str = DEFAULT_URL, *, namespace: str = "abstream", source: str | None = None) -> None:
        super().__init__(url, namespace)
        self.source = source or f"urn:uuid:{uuid4()}"

    async def publish(self, abstract: Abstract, *, id: str | None = None, lane: Lane = "interactive") -> Published:
        """Submit one abstract.

        Args:
            id: the abstract's own id; a new one where there is none.
            lane: ``bulk`` for back-fills, which wait while there is interactive work.

        Raises:
            Malformed: the event is larger than workers accept.
            Unavailable: Redis is out of reach. Publish again with the same id: it is answered once.
        """
        return (await self.publish_many([(id or str(uuid4()), abstract)], lane=lane))[0]

    async def publish_many(
        self, abstracts: Iterable[tuple[str, Abstract]], *, lane: Lane = "interactive"
    ) -> list[Published]:
        """Submit abstracts with their ids, many to a round trip; raises as ``publish``."""
        now = datetime.now(timezone.utc)
        events = [AbstractSubmitted(id=id_, source=self.source, time=now, data=abstract) for id_, abstract in abstracts]
        published: list[Published] = []
        for start in range(0, len(events), _PIPELINE):
            published += await self._send(events[start : start + _PIPELINE], self._streams.lane(lane))
        return published

    async def _send(self, events: list[AbstractSubmitted], stream: str) -> list[Published]:
        fields = [to_fields(event) for event in events]
        for event, entry in zip(events, fields, strict=True):
            size = sum(map(len, entry.values()))
            if size > MAX_EVENT_BYTES:
                raise Malformed(
                    "too_large", f"abstract {event.id!r} makes an event of {size} bytes; {MAX_EVENT_BYTES} is the limit"
                )
        async with _reachable(), self._redis.pipeline(transaction=False) as pipeline:
            for entry in fields:
                pipeline.xadd(stream, dict(entry.items()))
            entry_ids = await pipeline.execute()
        return [Published(event.id, entry_id.decode()) for event, entry_id in zip(events, entry_ids, strict=True)]


@asynccontextmanager
async def _reachable() -> AsyncIterator[None]:
    try:
        yield
    except AWAY as error:
        raise Unavailable(
            f"Redis is out of reach ({error}): publish again with the same ids, each is answered once"
        ) from error
    except RedisError as error:
        raise Unavailable(f"Redis did not take the abstracts ({error})") from error
