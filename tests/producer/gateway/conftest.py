"""A gateway in the test's own process, and one that listens on a port."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx2
import pytest
import uvicorn
from abstream.producer.gateway.app import build
from abstream.producer.gateway.config import GatewayConfig
from abstream.producer.gateway.door import Door
from abstream.producer.gateway.serving import Server, settings
from abstream.schemas import Event, Lane, Shards, Streams
from abstream.schemas.streams import from_fields
from redis.asyncio import Redis

from ...conftest import PATIENCE_SECONDS, wait_until

TAMOXIFEN = {"title": "Tamoxifen", "abstract": "We followed 300 women with breast cancer.", "year": 2023}

Client = httpx2.AsyncClient
Gateway = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def names(namespace) -> Shards:
    """One shard, unless a test has others."""
    return Shards(namespace)


@pytest.fixture
def gateway(server, names) -> Gateway:
    """Creates gateways of the test's namespace; yields a client of each."""

    @asynccontextmanager
    async def make(**knobs: object) -> AsyncIterator[Client]:
        app = build(server, names, GatewayConfig(**knobs))
        async with app.router.lifespan_context(app):
            await wait_until(lambda: app.state.door.tail.newest is not None, "the reader to begin")
            transport = httpx2.ASGITransport(app=app)
            async with Client(transport=transport, base_url="http://127.0.0.1") as client:
                yield client

    return make


@pytest.fixture
async def client(gateway) -> AsyncIterator[Client]:
    """A client of a gateway with its defaults."""
    async with gateway() as client:
        yield client


def prediction_event(**ties: str) -> bytes:
    """A minimal prediction with these attributes, which are all that the gateway reads."""
    data = {"answers": {"cancer": {"label": "Cancer", "confidence": 1.0, "probabilities": {"Cancer": 1.0}}}}
    return json.dumps({"type": "abstream.abstract.classified.v1", "data": data, **ties}).encode()


class Listening:
    """A gateway on a port of its own, and its client."""

    def __init__(self, server: uvicorn.Server, door: Door, address: str) -> None:
        self.server = server
        self.door = door
        self.address = address
        self.client = Client(base_url=address, timeout=PATIENCE_SECONDS)


@pytest.fixture
def listening(server, names):
    """Creates gateways that listen on a port, for tests of streams and broken connections."""

    @asynccontextmanager
    async def make(**knobs: object) -> AsyncIterator[Listening]:
        app = build(server, names, GatewayConfig(**knobs))
        with socket.create_server(("127.0.0.1", 0)) as own:
            gateway = Server(settings(app), app.state.door)
            serving = asyncio.create_task(gateway.serve(sockets=[own]))
            await wait_until(lambda: gateway.started and app.state.door.tail.newest is not None, "the gateway")
            made = Listening(gateway, app.state.door, f"http://127.0.0.1:{own.getsockname()[1]}")
            async with made.client:
                yield made
                gateway.should_exit = True
                await asyncio.wait_for(serving, PATIENCE_SECONDS)

    return make


class Events:
    """What a stream of predictions has sent so far, and whether it has ended."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.data: list[str] = []
        self.comments = 0
        self.encoding: str | None = None
        self.ended = False

    async def read(self, response: httpx2.Response) -> None:
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                self.ids.append(value)
            elif name == "data":
                self.data.append(value)
            elif line.startswith(":"):
                self.comments += 1
        self.ended = True


@pytest.fixture
def following():
    """Follows a client's stream of predictions within the block."""

    @asynccontextmanager
    async def follow(client: Client, last: str | None = None, path: str = "/v1/predictions/stream", **headers: str):
        headers |= {"Last-Event-ID": last} if last else {}
        events = Events()
        async with client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200
            events.encoding = response.headers.get("content-encoding")
            reading = asyncio.create_task(events.read(response))
            try:
                yield events
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    return follow


@pytest.fixture
def publish_results(redis, streams):
    """Adds predictions to the stream as workers do, and returns their entry ids."""
    body = prediction_event(causationid="somebody's", causationsource="elsewhere")

    async def publish(count: int) -> list[str]:
        pipeline = redis.pipeline(transaction=False)
        for _ in range(count):
            pipeline.xadd(streams.predictions, {"event": body})
        return [entry_id.decode() for entry_id in await pipeline.execute()]

    return publish


async def waiting(redis: Redis, streams: Streams, lane: Lane = "interactive") -> list[Event]:
    """The events in a lane."""
    return [from_fields(fields) for _, fields in await redis.xrange(streams.lane(lane))]


async def documented_conflict(client: Client, method: str, path: str) -> dict[str, object]:
    """The example of a route's 409 problem in the OpenAPI document."""
    operation = (await client.get("/openapi.json")).json()["paths"][path][method]
    return operation["responses"]["409"]["content"]["application/problem+json"]["example"]
