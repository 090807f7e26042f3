"""The gateway behaves as its OpenAPI document says, whatever requests schemathesis generates.

By default there are a few fixed examples; ``GATEWAY_FUZZ_EXAMPLES=1000`` tries more, and others each time.
"""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import abstream
import pytest
import requests
import schemathesis
import uvloop
from abstream.consumer.tasks import end
from abstream.producer.connection import connect
from abstream.producer.gateway.app import build
from abstream.producer.gateway.config import GatewayConfig
from abstream.producer.gateway.door import Door
from abstream.producer.gateway.serving import Server, settings
from abstream.schemas import Shards, Streams
from schemathesis.config import SchemathesisConfig

from ...conftest import PATIENCE_SECONDS, Workers, wait_until

DOCUMENT = Path(abstream.__file__).parent / "schemas/exported/openapi.json"
EXAMPLES = int(os.environ.get("GATEWAY_FUZZ_EXAMPLES", "0"))
TOKEN = "a-token-that-only-this-test-has"
# No schema can express all rules for an abstract: an id in one place, a title or a text, keys of Python's length.
MAY_BE_INVALID = {"expected-statuses": ["2xx", 401, 403, 404, 409, 415, 422, 429, "5xx"]}
KNOBS = {
    "seed": None if EXAMPLES else 1,
    "generation": {"max-examples": EXAMPLES or 5, "deterministic": not EXAMPLES, "database": "none"},
    "request-timeout": PATIENCE_SECONDS,
    "operations": [
        {"include-method": "POST", "checks": {"positive_data_acceptance": MAY_BE_INVALID}},
    ],
    "auth": {"openapi": {"token": {"bearer": TOKEN}}},
}
document = schemathesis.openapi.from_path(
    DOCUMENT, config=SchemathesisConfig.from_dict({name: knob for name, knob in KNOBS.items() if knob is not None})
)


@schemathesis.serializer("application/x-ndjson")
def as_it_is(_, value: bytes) -> bytes:
    return value


@asynccontextmanager
async def gateway(url: str, namespace: str, tokens: Path) -> AsyncIterator[str]:
    """The address of a gateway with a worker and some results, in which no stream goes on for ever."""
    app = build(url, Shards(namespace), GatewayConfig(tokens_file=tokens, max_wait_seconds=0.2))
    door: Door = app.state.door
    redis = connect(url)
    streams = Streams(namespace)
    with socket.create_server(("127.0.0.1", 0)) as own:
        server = Server(settings(app), door)
        serving = asyncio.create_task(server.serve(sockets=[own]))
        await wait_until(lambda: server.started and door.tail.newest is not None, "the gateway")
        ending = asyncio.create_task(end_streams(door))
        async with Workers(redis, streams).running():
            await redis.xadd(streams.lane("interactive"), {"event": "broken"})
            await redis.xadd(streams.lane("interactive"), {"title": "T"})
            for output in (streams.refusals, streams.predictions):
                await wait_until(lambda output=output: redis.exists(output), output)
            yield f"http://127.0.0.1:{own.getsockname()[1]}"
        server.should_exit = True
        await asyncio.wait_for(serving, PATIENCE_SECONDS)
        await end([ending])
    await redis.aclose()


async def end_streams(door: Door) -> None:
    while True:
        door.tail.end()
        await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def address(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway in a thread, on uvloop as in service; schemathesis is a client like any other."""
    loop, up, down = uvloop.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[str] = []
    tokens = tmp_path_factory.mktemp("gateway") / "tokens"
    tokens.write_text(f"fuzz {TOKEN}\n")

    async def live() -> None:
        async with gateway(server, f"test-{uuid4().hex}", tokens) as address:
            found.append(address)
            up.set()
            await down.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()))
    thread.start()
    assert up.wait(PATIENCE_SECONDS)
    yield found[0]
    loop.call_soon_threadsafe(down.set)
    thread.join(PATIENCE_SECONDS)
    loop.close()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@document.parametrize()
def test_an_answer_is_as_the_document_says(case: schemathesis.Case, address: str, session: requests.Session):
    case.call_and_validate(base_url=address, session=session)
