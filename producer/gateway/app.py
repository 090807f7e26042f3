"""The ASGI application: routes and middleware."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from prometheus_client.registry import Collector

from ...schemas import Shards
from . import abstracts, adapters, operations, predictions, refusals
from .config import GatewayConfig
from .documenting import DESCRIPTION, document
from .door import Door
from .limits import BodyLimit, OwnPagesOnly
from .measuring import Measured
from .problems import answer_with_problems

_TAGS = [
    {"name": "abstracts", "description": "Submit abstracts and get their status."},
    {"name": "predictions", "description": "Read results, in pages or as a stream."},
    {"name": "refusals", "description": "List abstracts that could not be classified, and replay them."},
    {"name": "adapters", "description": "See which LoRA adapters are announced, and which one each worker serves."},
    {"name": "operations", "description": "Health, metrics and documentation of the gateway. No token required."},
]


def build(url: str, names: Shards, config: GatewayConfig, gauges: Sequence[Collector] = ()) -> FastAPI:
    """The gateway of a namespace, as an ASGI application; its state is ``app.state.door``.

    Args:
        url: of Redis.
        names: of the streams.
        config: of the gateway.
        gauges: further metrics to expose.

    Raises:
        TokensUnusable: the file of tokens cannot be used.
    """
    door = Door(url, names, config, version("abstream"))
    for gauge in gauges:
        door.measurements.registry.register(gauge)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with door.open():
            yield

    # Its documentation pages need nothing from elsewhere.
    app = FastAPIOffline(
        redoc_url=None,
        title="abstream",
        version=version("abstream"),
        description=DESCRIPTION,
        openapi_tags=_TAGS,
        lifespan=lifespan,
        license_info={"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
    )
    app.state.door = door
    for part in (abstracts, predictions, refusals, adapters, operations):
        app.include_router(part.router)
    _surround(app, door)
    document(app)
    return app


def _surround(app: FastAPI, door: Door) -> None:
    """Add the middleware, from the inside to the outside: even rejected requests are counted."""
    config = door.config
    app.add_middleware(BodyLimit, max_bytes=config.max_body_bytes)
    if config.tokens_file is None:
        app.add_middleware(OwnPagesOnly, origins=config.cors_origin)
    if config.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["Location", "Retry-After"],
        )
    answer_with_problems(app)
    app.add_middleware(Measured, measurements=door.measurements)
