"""One command runs several workers: each is restarted when it fails; one signal stops, one port shows them all."""

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from abstream import Abstract
from abstream.ops.replicas import LARGE_PAGES, Replica, Supervisor, this_command
from abstream.training.release import release
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from ..conftest import PATIENCE_SECONDS, has_length, wait_until

RUNS_FOR_EVER = "import signal; signal.pause()"


@dataclass
class Fleet:
    """A supervisor's process with its log."""

    process: asyncio.subprocess.Process
    port: int

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def values(self, name: str) -> dict[str, float]:
        """Map replica -> value of a metric, summed over its other labels."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == name:
                    found[sample.labels["replica"]] = found.get(sample.labels["replica"], 0) + sample.value
        return found

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200


@asynccontextmanager
async def fleet(url: str, namespace: str, *flags: str) -> AsyncIterator[Fleet]:
    common = ("--redis-url", url, "--namespace", namespace, "--log-format", "json")
    command = (sys.executable, "-m", "abstream.ops", *common, "work", "--engine", "fake", "--metrics-port", "0", *flags)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    while b"metrics_served" not in (line := await process.stderr.readline()):
        assert line, "the supervisor ended"
    reading = asyncio.create_task(process.stderr.read())  # else a full pipe would block the workers
    try:
        yield Fleet(process, json.loads(line)["port"])
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)
        await reading


async def test_two_replicas_share_the_work_and_a_killed_one_is_restarted(server, namespace, redis, streams, publisher):
    async with fleet(server, namespace, "--replicas", "2", "--read-count", "1") as workers:
        await wait_until(workers.ready, "both replicas")
        for number in range(40):
            await publisher.publish(Abstract(abstract=f"Text {number}."), id=str(number))
        await wait_until(lambda: has_length(redis, streams.predictions, 40), "the answers")
        received = workers.values("abstream_abstracts_received_total")
        assert received.keys() == {"0", "1"}
        assert sum(received.values()) == 40
        assert workers.values("abstream_replica_up") == {"0": 1, "1": 1}

        os.kill(children(workers.process.pid)[0], signal.SIGKILL)
        await wait_until(lambda: sum(workers.values("abstream_replica_starts_total").values()) == 3, "the new start")
        await wait_until(workers.ready, "the one that was started again")

        workers.process.terminate()
        assert await asyncio.wait_for(workers.process.wait(), PATIENCE_SECONDS) == 0
    assert children(workers.process.pid) == []


@pytest.mark.skipif(sys.platform != "linux", reason="weights are shared on Linux only")
async def test_replicas_share_the_memory_of_each_adapter_and_release_the_previous_one(
    server, namespace, redis, streams, make_nano_adapter, tmp_path
):
    flags = ("--engine", "torch", "--replicas", "2", "--adapter-cache", str(tmp_path / "copies"))
    async with fleet(server, namespace, *flags) as workers:
        await wait_until(workers.ready, "both replicas")
        one, other = children(workers.process.pid)
        before = shared(one)
        assert before == shared(other) != set()

        await release(redis, streams, make_nano_adapter().path, tmp_path / "store")
        await wait_until(lambda: set(workers.values("abstream_adapter_switches_total").values()) == {1}, "the switch")
        await wait_until(lambda: shared(one) == shared(other) and not shared(one) <= before, "the new one alone")
        assert len(shared(one)) == len(before)


def shared(pid: int) -> set[str]:
    """The inodes of the weights in shared memory that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:abstream-weights" in line}


def children(pid: int) -> list[int]:
    """The child processes of ``pid``."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


async def test_a_burst_ends_when_every_replica_has(server, namespace):
    async with fleet(server, namespace, "--replicas", "2", "--burst") as workers:
        assert await asyncio.wait_for(workers.process.wait(), PATIENCE_SECONDS) == 0


def replica(script: str) -> Replica:
    return Replica(0, [sys.executable, "-c", script], {})


def fails_twice(count: Path) -> Replica:
    """A replica that ends well at its third start; ``count`` is a file in which it counts them."""
    return replica(
        f"open({str(count)!r}, 'a').write('x'); raise SystemExit(5 if len(open({str(count)!r}).read()) < 3 else 0)"
    )


async def test_a_replica_with_a_usage_error_is_not_restarted():
    one = replica("raise SystemExit(2)")
    assert await Supervisor([one]).run() == 2
    assert one.starts == 1


async def test_a_replica_that_fails_is_restarted_and_its_last_exit_code_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("abstream.ops.replicas.FIRST_PAUSE_SECONDS", 0.01)
    one = fails_twice(tmp_path / "count")
    assert await Supervisor([one]).run() == 0
    assert one.starts == 3


@pytest.mark.parametrize(
    ("well_after_seconds", "pauses"),
    [pytest.param(60.0, [0.01, 0.02], id="soon"), pytest.param(0.0, [0.01, 0.01], id="after it ran well")],
)
async def test_the_pause_before_a_restart_doubles_if_a_replica_fails_again(
    tmp_path, monkeypatch, well_after_seconds, pauses
):
    monkeypatch.setattr("abstream.ops.replicas.FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("abstream.ops.replicas.WELL_AFTER_SECONDS", well_after_seconds)
    with capture_logs() as logs:
        await Supervisor([fails_twice(tmp_path / "count")]).run()
    assert [line["seconds"] for line in logs if line["event"] == "replica_pauses"] == pauses


async def test_a_stop_ends_the_pause_before_a_restart(monkeypatch):
    monkeypatch.setattr("abstream.ops.replicas.FIRST_PAUSE_SECONDS", 3600.0)
    one = replica("raise SystemExit(5)")
    supervisor = Supervisor([one])
    running = asyncio.create_task(supervisor.run())
    await wait_until(lambda: one.starts == 1 and not one.running(), "the failure")
    supervisor.stop()
    assert await asyncio.wait_for(running, PATIENCE_SECONDS) == 5


async def test_a_stop_before_the_replica_handles_signals_ends_it_too():
    one = replica(RUNS_FOR_EVER)
    supervisor = Supervisor([one])
    running = asyncio.create_task(supervisor.run())
    await asyncio.sleep(0)
    supervisor.stop()
    assert await asyncio.wait_for(running, PATIENCE_SECONDS) == 0


@pytest.mark.parametrize(
    ("count", "device", "threads", "given"), [(2, "cpu", 4, "--threads=4"), (10**6, "cpu", None, "--threads=1")]
)
def test_on_cpus_each_replica_gets_its_share_of_the_threads(count, device, threads, given):
    command, environments = this_command(count, device, threads)
    assert command[-1] == given
    assert environments == [LARGE_PAGES]


def test_settings_of_the_allocator_that_an_operator_made_stay(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert this_command(2, "cpu", 1)[1] == [{}]


def test_the_image_asks_for_large_pages_as_well():
    image = (Path(__file__).parents[2] / "ops/docker/Dockerfile").read_text()
    assert [f"{name}={value}" in image for name, value in LARGE_PAGES.items()] == [True]


@pytest.mark.parametrize("says", ["No devices were found", "NVIDIA-SMI has failed\nMake sure that the driver is there"])
def test_nvidia_smi_without_a_gpu_counts_as_no_gpu(monkeypatch, tmp_path, says):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{says}'\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert this_command(2, "auto", 1)[1] == [LARGE_PAGES]


def test_hidden_gpus_count_as_no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert this_command(2, "auto", 1)[1] == [LARGE_PAGES]


def test_on_gpus_each_replica_sees_one_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    _, environments = this_command(2, "auto", None)
    assert environments == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}]
