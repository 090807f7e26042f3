"""The examples of the README work as written, except for the addresses of Redis and the gateway."""

import asyncio
import json
import shutil
import sys
import textwrap
from contextlib import asynccontextmanager
from pathlib import Path

import abstream
import pytest
from abstream.ops.embedded import embedded_redis

from .conftest import PATIENCE_SECONDS
from .documents import blocks

README = Path(abstream.__file__).parent / "README.md"
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not here")


@pytest.fixture
def server():
    """A private server, since the README uses the default namespace."""
    with embedded_redis() as url:
        yield url


@pytest.fixture
def namespace() -> str:
    return "abstream"


@asynccontextmanager
async def process(*command: str):
    """Run a program while the block lasts, with its output piped."""
    started = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def line_with(stream: asyncio.StreamReader, wanted: str) -> str:
    """The first line that contains ``wanted``."""

    async def read() -> str:
        while line := (await stream.readline()).decode():
            if wanted in line:
                return line
        raise AssertionError(f"it ended without {wanted}")

    return await asyncio.wait_for(read(), PATIENCE_SECONDS)


def program(block: str, url: str) -> list[str]:
    """The command that runs a block of Python as a program, wrapped in a coroutine so that it can await."""
    assert "redis://localhost" in block
    body = textwrap.indent(block.replace("redis://localhost", url), "    ")
    return [sys.executable, "-u", "-c", f"import asyncio\n\nasync def main():\n{body}\n\nasyncio.run(main())"]


async def test_an_abstract_is_published_and_its_result_read(server, workers):
    publish, subscribe = blocks(README, "python")
    async with workers.running(), process(*program(subscribe, server)) as subscriber:
        async with process(*program(publish, server)) as publisher:
            assert await asyncio.wait_for(publisher.wait(), PATIENCE_SECONDS) == 0
        said = (await line_with(subscriber.stdout, "38048813")).split()
    assert said[1] in {"Cancer", "Non-Cancer"}
    assert 0 <= float(said[2]) <= 1


@asynccontextmanager
async def gateway(url: str):
    """The address of a running gateway."""
    command = [
        sys.executable,
        "-m",
        "abstream.ops",
        "--redis-url",
        url,
        "--log-format",
        "json",
        "gateway",
        "--port",
        "0",
    ]
    async with process(*command) as listening:
        yield json.loads(await line_with(listening.stderr, "gateway_listens"))["address"]


@needs_curl
async def test_the_session_with_curl(server, workers):
    session, stream = blocks(README, "bash")
    async with workers.running(), gateway(server) as address:
        host = address.removeprefix("http://")
        async with process("bash", "-ec", session.replace("localhost:8080", host)) as curls:
            out, err = await asyncio.wait_for(curls.communicate(), PATIENCE_SECONDS)
        assert curls.returncode == 0, err.decode()
        answers = [json.loads(one) for one in out.decode().replace("}{", "}\n{").splitlines()]
        assert [one.get("id") for one in answers[:2]] == ["38048813", "38048813"]
        assert answers[1]["status"] in {"queued", "done"}
        assert answers[2]["prediction"]["data"]["answers"]["cancer"]["label"] in {"Cancer", "Non-Cancer"}
        async with process("bash", "-c", f"exec {stream.replace('localhost:8080', host)}") as following:
            assert "38048813" in await line_with(following.stdout, "data: ")
