"""``/v1/refusals``: what could not be answered, and replays."""

import json
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response

from ..replaying import Refused
from ..shipping import Published
from .access import Caller, OfDoor
from .documenting import problems
from .models import Cursor, EntryId, RefusalPage, Replayed
from .problems import Problem

router = APIRouter(tags=["refusals"])

_PAGE_BYTES = 8 << 20
_AT_A_TIME = 8  # each holds its whole original, and may have megabytes


@router.get(
    "/v1/refusals",
    operation_id="listRefusals",
    summary="A page of refusals",
    response_model=RefusalPage,
    responses=problems(401, 409, 422, 503),
)
async def page(
    door: OfDoor,
    _: Caller,
    after: Annotated[Cursor, Query(description="What `next` said, or an entry id; `0` is the beginning.")] = "0",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Oldest first, each with the reason and the whole original. A page ends early where they are large."""
    door.place(after)
    found: list[bytes] = []
    last: str | None = after
    while last and len(found) < limit and sum(map(len, found)) < _PAGE_BYTES:
        refused, last = await door.refusals.page(after, min(_AT_A_TIME, limit - len(found)))
        found += map(_row, refused)
        after = last or after
    body = b'{"refusals":[%s],"next":"%s"}' % (b",".join(found), after.encode())
    return Response(body, media_type="application/json")


@router.post(
    "/v1/refusals/{entry_id}/replay",
    status_code=202,
    operation_id="replayRefusal",
    summary="Send what was refused again",
    response_model=Replayed,
    response_description="It was sent again.",
    responses={
        200: {"model": Replayed, "description": "It was sent again before, and is not sent twice."},
        **problems(401, 404, 409, 422, 503, conflict="not-replayable"),
    },
)
async def replay(
    door: OfDoor, _: Caller, entry_id: Annotated[EntryId, Path(description="The refusal's entry.")]
) -> Response:
    """Each refusal is replayed once, under the identity of its original."""
    refused = await door.refusals.at(entry_id)
    if refused is None:
        raise Problem(404, "not-found", "there is no such refusal, or it is no longer kept: see /v1/refusals")
    replayed = await door.refusals.replay(refused)
    if replayed.entry_id is None:
        raise Problem(409, "not-replayable", replayed.problem or "it cannot be replayed")
    event = refused.event
    if replayed.result == "replayed" and event.causationid and event.causationsource:
        await door.index.submitted(event.causationsource, [Published(event.causationid, replayed.entry_id)])
    body = {"id": replayed.id, "result": replayed.result, "entry_id": replayed.entry_id}
    return JSONResponse(body, 202 if replayed.result == "replayed" else 200)


def _row(refused: Refused) -> bytes:
    said = json.dumps({"entry_id": refused.entry_id, "replayed_as": refused.replayed_as})
    return b'%s,"event":%s}' % (said[:-1].encode(), refused.event.to_json())
