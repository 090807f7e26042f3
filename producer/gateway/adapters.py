"""``/v1/adapters``: announced adapters, and which worker serves which."""

import asyncio
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter

from ...schemas import AdapterActivated, AdapterRejected, AdapterUpdated, Event, Malformed
from ...schemas.announced import Announced, Order
from ...schemas.streams import Output, from_fields
from . import models
from .access import Caller, OfDoor
from .documenting import problems
from .door import Door
from .models import Adapters, WorkerAdapter

router = APIRouter(tags=["adapters"])


@router.get(
    "/v1/adapters",
    operation_id="getAdapters",
    summary="List adapters",
    response_description="The adapters and the workers' responses.",
    responses=problems(401, 503),
)
async def adapters(door: OfDoor, _: Caller) -> Adapters:
    """Returns the live adapter, all announced adapters, and the adapter that each worker serves.

    A worker is listed by its last response to an announcement, even if it has stopped since."""
    updates = await _events(door, "adapters")
    known = [Announced(entry_id, event) for entry_id, event in updates if isinstance(event, AdapterUpdated)]
    order = Order()
    followed = [one for one in known if order.objection(one) is None and one.update.action != "shadow"]
    answers: dict[str, WorkerAdapter] = {}
    for entry_id, event in await _events(door, "fleet"):
        if isinstance(event, AdapterActivated | AdapterRejected):
            answers[event.data.worker] = _answer(entry_id, event)
    return Adapters(
        live=_told(followed[-1]) if followed else None,
        known=[_told(one) for one in known],
        workers=[answers[worker] for worker in sorted(answers)],
    )


async def _events(door: Door, output: Output) -> list[tuple[str, Event]]:
    redis, streams = door.connections.control
    entries: Any = await redis.xrange(streams.output(output))
    return await asyncio.to_thread(lambda: list(_readable(entries)))  # ten thousand answers take a tenth of a second


def _readable(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[tuple[str, Event]]:
    for entry_id, fields in entries:
        try:
            yield entry_id.decode(), from_fields(fields)
        except Malformed:
            continue  # of a later version


def _told(one: Announced) -> models.Announced:
    update = one.update
    return models.Announced(
        entry_id=one.entry_id,
        name=update.name,
        version=update.version,
        digest=update.digest,
        action=update.action,
        uri=update.uri,
    )


def _answer(entry_id: str, event: AdapterActivated | AdapterRejected) -> WorkerAdapter:
    data, activated = event.data, isinstance(event, AdapterActivated)
    return WorkerAdapter(
        worker=data.worker,
        entry_id=entry_id,
        result="activated" if activated else "rejected",
        name=data.name,
        version=data.version,
        digest=data.digest,
        serves=data.digest if activated else data.previous_digest,
        reason=data.reason,
    )
