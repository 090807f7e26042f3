"""``abstream gateway`` as a process."""

import asyncio
import json
import sys

import httpx2
import pytest

from ..conftest import PATIENCE_SECONDS


@pytest.fixture
async def address(server, namespace):
    """The address of a running gateway."""
    command = ["--redis-url", server, "--namespace", namespace, "--log-format", "json", "gateway", "--port", "0"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "abstream.ops", *command, stderr=-1)
    try:
        said = await asyncio.wait_for(process.stderr.readline(), PATIENCE_SECONDS)
        yield json.loads(said)["address"]
    finally:
        process.terminate()
        await process.communicate()


async def test_the_backlog_is_exposed_while_no_worker_runs(address, redis, streams):
    """An autoscaler can then start the first worker when abstracts wait."""
    for lane in ("interactive", "bulk"):
        await redis.xgroup_create(streams.lane(lane), "classifiers", "0", mkstream=True)
    await redis.xadd(streams.lane("bulk"), {"title": "T"})
    async with httpx2.AsyncClient(base_url=address) as client:
        said = (await client.get("/metrics")).text
    assert 'abstream_stream_lag{lane="bulk"} 1.0' in said
    assert 'abstream_stream_pending{lane="bulk"} 0.0' in said
    assert 'abstream_oldest_unanswered_age_seconds{lane="interactive"} 0.0' in said
