"""``/v1/abstracts`` and ``/v1/classify``: submitting abstracts, and their status."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from ...schemas import Lane, Unavailable
from ...schemas.streams import Output
from ..connection import Shard
from ..formats import Format, Record
from .access import Caller, OfDoor
from .bodies import IdempotencyKey, Many, one_record, records
from .documenting import any_abstracts, one_abstract, problems
from .door import Door
from .entries import Entry, read_entries
from .index import Identity
from .models import Acceptance, Accepted, Standing
from .problems import Problem, problem_of
from .sending import Sender

router = APIRouter(tags=["abstracts"])

_DEFAULT_WAIT_SECONDS = 10.0

_SourceOf = Annotated[str | None, Query(description="Of whom; what the client itself sent by default.")]
InLane = Annotated[Lane, Query(description="`bulk` waits while there is interactive work.")]


@router.post(
    "/v1/abstracts",
    status_code=202,
    operation_id="submitAbstracts",
    summary="Submit an abstract, a list of them, or a file",
    response_model=Accepted | Acceptance,
    response_description="Taken: `Accepted` for one, `Acceptance` for several.",
    responses=problems(401, 413, 415, 422, 429, 503),
    openapi_extra=any_abstracts(),
)
async def submit(
    request: Request,
    door: OfDoor,
    source: Caller,
    lane: InLane = "interactive",
    format: Annotated[
        Format, Query(description="Of a file; by its name and its beginning where it is `auto`.")
    ] = "auto",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """One abstract is answered with its `id` and its entry in the stream. Of several, the good ones are taken, and
    those that are not are told by their position; it is a problem only where none is good. If Redis fails, the problem
    names those that were taken in `accepted`, and in `unsure` the ids of those that perhaps were: repeat these ids."""
    _is_open(door)
    sender = Sender(door, source, lane)
    async with records(request, idempotency_key, format) as brought:
        if isinstance(brought, Record):
            published = await sender.send(brought)
            return JSONResponse(published._asdict(), 202, {"Location": _address(published.id)})
        return await _send_all(sender, brought, door)


async def _send_all(sender: Sender, parts: Many, door: Door) -> Response:
    try:
        async for part in parts:
            await sender.send_part(part)
    finally:
        door.measurements.broken(len(sender.broken))
    if not sender.accepted:
        some = "no abstract could be taken: `problems` says why of each"
        detail = some if sender.broken else "there is no abstract in it"
        raise Problem(422, "invalid", detail, problems=sender.outcome()["problems"])
    return JSONResponse(sender.outcome(), 202)


@router.get(
    "/v1/abstracts/{id:path}",
    operation_id="getAbstract",
    summary="How an abstract stands",
    response_model=Standing,
    responses=problems(401, 404, 410, 422, 503),
)
async def look_up(door: OfDoor, caller: Caller, id: str, source: _SourceOf = None) -> Response:
    """Known are abstracts that came through a gateway, for a week until they are answered and two days from then on."""
    identity = Identity(source or caller, id)
    standing = await door.index.find(identity)
    if standing is None:
        detail = "no abstract with this id was sent here lately: send it, or look through /v1/predictions"
        raise Problem(404, "not-found", detail)
    answered = standing.answered
    if answered is None or not answered.settles(standing.submitted):
        return JSONResponse(_queued(id, standing.submitted))
    entry = await _entry(door.shard_of(id), answered.output, answered.entry_id)
    if entry is None:
        raise Problem(410, "trimmed", f"it was answered by entry {answered.entry_id}, which is no longer kept")
    return JSONResponse(_settled(id, entry, standing.submitted))


@router.post(
    "/v1/classify",
    operation_id="classifyAbstract",
    summary="Submit an abstract and wait for its result",
    response_model=Standing,
    response_description="It is done or refused.",
    responses={
        202: {"model": Standing, "description": "No result in time; `Location` is where to look for it later."},
        **problems(401, 413, 415, 422, 429, 503),
    },
    openapi_extra=one_abstract(),
)
async def classify(
    request: Request,
    door: OfDoor,
    source: Caller,
    lane: InLane = "interactive",
    wait_seconds: Annotated[float, Query(gt=0, description="Longest wait; the gateway has a limit of its own.")] = (
        _DEFAULT_WAIT_SECONDS
    ),
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """An abstract that was answered already, under the same id, has its result at once."""
    _is_open(door)
    record = await one_record(request, idempotency_key)
    identity = Identity(source, record.id)
    with door.waiting.for_result(identity) as wait:
        if entry := await _answered_before(door, identity):
            return JSONResponse(_settled(record.id, entry, None))
        published = await Sender(door, source, lane).send(record)
        entry = await wait.result(published.entry_id, min(wait_seconds, door.config.max_wait_seconds))
    if entry:
        return JSONResponse(_settled(record.id, entry, published.entry_id))
    return JSONResponse(_queued(record.id, published.entry_id), 202, {"Location": _address(record.id)})


async def _answered_before(door: Door, identity: Identity) -> Entry | None:
    """The prediction that an abstract already has, since workers would give it no second one."""
    standing = await door.index.find(identity)
    if standing and standing.answered and standing.answered.output == "predictions":
        return await _entry(door.shard_of(identity.id), "predictions", standing.answered.entry_id)
    return None


async def _entry(shard: Shard, output: Output, entry_id: str) -> Entry | None:
    found: Any = await shard.redis.xrange(shard.streams.output(output), min=entry_id, max=entry_id, count=1)
    return next(iter(read_entries(output, found)), None)


def _queued(id: str, entry_id: str | None) -> dict[str, Any]:
    return {"id": id, "entry_id": entry_id, "status": "queued"}


def _settled(id: str, entry: Entry, entry_id: str | None) -> dict[str, Any]:
    done = entry.output == "predictions"
    return {
        "id": id,
        "entry_id": entry_id or entry.event.get("sequence"),
        "status": "done" if done else "refused",
        "prediction" if done else "refusal": entry.event,
    }


def _is_open(door: Door) -> None:
    if door.ending:
        raise problem_of(Unavailable("ending"))


def _address(id: str) -> str:
    return f"/v1/abstracts/{quote(id, safe='')}"
