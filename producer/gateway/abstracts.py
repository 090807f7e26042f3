"""``/v1/abstracts`` and ``/v1/classify``: submitting abstracts, and their status."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from ...schemas import Lane
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
from .problems import NO_ABSTRACT, Problem, unavailable
from .sending import Sender

router = APIRouter(tags=["abstracts"])

_DEFAULT_WAIT_SECONDS = 10.0

_SourceOf = Annotated[
    str | None, Query(description="The `source` the abstract was submitted under. Defaults to that of your own token.")
]
InLane = Annotated[
    Lane, Query(description="Priority. `bulk` abstracts are classified when no `interactive` ones are waiting.")
]


@router.post(
    "/v1/abstracts",
    status_code=202,
    operation_id="submitAbstracts",
    summary="Submit abstracts",
    response_model=Accepted | Acceptance,
    response_description="Queued: an `Accepted` for one abstract, an `Acceptance` for a list or a file.",
    responses=problems(401, 413, 415, 422, 429, 503),
    openapi_extra=any_abstracts(),
)
async def submit(
    request: Request,
    door: OfDoor,
    source: Caller,
    lane: InLane = "interactive",
    format: Annotated[
        Format, Query(description="Format of the file. `auto` detects it from the file's name and first bytes.")
    ] = "auto",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queues one abstract, a list of abstracts or the records of a file for classification.

    Invalid records of a list or a file are reported in `problems` by their position, and the valid ones are queued. The
    request fails only if no record is valid.

    If Redis fails part-way, the 503 response lists the abstracts that were queued in `accepted`, and in `unsure` the
    ids of those that may have been. Submit the rest again, and those in `unsure` under the same ids."""
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
        invalid = "None of the abstracts is valid. `problems` lists what is wrong with each of them."
        detail = invalid if sender.broken else "The request contains no abstracts. Send at least one."
        raise Problem(422, "invalid", detail, problems=sender.outcome()["problems"])
    return JSONResponse(sender.outcome(), 202)


@router.get(
    "/v1/abstracts/{id:path}",
    operation_id="getAbstract",
    summary="Get the status of an abstract",
    response_model=Standing,
    response_description="The status and, once there is one, the result.",
    responses=problems(401, 404, 410, 422, 503),
)
async def look_up(
    door: OfDoor,
    caller: Caller,
    id: Annotated[str, Path(description="The id of the abstract, percent-encoded.")],
    source: _SourceOf = None,
) -> Response:
    """Returns whether an abstract is queued, done or refused, with its prediction or refusal.

    Covers abstracts submitted through any gateway, for one week after submission and for two days after the result.
    Older results can be found with `GET /v1/predictions`."""
    identity = Identity(source or caller, id)
    standing = await door.index.find(identity)
    if standing is None:
        raise Problem(404, "not-found", NO_ABSTRACT)
    answered = standing.answered
    if answered is None or not answered.settles(standing.submitted):
        return JSONResponse(_queued(id, standing.submitted))
    entry = await _entry(door.shard_of(id), answered.output, answered.entry_id)
    if entry is None:
        raise Problem(410, "trimmed", f"The result, entry {answered.entry_id}, is no longer kept.")
    return JSONResponse(_settled(id, entry, standing.submitted))


@router.post(
    "/v1/classify",
    operation_id="classifyAbstract",
    summary="Classify an abstract",
    response_model=Standing,
    response_description="The abstract was classified or refused.",
    responses={
        202: {
            "model": Standing,
            "description": "No result in time. Get it later from the URL in `Location`.",
        },
        **problems(401, 413, 415, 422, 429, 503),
    },
    openapi_extra=one_abstract(),
)
async def classify(
    request: Request,
    door: OfDoor,
    source: Caller,
    lane: InLane = "interactive",
    wait_seconds: Annotated[
        float, Query(gt=0, description="Seconds to wait for the result, at most the gateway's `--max-wait-seconds`.")
    ] = _DEFAULT_WAIT_SECONDS,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submits one abstract and waits for its result.

    If there is already a prediction for this `id`, it is returned at once."""
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
        raise unavailable("The gateway is shutting down. Try again, or use another gateway.")


def _address(id: str) -> str:
    return f"/v1/abstracts/{quote(id, safe='')}"
