"""Adding submitted abstracts to one shard."""

import hashlib
import json
import logging
import random
import time
from asyncio import sleep
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from secrets import token_urlsafe
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError

from ..schemas import BacklogFull, Lane, Streams, Unavailable
from ..schemas.streams import GROUP
from .connection import AWAY

RETRY_AFTER_SECONDS = 5.0

_ENTRIES, _BYTES = 256, 4 << 20  # of one call: Redis serves nobody else while it runs
# A call whose reply was lost is repeated, and Redis remembers its answer for longer than that.
_PAUSES_SECONDS = (0.05, 0.2, 0.8)
_REMEMBERED_SECONDS = 300
RESUMABLE_SECONDS = 7 * 24 * 3600  # for calls of a run, which may be interrupted and resumed days later
_LOOK_SECONDS = 1.0  # between two checks for room
_REPLICA_SECONDS = 1.0  # for the replicas to receive what was published
_SAY_SECONDS = 60.0  # between two warnings, because a back-fill may wait before every call

log = logging.getLogger(__name__)

Body = tuple[str, bytes]
"""An event's id and the event as JSON."""


class Published(NamedTuple):
    """The id of an event, and of the stream entry that carries it."""

    id: str
    entry_id: str


@dataclass(frozen=True)
class Terms:
    """When events are added, and when they count as published.

    Attributes:
        max_backlog: add nothing while this many of the lane wait; no limit if 0.
        wait_for_room_seconds: how long a call waits for room before it fails.
        wait_replicas: how many replicas of Redis must have the events, within a second.
    """

    max_backlog: int
    wait_for_room_seconds: float
    wait_replicas: int


class Shipper:
    """Adds events to the lanes of one shard."""

    def __init__(self, redis: Redis, streams: Streams, terms: Terms) -> None:
        self._redis = redis
        self._streams = streams
        self._terms = terms
        self._said = -_SAY_SECONDS  # time of the last warning
        self._script = redis.register_script((files(__package__) / "publish.lua").read_text())

    async def send(self, events: list[Body], lane: Lane, run: str | None) -> list[Published]:
        """Add events, many in a round trip; raises as ``Publisher.publish``."""
        published: list[Published] = []
        for call in _calls(events):
            entry_ids = await self._send([body for _, body in call], lane, _Call.of(run, [id_ for id_, _ in call]))
            published += [Published(id_, entry_id) for (id_, _), entry_id in zip(call, entry_ids, strict=True)]
        return published

    async def _send(self, bodies: list[bytes], lane: Lane, call: "_Call") -> list[str]:
        """Add all events together, as soon as there is room, or fail; returns their entry ids."""
        deadline = time.monotonic() + self._terms.wait_for_room_seconds
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
        """The answer to an earlier, identical call of the same run, whose events need not be sent again."""
        async with _understood():
            first = await self._redis.get(self._streams.published(call.token))
        return first if isinstance(first, bytes) else None

    async def _add(self, bodies: list[bytes], lane: Lane, call: "_Call") -> list[str]:
        keys = [self._streams.lane(lane), self._streams.published(call.token)]
        async with _understood():
            first = await self._persist(keys, [GROUP, self._terms.max_backlog, call.remembered_seconds, *bodies])
        if isinstance(first, int):
            raise BacklogFull(
                f"{first} abstracts are waiting in the {lane} lane, and the limit is {self._terms.max_backlog}: "
                f"publish again in {RETRY_AFTER_SECONDS:g} s",
                retry_after_seconds=RETRY_AFTER_SECONDS,
                waiting=first,
                limit=self._terms.max_backlog,
            )
        return _successive(first, len(bodies))

    async def _persist(self, keys: list[str], arguments: list[str | int | bytes]) -> bytes | int:
        """The script's answer. Repeating the call changes nothing."""
        for pause in _PAUSES_SECONDS:
            try:
                return await self._ask(keys, arguments)
            except (*AWAY, NoScriptError):
                await sleep(pause)
        return await self._ask(keys, arguments)

    async def _ask(self, keys: list[str], arguments: list[str | int | bytes]) -> bytes | int:
        if not self._terms.wait_replicas:
            answer: bytes | int = await self._script(keys, arguments)
            return answer
        async with self._redis.pipeline(transaction=False) as pipe:  # WAIT applies to writes of its own connection
            pipe.evalsha(self._script.sha, len(keys), *keys, *arguments)
            pipe.wait(self._terms.wait_replicas, round(1000 * _REPLICA_SECONDS))
            # Errors raised by redis-py contain the command, and with it the abstracts.
            answer, reached = await pipe.execute(raise_on_error=False)
        if isinstance(answer, NoScriptError):
            await self._redis.script_load(self._script.script)
        for said in (answer, reached):
            if isinstance(said, Exception):
                raise said
        if isinstance(answer, bytes) and reached < self._terms.wait_replicas:
            raise Unavailable(
                f"{reached} of {self._terms.wait_replicas} replicas had the abstracts within {_REPLICA_SECONDS:g} s: "
                "publish again with the same ids; each is answered once"
            )
        return answer


@dataclass(frozen=True)
class _Call:
    """Identifies a call, so that Redis can repeat its answer."""

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
    """The consecutive ids of entries that were added together."""
    milliseconds, _, number = first.decode().partition("-")
    return [f"{milliseconds}-{int(number) + offset}" for offset in range(count)]


def _calls(events: list[Body]) -> Iterator[list[Body]]:
    """Split events, in their order, into calls of limited size."""
    call: list[Body] = []
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
    """Translate errors of Redis and the network into what the publisher can do about them."""
    try:
        yield
    except AWAY as error:
        raise Unavailable(
            f"Redis is out of reach ({error}): publish again with the same ids; each is answered once"
        ) from error
    except RedisError as error:
        # Before Redis 7 the error of a script has the code only in its text.
        if isinstance(error, OutOfMemoryError) or "-OOM" in str(error):
            raise BacklogFull(
                f"Redis is out of memory: publish again in {RETRY_AFTER_SECONDS:g} s",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from error
        raise Unavailable(
            f"Redis refused the abstracts ({error}): check the server and the permissions of this user, then publish "
            "again with the same ids"
        ) from error
