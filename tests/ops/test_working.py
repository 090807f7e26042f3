"""A worker process ends when it is told to, even while a batch hangs."""

import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator

import pytest
from abstream import Abstract
from abstream.ops.chaos.engine import HANGING_WORD

from ..conftest import wait_until

HANGING = Abstract(title="Endless", abstract=HANGING_WORD)


@pytest.fixture
def worker(server, namespace, tmp_path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """A function that starts ``abstream work`` with these options; its log is ``worker.log``."""
    started = []

    def start(*options: str) -> "subprocess.Popen[bytes]":
        common = ["--redis-url", server, "--namespace", namespace, "--log-format", "json"]
        work = ["work", "--engine", "chaos", "--lease-seconds", "600", *options]
        with (tmp_path / "worker.log").open("wb") as log:
            started.append(subprocess.Popen([sys.executable, "-m", "abstream.ops", *common, *work], stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def at_work(workers, tmp_path) -> Callable[[], Awaitable[None]]:
    """A function that waits until the worker computes."""

    async def has_read() -> bool:
        return "worker_ready" in (tmp_path / "worker.log").read_text() and await workers.pending() > 0

    return lambda: wait_until(has_read, "the batch")


async def ended(process: "subprocess.Popen[bytes]") -> int | None:
    await wait_until(lambda: process.poll() is not None, "the process's end")
    return process.returncode


async def test_a_batch_still_computed_when_the_drain_ends_is_handed_back(worker, at_work, redis, streams, publisher):
    await publisher.publish(HANGING)
    process = worker("--drain-seconds", "0.2")
    await at_work()

    process.send_signal(signal.SIGTERM)

    assert await ended(process) == 0
    [handed_back] = await redis.xpending_range(streams.lane("interactive"), "classifiers", "-", "+", 10, idle=600_000)
    assert handed_back["times_delivered"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_process_at_once(number, worker, at_work, publisher, tmp_path):
    await publisher.publish(HANGING)
    process = worker("--drain-seconds", "600")
    await at_work()

    process.send_signal(number)
    await wait_until(lambda: "worker_draining" in (tmp_path / "worker.log").read_text(), "the drain")
    assert process.poll() is None
    process.send_signal(number)

    assert await ended(process) == -number


async def test_a_hanging_batch_ends_the_process_with_an_error(worker, publisher):
    await publisher.publish(HANGING)

    assert await ended(worker("--batch-deadline-seconds", "0.1")) == 1
