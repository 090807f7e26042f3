"""The examples for other languages in ``schemas/README.md`` work as they are."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import abstream
import pytest
from abstream.ops.embedded import find_server

from ..conftest import PATIENCE_SECONDS, Workers
from ..documents import blocks

ROOT = Path(abstream.__file__).parent
PAGE = ROOT / "schemas" / "README.md"
NODE = ROOT / "tests" / "node"

needs_node = pytest.mark.skipif(
    not (shutil.which("node") and (NODE / "node_modules").is_dir()),
    reason="no Node with packages: npm install in tests/node",
)


@pytest.fixture
def namespace() -> str:
    return "abstream"


@pytest.fixture
def redis_cli(tmp_path, server) -> dict[str, str]:
    """An environment in which ``redis-cli`` connects to the tests' server."""
    real = shutil.which("redis-cli") or Path(find_server()).with_name("redis-cli")
    script = tmp_path / "redis-cli"
    script.write_text(f'#!/bin/sh\nexec {real} -s {server.removeprefix("unix://")} "$@"\n')
    script.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


@pytest.fixture
async def answered(redis, streams, workers) -> AsyncIterator[Workers]:
    """A worker that runs during the test, in a namespace that was empty before."""
    if left := [key async for key in redis.scan_iter("{abstream}:*")]:
        await redis.delete(*left)
    async with workers.running():
        yield workers


async def run(*command: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=NODE, env=os.environ | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.usefixtures("answered")
async def test_redis_cli_publishes_and_reads(redis_cli):
    plain, read, in_group, event = blocks(PAGE, "bash")
    await run("bash", "-c", plain, **redis_cli)
    assert '"causationid":"38048813"' in await run("bash", "-c", read, **redis_cli)
    assert '"causationid":"38048813"' in await run("bash", "-c", in_group, **redis_cli)
    await run("bash", "-c", event, **redis_cli)
    since_second = read.replace(" 0\n", " $LAST\n")
    last = (await run("bash", "-c", read, **redis_cli)).split()[1]
    assert '"causationid":"38048814"' in await run("bash", "-c", since_second, LAST=last, **redis_cli)


@needs_node
@pytest.mark.usefixtures("answered")
async def test_node_publishes_and_subscribes(server):
    publish, subscribe = blocks(PAGE, "js")
    await node(publish, server)
    printed = await node(subscribe, server, LAST_SEEN="0", WANTED="1")
    assert printed.split()[0] == "38048815"
    assert printed.split()[1] in {"Cancer", "Non-Cancer"}


async def node(script: str, url: str, **environment: str) -> str:
    return await run("node", "--input-type=module", "--eval", script, REDIS_URL=url, **environment)
