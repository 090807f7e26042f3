"""``/v1/refusals``: what could not be answered, and replays."""

import json
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response

from ..replaying import Refused
from ..shipping import Published
from .access import Caller, OfDoor
from .documenting import problems
from .models import EntryId, RefusalPage, Replayed
from .predictions import After
from .problems import NO_REFUSAL, Problem

router = APIRouter(tags=["refusals"])

_PAGE_BYTES = 8 << 20
_AT_A_TIME = 8  # each holds its whole original, and may have megabytes


@router.get(
    "/v1/refusals",
    operation_id="listRefusals",
    summary="List refusals",
    response_model=RefusalPage,
    response_description="A page of refusals.",
    responses=problems(401, 409, 422, 503, of="page"),
)
async def page(
    door: OfDoor,
    _: Caller,
    after: After = "0",
    limit: Annotated[int, Query(ge=1, le=100, description="Maximum number of refusals.")] = 20,
) -> Response:
    """Returns refusals, oldest first, each with its reason and the original entry.

    To get the next page, pass `next` as `after`. A page without refusals means that there are no newer ones yet. A page
    may hold fewer than `limit` refusals if they are large."""
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
    summary="Replay a refusal",
    response_model=Replayed,
    response_description="The original was submitted again.",
    responses={
        200: {"model": Replayed, "description": "It was replayed earlier, and was not submitted again."},
        **problems(401, 404, 409, 422, 503, of="refusal"),
    },
)
async def replay(
    door: OfDoor, _: Caller, entry_id: Annotated[EntryId, Path(description="The `entry_id` of the refusal.")]
) -> Response:
    """Submits the original entry again under the same identity. Each refusal can be replayed once."""
    refused = await door.refusals.at(entry_id)
    if refused is None:
        raise Problem(404, "not-found", NO_REFUSAL)
    replayed = await door.refusals.replay(refused)
    if replayed.entry_id is None:
        raise Problem(409, "not-replayable", f"The refusal cannot be replayed: {replayed.problem}.")
    event = refused.event
    if replayed.result == "replayed" and event.causationid and event.causationsource:
        await door.index.submitted(event.causationsource, [Published(event.causationid, replayed.entry_id)])
    body = {"id": replayed.id, "result": replayed.result, "entry_id": replayed.entry_id}
    return JSONResponse(body, 202 if replayed.result == "replayed" else 200)


def _row(refused: Refused) -> bytes:
    said = json.dumps({"entry_id": refused.entry_id, "replayed_as": refused.replayed_as})
    return b'%s,"event":%s}' % (said[:-1].encode(), refused.event.to_json())
