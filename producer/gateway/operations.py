"""Routes about the gateway itself: health, metrics, documents."""

import asyncio
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError

from .access import OfDoor
from .documenting import problems
from .models import Check, Health, Readiness
from .problems import Problem, unavailable

router = APIRouter(tags=["operations"])

_ASYNCAPI = files("abstream.schemas.exported") / "asyncapi.json"


@router.get("/healthz", operation_id="getHealth", summary="Whether to leave it running", responses=problems(503))
async def health(door: OfDoor) -> Health:
    """Fails only where a restart would help."""
    if not door.reads:
        raise unavailable("nothing reads results any more: restart the gateway")
    return Health(alive=True)


@router.get("/readyz", operation_id="getReadiness", summary="Whether to send it requests", responses=problems(503))
async def ready(door: OfDoor) -> Readiness:
    """Fails while Redis is away and while the gateway ends."""
    checks = {
        "redis": await _redis(door),
        "results": Check(ok=door.tail.newest is not None and door.reads, detail="are read as they come"),
        "intake": Check(ok=not door.ending, detail="is open until the gateway is told to end"),
    }
    if not all(check.ok for check in checks.values()):
        without = ", ".join(name for name, check in checks.items() if not check.ok)
        said = {name: check.model_dump() for name, check in checks.items()}
        raise Problem(503, "not-ready", f"not ready: {without}", headers={"Retry-After": "5"}, checks=said)
    return Readiness(ready=True, checks=checks)


async def _redis(door: OfDoor) -> Check:
    try:
        await asyncio.gather(*(shard.redis.ping() for shard in door.shards))
    except RedisError as error:
        return Check(ok=False, detail=f"does not answer ({type(error).__name__}): bring it back")
    return Check(ok=True, detail="answers")


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="For Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems()},
)
async def metrics(door: OfDoor) -> Response:
    """Counts and times of requests, and what is not answered yet; no ids and no texts."""
    said = await asyncio.to_thread(generate_latest, door.measurements.registry)  # gauges may ask Redis
    return Response(said, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get(
    "/asyncapi.json",
    operation_id="getAsyncApi",
    summary="The streams in Redis, as AsyncAPI 3",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}, **problems()},
    response_class=Response,
)
async def asyncapi() -> Response:
    """What the gateway stands before."""
    return Response(_ASYNCAPI.read_bytes(), media_type="application/json")
