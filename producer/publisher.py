"""Send abstracts to the workers."""

import hashlib
import json
import logging
import random
import time
from asyncio import sleep
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from secrets import token_urlsafe
from typing import NamedTuple
from uuid import uuid4

from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError

from ..schemas import Abstract, AbstractSubmitted, BacklogFull, Lane, Malformed, Unavailable
from ..schemas.streams import EVENT_FIELD, GROUP, MAX_EVENT_BYTES, to_fields
from .connection import AWAY, Client
from .defaults import DEFAULT_URL, MAX_BACKLOG
from .tracing import sending

RETRY_AFTER_SECONDS = 5.0

_ENTRIES, _BYTES = 256, 4 << 20  # of one call: while Redis runs it, nobody else is served
# A call whose reply was lost is repeated, and Redis remembers for longer than that how it was answered.
_PAUSES_SECONDS = (0.05, 0.2, 0.8)
_REMEMBERED_SECONDS = 300
RESUMABLE_SECONDS = 7 * 24 * 3600  # a call of a run, which may be interrupted and go on days later
_LOOK_SECONDS = 1.0  # between two looks for room
_REPLICA_SECONDS = 1.0  # until as many replicas as are asked for have what was published
_SAY_SECONDS = 60.0  # a back-fill may wait before every call

log = logging.getLogger(__name__)


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

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        namespace: str = "abstream",
        source: str | None = None,
        max_backlog: int | None = MAX_BACKLOG,
        wait_for_room_seconds: float = 0,
        wait_replicas: int = 0,
    ) -> None:
        """Connect when something is published.

        Args:
            max_backlog: publish nothing while so many of a lane wait for an answer; any number where None.
            wait_for_room_seconds: how long a call waits, while that is so, before it fails.
            wait_replicas: nothing counts as published before so many replicas of Redis have it, within a second.
        """
        super().__init__(url, namespace)
        self.source = source or f"urn:uuid:{uuid4()}"
        self._max_backlog = max_backlog
        self._wait_for_room_seconds = wait_for_room_seconds
        self._wait_replicas = wait_replicas
        self._said = -_SAY_SECONDS  # when it was last said that it waits
        self._publish_script = self._redis.register_script((files(__package__) / "publish.lua").read_text())

    async def publish(self, abstract: Abstract, *, id: str | None = None, lane: Lane = "interactive") -> Published:
        """Submit one abstract.

        Args:
            id: the abstract's own id; a new one where there is none.
            lane: ``bulk`` for back-fills, which wait while there is interactive work.

        Raises:
            Malformed: the event is larger than workers accept.
            BacklogFull: too many wait already. Publish again after ``retry_after_seconds``.
            Unavailable: Redis is out of reach. Publish again with the same id: it is answered once.
        """
        return (await self.publish_many([(id or str(uuid4()), abstract)], lane=lane))[0]

    async def publish_many(
        self, abstracts: Iterable[tuple[str, Abstract]], *, lane: Lane = "interactive", run: str | None = None
    ) -> list[Published]:
        """Submit abstracts with their ids, many to a round trip; raises as ``publish``.

        A malformed one keeps all from being sent; any other error may come when some were. Then publish all again.

        Args:
            run: the name of a publishing that may be interrupted. The same ids again in a run of this name, within
                seven days, are not sent again, and are answered with the entries that they became.
        """
        with sending(self._streams.lane(lane)) as trace:
            now = datetime.now(timezone.utc)
            known = {"source": self.source, "time": now, **trace._asdict()}
            events = [(id_, self._encode(AbstractSubmitted(id=id_, data=one, **known))) for id_, one in abstracts]
            return await self._send_all(events, lane, run)

    async def _send_all(self, events: list[tuple[str, bytes]], lane: Lane, run: str | None) -> list[Published]:
        published: list[Published] = []
        for call in _calls(events):
            entry_ids = await self._send([body for _, body in call], lane, _Call.of(run, [id_ for id_, _ in call]))
            published += [Published(id_, entry_id) for (id_, _), entry_id in zip(call, entry_ids, strict=True)]
        return published

    def _encode(self, event: AbstractSubmitted) -> bytes:
        body = to_fields(event)[EVENT_FIELD]
        if len(body) > MAX_EVENT_BYTES:
            raise Malformed(
                "too_large",
                f"abstract {event.id!r} makes an event of {len(body)} bytes; {MAX_EVENT_BYTES} is the limit",
            )
        return body

    async def _send(self, bodies: list[bytes], lane: Lane, call: "_Call") -> list[str]:
        """The entry ids of events, which are added all together, when there is room or never."""
        deadline = time.monotonic() + self._wait_for_room_seconds
        if call.may_be_known and (first := await self._first_entry_of(call)):
            return _successive(first, len(bodies))
        while True:
            try:
                return await self._add(bodies, lane, call)
            except BacklogFull as full:
                if time.monotonic() >= deadline:
                    raise
                if time.monotonic() >= self._said + _SAY_SECONDS:
                    self._said = time.monotonic()
                    log.warning("waiting for room: %s", full)
                await sleep(min(_LOOK_SECONDS * random.uniform(0.5, 1), max(0, deadline - time.monotonic())))

    async def _first_entry_of(self, call: "_Call") -> bytes | None:
        """Where a call of a run was answered before, so that its events need not be sent again."""
        async with _understood():
            first = await self._redis.get(self._streams.published(call.token))
        return first if isinstance(first, bytes) else None

    async def _add(self, bodies: list[bytes], lane: Lane, call: "_Call") -> list[str]:
        keys = [self._streams.lane(lane), self._streams.published(call.token)]
        async with _understood():
            first = await self._persist(keys, [GROUP, self._max_backlog or 0, call.remembered_seconds, *bodies])
        if isinstance(first, int):
            raise BacklogFull(
                f"{first} abstracts of the {lane} lane wait, and {self._max_backlog} may: "
                f"publish again in {RETRY_AFTER_SECONDS:g} s",
                retry_after_seconds=RETRY_AFTER_SECONDS,
                waiting=first,
                limit=self._max_backlog,
            )
        return _successive(first, len(bodies))

    async def _persist(self, keys: list[str], arguments: list[str | int | bytes]) -> bytes | int:
        """The script's answer; asked again, it changes nothing more."""
        for pause in _PAUSES_SECONDS:
            try:
                return await self._ask(keys, arguments)
            except (*AWAY, NoScriptError):
                await sleep(pause)
        return await self._ask(keys, arguments)

    async def _ask(self, keys: list[str], arguments: list[str | int | bytes]) -> bytes | int:
        if not self._wait_replicas:
            answer: bytes | int = await self._publish_script(keys, arguments)
            return answer
        async with self._redis.pipeline(transaction=False) as pipe:  # WAIT is for what its own connection wrote
            pipe.evalsha(self._publish_script.sha, len(keys), *keys, *arguments)
            pipe.wait(self._wait_replicas, round(1000 * _REPLICA_SECONDS))
            # An error that redis-py raises itself has the command in its text, and so the abstracts.
            answer, reached = await pipe.execute(raise_on_error=False)
        if isinstance(answer, NoScriptError):
            await self._redis.script_load(self._publish_script.script)
        for said in (answer, reached):
            if isinstance(said, Exception):
                raise said
        if isinstance(answer, bytes) and reached < self._wait_replicas:
            raise Unavailable(
                f"{reached} of {self._wait_replicas} replicas had the abstracts within {_REPLICA_SECONDS:g} s: "
                "publish again with the same ids, each is answered once"
            )
        return answer


