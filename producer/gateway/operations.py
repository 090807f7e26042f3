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


@router.get(
    "/healthz",
    operation_id="getHealth",
    summary="Check liveness",
    response_description="The gateway is alive.",
    responses=problems(503),
)
async def health(door: OfDoor) -> Health:
    """Returns 503 only if restarting the gateway would help. Use it as a liveness probe."""
    if not door.reads:
        raise unavailable("The gateway has stopped reading results. Restart it.")
    return Health(alive=True)


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Check readiness",
    response_description="The gateway is ready for requests.",
    responses=problems(503),
)
async def ready(door: OfDoor) -> Readiness:
    """Returns 503 while Redis is unreachable and while the gateway is shutting down. Use it as a readiness probe."""
    checks = {
        "redis": await _redis(door),
        "results": _results(door),
        "intake": Check(ok=not door.ending, detail="The gateway is shutting down." if door.ending else "Open."),
    }
    if not all(check.ok for check in checks.values()):
        without = ", ".join(name for name, check in checks.items() if not check.ok)
        said = {name: check.model_dump() for name, check in checks.items()}
        detail = f"The gateway is not ready. Failing checks: {without}."
        raise Problem(503, "not-ready", detail, headers={"Retry-After": "5"}, checks=said)
    return Readiness(ready=True, checks=checks)


async def _redis(door: OfDoor) -> Check:
    try:
        await asyncio.gather(*(shard.redis.ping() for shard in door.shards))
    except RedisError as error:
        return Check(ok=False, detail=f"Redis is unreachable ({type(error).__name__}).")
    return Check(ok=True, detail="Redis is reachable.")


def _results(door: OfDoor) -> Check:
    reading = door.tail.newest is not None and door.reads
    return Check(ok=reading, detail="Results are being read." if reading else "Results are not being read.")


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Get metrics",
    response_class=Response,
    response_description="The metrics in the text format of Prometheus.",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems()},
)
async def metrics(door: OfDoor) -> Response:
    """Returns metrics for Prometheus: requests, latencies and the backlog. They contain no ids and no texts."""
    said = await asyncio.to_thread(generate_latest, door.measurements.registry)  # gauges may ask Redis
    return Response(said, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get(
    "/asyncapi.json",
    operation_id="getAsyncApi",
    summary="Get the AsyncAPI document",
    response_description="The AsyncAPI 3 document.",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}, **problems()},
    response_class=Response,
)
async def asyncapi() -> Response:
    """Describes the Redis streams behind the gateway, and their messages."""
    return Response(_ASYNCAPI.read_bytes(), media_type="application/json")
