"""``/v1/adapters``: what was announced, and which worker serves what."""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter

from ...schemas import AdapterActivated, AdapterRejected, AdapterUpdated, Event, Malformed
from ...schemas.streams import Output, from_fields
from .access import Caller, OfDoor
from .documenting import problems
from .door import Door
from .models import Adapters, Announced, WorkerAdapter

router = APIRouter(tags=["adapters"])


@router.get(
    "/v1/adapters",
    operation_id="getAdapters",
    summary="Live and known adapters, and which worker serves which",
    responses=problems(401, 503),
)
async def adapters(door: OfDoor, _: Caller) -> Adapters:
    """A worker is known by its last answer; whether it is still at work, the answer does not tell."""
    updates = await _events(door, "adapters")
    known = [_announced(entry_id, event) for entry_id, event in updates if isinstance(event, AdapterUpdated)]
    answers: dict[str, WorkerAdapter] = {}
    for entry_id, event in await _events(door, "fleet"):
        if isinstance(event, AdapterActivated | AdapterRejected):
            answers[event.data.worker] = _answer(entry_id, event)
    live = next((one for one in reversed(known) if one.action != "shadow"), None)
    return Adapters(live=live, known=known, workers=[answers[worker] for worker in sorted(answers)])


async def _events(door: Door, output: Output) -> list[tuple[str, Event]]:
    redis, streams = door.connections.control
    entries: Any = await redis.xrange(streams.output(output))
    return list(_readable(entries))


def _readable(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[tuple[str, Event]]:
    for entry_id, fields in entries:
        try:
            yield entry_id.decode(), from_fields(fields)
        except Malformed:
            continue  # of a later version


def _announced(entry_id: str, event: AdapterUpdated) -> Announced:
    data = event.data
    return Announced(
        entry_id=entry_id, name=data.name, version=data.version, digest=data.digest, action=data.action, uri=data.uri
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