@dataclass(frozen=True)
class _Call:
    """How Redis knows a call that it has answered."""

    token: str
    remembered_seconds: int
    may_be_known: bool

    @classmethod
    def of(cls, run: str | None, ids: list[str]) -> "_Call":
        if run is None:
            return cls(token_urlsafe(12), _REMEMBERED_SECONDS, may_be_known=False)
        digest = hashlib.sha256(json.dumps([run, *ids]).encode())
        return cls(digest.hexdigest()[:32], RESUMABLE_SECONDS, may_be_known=True)


def _successive(first: bytes, count: int) -> list[str]:
    """The ids of entries that were added together."""
    milliseconds, _, number = first.decode().partition("-")
    return [f"{milliseconds}-{int(number) + offset}" for offset in range(count)]


def _calls(events: list[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Events in their order, no more together than one call may have."""
    call: list[tuple[str, bytes]] = []
    size = 0
    for event in events:
        if call and (len(call) == _ENTRIES or size + len(event[1]) > _BYTES):
            yield call
            call, size = [], 0
        call.append(event)
        size += len(event[1])
    if call:
        yield call


@asynccontextmanager
async def _understood() -> AsyncIterator[None]:
    """What Redis or the network says, as what the publisher can do about it."""
    try:
        yield
    except AWAY as error:
        raise Unavailable(
            f"Redis is out of reach ({error}): publish again with the same ids, each is answered once"
        ) from error
    except RedisError as error:
        # Up to Redis 6.2 a script's error says so only in its text.
        if isinstance(error, OutOfMemoryError) or "-OOM" in str(error):
            raise BacklogFull(
                f"Redis has no memory for more abstracts: publish again in {RETRY_AFTER_SECONDS:g} s",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from error
        raise Unavailable(f"Redis did not take the abstracts ({error})") from error
