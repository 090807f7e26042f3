"""The commands of the compose file work together as they are written there."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import abstream
import httpx2
import yaml

from ..conftest import PATIENCE_SECONDS

SERVICES = yaml.safe_load((Path(abstream.__file__).parent / "docker-compose.yml").read_text())["services"]
TOKEN = "a-token-for-this-test-alone"


@asynccontextmanager
async def running(service: str, environment: dict[str, str], **instead: str) -> AsyncIterator[Process]:
    """Run a service of the compose file with some options replaced; it must exit cleanly when it is stopped."""
    command = list(SERVICES[service]["command"])
    for option, value in instead.items():
        command[command.index(f"--{option.replace('_', '-')}") + 1] = value
    own = SERVICES[service]["environment"] | environment
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "abstream.ops", *command, stderr=-1, env=own)
    try:
        yield process
    finally:
        process.terminate()
        _, rest = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 0, rest.decode()


async def said(process: Process, event: str) -> dict[str, str]:
    """The first line of its log with this event."""
    async for line in process.stderr:
        if (fields := json.loads(line))["event"] == event:
            return fields
    raise AssertionError(f"it ended before {event}")


async def test_an_abstract_posted_to_the_gateway_is_answered_by_the_worker(server, namespace, tmp_path):
    (tmp_path / "tokens").write_text(f"clinic {TOKEN}\n")
    environment = os.environ | {"REDIS_URL": server, "ABSTREAM_NAMESPACE": namespace, "HOME": str(tmp_path)}
    async with (
        running("worker-cpu", environment, metrics_port="0") as worker,
        running("gateway", environment, port="0", tokens_file=str(tmp_path / "tokens")) as gateway,
    ):
        port = (await said(gateway, "gateway_listens"))["address"].rpartition(":")[2]
        await said(worker, "worker_ready")
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client:
            body = {"title": "Tamoxifen in breast cancer", "abstract": "We followed 40 patients with breast cancer."}
            refused = await client.post("/v1/classify", json=body)
            answer = await client.post("/v1/classify", json=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert refused.status_code == 401
    assert answer.json()["prediction"]["data"]["answers"]["cancer"]["label"] in ("Cancer", "Non-Cancer")
