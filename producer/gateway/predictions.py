"""``/v1/predictions``: results in pages, and as a stream."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response
from redis.exceptions import RedisError
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from ..cursor import Place, RawEntry, moved, oldest, parse_id, write, write_id
from .access import Caller, OfDoor
from .documenting import problems
from .door import Door
from .entries import read_after, read_entries
from .models import Cursor, PredictionPage
from .problems import unavailable
from .tail import BEGIN_PACKED, SIGN_OF_LIFE, Subscriber, as_sent, packed

router = APIRouter(tags=["predictions"])

_PAGE_BYTES = 8 << 20
_READ = 128  # predictions at a time
_READS_AT_A_TIME = 8  # by all subscribers that are behind
_RETRY = b"retry: 2000\n\n"  # milliseconds until a browser reconnects
# Before OpenAPI 3.2, the schema of a stream is that of each event.
_SENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "The cursor after this prediction. With one shard, its entry id."},
        "event": {"const": "prediction"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/AbstractClassified"},
        },
        "retry": {"type": "integer"},
    },
}

After = Annotated[
    Cursor, Query(description="Cursor: `next` of the previous page, or an entry id. `0` starts with the oldest entry.")
]


@router.get(
    "/v1/predictions",
    operation_id="listPredictions",
    summary="List predictions",
    response_model=PredictionPage,
    response_description="A page of predictions.",
    responses=problems(401, 409, 422, 503, of="page"),
)
async def page(
    door: OfDoor,
    _: Caller,
    after: After = "0",
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of predictions.")] = 100,
) -> Response:
    """Returns predictions, oldest first.

    To get the next page, pass `next` as `after`. A page without predictions means that there are no newer ones yet:
    keep `next` and try again later. A page may hold fewer than `limit` predictions."""
    begin = place = door.place(after)
    entries: list[bytes] = []
    taken = size = 0
    while taken < limit and size < _PAGE_BYTES and (rows := await _oldest_after(door, place, limit - taken)):
        taken += len(rows)
        for number, one in rows:
            place = moved(place, number, parse_id(one[0].decode()))
            for entry in read_entries("predictions", [one]):
                # The event's own bytes: to parse and write a thousand events anew would hold up all other requests.
                entries.append(b'{"entry_id":"%s","event":%s}' % (entry.entry_id.encode(), entry.body))
                size += len(entry.body)
    following = after if place == begin else write(place)
    body = b'{"predictions":[%s],"next":"%s"}' % (b",".join(entries), following.encode())
    return Response(body, media_type="application/json")


async def _oldest_after(door: Door, place: Place, count: int) -> list[tuple[int, RawEntry]]:
    """The oldest predictions after a place, with their shard numbers; only a few, because each may have a megabyte."""
    count = min(count, _READ)
    pages = [
        await read_after(shard, "predictions", write_id(last), count)
        for shard, last in zip(door.shards, place, strict=True)
    ]
    return oldest(pages, count)


@router.get(
    "/v1/predictions/stream",
    operation_id="streamPredictions",
    summary="Stream predictions",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events named `prediction`. `data` is the prediction as a JSON CloudEvent.",
            "content": {
                "text/event-stream": {
                    "schema": _SENT,
                    "example": 'id: 1700000000000-0\nevent: prediction\ndata: {"specversion":"1.0", …}\n\n',
                }
            },
        },
        **problems(401, 409, 422, 503, of="page"),
    },
)
async def stream(
    door: OfDoor,
    _: Caller,
    after: Annotated[
        Cursor | None,
        Query(description="Cursor to start after; ignored with `Last-Event-ID`. Defaults to new predictions only."),
    ] = None,
    last_event_id: Annotated[
        Cursor | None,
        Header(alias="Last-Event-ID", description="Id of the last event received. Browsers send it to reconnect."),
    ] = None,
) -> Response:
    """Streams predictions as server-sent events, until the client disconnects or the gateway shuts down.

    To resume, connect to any gateway with the id of the last event in `Last-Event-ID`. Every prediction that is still
    kept is sent exactly once."""
    newest = door.tail.newest
    if door.ending or newest is None:
        raise unavailable("The gateway is shutting down, or Redis is unreachable. Try again.")
    if door.tail.subscribers >= door.config.max_subscribers:
        raise unavailable(f"All {door.config.max_subscribers} streams are in use. Try again, or use another gateway.")
    begin = last_event_id or after
    return EventStream(door, door.place(begin) if begin else newest)


class EventStream(Response):
    """Sends predictions after a place until the client disconnects or the gateway ends."""

    media_type = "text/event-stream"
    _reads = asyncio.Semaphore(_READS_AT_A_TIME)

    def __init__(self, door: Door, after: Place) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept-Encoding"})
        del self.headers["content-length"]
        self._door = door
        self._after = after
        self._pack = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._pack = _takes_gzip(Headers(scope=scope).get("accept-encoding", ""))
        if self._pack:
            self.headers["Content-Encoding"] = "gzip"
        begin = BEGIN_PACKED + packed(_RETRY) if self._pack else _RETRY
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": begin, "more_body": True})
        with self._door.tail.subscriber() as subscriber:
            leaving = asyncio.create_task(_until_left(receive, subscriber))
            try:
                while not subscriber.ended:
                    chunk = await self._next(subscriber)
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            finally:
                leaving.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self, subscriber: Subscriber) -> bytes:
        """Wait for the next chunk to send; empty at the end."""
        while not subscriber.ended:
            subscriber.news.clear()
            held = self._door.tail.after(self._after, pack=self._pack)
            chunk, self._after = held or await self._read()
            if chunk:
                return chunk
            if subscriber.sign_of_life_due:
                subscriber.sign_of_life_due = False
                return self._packed(SIGN_OF_LIFE)
            await subscriber.news.wait()
        return b""

    async def _read(self) -> tuple[bytes, Place]:
        """Read on in Redis; nothing while it is away, so that it is asked again at the next sign of life."""
        try:
            async with self._reads:
                return await self._read_one() if len(self._after) == 1 else await self._read_several()
        except RedisError:
            return b"", self._after

    async def _read_one(self) -> tuple[bytes, Place]:
        raw = await read_after(self._door.shards[0], "predictions", write(self._after), _READ)
        return self._sent(0, raw) if raw else (b"", self._after)

    async def _read_several(self) -> tuple[bytes, Place]:
        """Read the first shard that is behind the tail, up to the tail's place, so that both come to the same place."""
        newest = self._door.tail.newest
        assert newest, "streams begin after the tail"
        for number, (last, bound) in enumerate(zip(self._after, newest, strict=True)):
            if last < bound:
                shard, until = self._door.shards[number], write_id(bound)
                raw = await read_after(shard, "predictions", write_id(last), _READ, until)
                chunk, place = self._sent(number, raw)
                return chunk, place if len(raw) == _READ else moved(place, number, bound)
        return b"", self._after  # another gateway was ahead of this one

    def _sent(self, number: int, raw: list[RawEntry]) -> tuple[bytes, Place]:
        """Entries of one shard in the form in which they are sent, and the place after them."""
        chunk, place = b"", self._after
        for one in raw:
            place = moved(place, number, parse_id(one[0].decode()))
            chunk += b"".join(as_sent(write(place), entry) for entry in read_entries("predictions", [one]))
        return self._packed(chunk or SIGN_OF_LIFE), place

    def _packed(self, chunk: bytes) -> bytes:
        return packed(chunk) if self._pack else chunk


def _takes_gzip(accepted: str) -> bool:
    """Whether an ``Accept-Encoding`` header includes gzip."""
    named = ("".join(one.split()).lower().partition(";") for one in accepted.split(","))
    return any(name == "gzip" and (not weight or weight.strip("q=0.")) for name, _, weight in named)


async def _until_left(receive: Receive, subscriber: Subscriber) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    subscriber.ended = True
    subscriber.news.set()
