"""Workers die, freeze, stop or are slow, and every abstract still has exactly one result."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from abstream import Abstract
from abstream.consumer.engine import Classified, Tokens
from abstream.consumer.engine.fake import FakeEngine

from ..conftest import has_length, numbered, wait_until


async def take_and_die(redis, streams, count: int, name: str = "dead") -> None:
    """Read as a worker that is never heard of again."""
    await redis.xreadgroup("classifiers", name, {streams.lane("interactive"): ">"}, count=count)


async def test_the_entries_of_a_dead_worker_are_answered_by_another(redis, streams, publisher, subscriber, workers):
    await publisher.publish_many(numbered(*range(5)))
    await workers.new().source.create_groups()
    await take_and_die(redis, streams, 3)

    async with workers.running(lease_seconds=0.2):
        await wait_until(lambda: is_empty(workers, streams, redis, results=5))

    results = [result async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    assert sorted(result.causationid for result in results) == ["0", "1", "2", "3", "4"]
    assert Counter(result.data.attempt for result in results) == {1: 2, 2: 3}


async def is_empty(workers, streams, redis, *, results: int) -> bool:
    """Whether at least ``results`` results are published and nothing is pending."""
    return await redis.xlen(streams.predictions) >= results and await workers.pending() == 0


class SlowEngine(FakeEngine):
    """Does not finish a batch before ``go`` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.computing = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._go = asyncio.Event()

    def go(self) -> None:
        self._go.set()

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        self._loop.call_soon_threadsafe(self.computing.set)
        asyncio.run_coroutine_threadsafe(self._go.wait(), self._loop).result()
        return super().classify(batch)


async def start_slow(workers, lease_seconds: float):
    """A worker that computes a batch until ``engine.go()`` is called, with its engine and its task."""
    engine = SlowEngine()
    worker = workers.new("slow", engine, lease_seconds=lease_seconds)
    await worker.source.create_groups()
    task = asyncio.create_task(worker.run())
    await engine.computing.wait()
    return worker, engine, task


async def test_two_workers_holding_one_abstract_publish_one_result(redis, streams, publisher, workers):
    """A worker froze, another took over and answered. When the first wakes up, its late result is dropped."""
    await publisher.publish_many(numbered(0))
    frozen, engine, task = await start_slow(workers, lease_seconds=3600)

    async with workers.running("quick", lease_seconds=0.1):  # so the frozen worker's lease has expired
        await wait_until(lambda: is_empty(workers, streams, redis, results=1))
    engine.go()
    await task

    assert await redis.xlen(streams.predictions) == 1
    assert frozen.metrics.registry.get_sample_value("abstream_commits_lost_total") == 1


async def test_a_slow_batch_keeps_its_lease(redis, streams, publisher, workers):
    """A batch may take longer than the lease, since its lease is renewed while it is computed."""
    await publisher.publish_many(numbered(*range(3)))
    _, engine, task = await start_slow(workers, lease_seconds=0.3)
    begun = asyncio.get_running_loop().time()

    async with workers.running("idle", lease_seconds=0.3) as idle:
        await wait_until(lambda: asyncio.get_running_loop().time() - begun > 1.0)
    engine.go()
    await task

    assert idle.metrics.registry.get_sample_value("abstream_redeliveries_total") == 0
    assert await redis.xlen(streams.predictions) == 3


async def test_an_entry_that_kills_its_workers_is_refused_after_max_deliveries(
    redis, streams, publisher, subscriber, workers
):
    await publisher.publish_many(numbered(0))
    await workers.new().source.create_groups()
    [[entry_id, _]] = await redis.xrange(streams.lane("interactive"))
    await take_and_die(redis, streams, 1)
    await redis.xclaim(streams.lane("interactive"), "classifiers", "dead too", 0, [entry_id], retrycount=3, idle=60_000)

    async with workers.running(max_deliveries=3, lease_seconds=0.2):
        await wait_until(lambda: redis.xlen(streams.refusals))

    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert refusal.data.reason == "max_deliveries"
    assert refusal.data.consumers == ("dead too", "worker")
    assert refusal.data.retryable
    assert refusal.causationid == "0"
    assert await workers.pending() == 0


class Deadly(FakeEngine):
    """Fails for good once it is given the word "poison", so that its worker dies."""

    def __init__(self) -> None:
        super().__init__()
        [self.poison] = self.encode(Abstract(title="poison", abstract="")).ids
        self.is_dead = False

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        self.is_dead = self.is_dead or any(self.poison in tokens.ids for tokens in batch)
        if self.is_dead:
            raise RuntimeError("dead")
        return super().classify(batch)


async def test_an_entry_that_kills_its_workers_takes_no_other_entry_with_it(
    redis, streams, publisher, subscriber, workers
):
    """Entries that were lost with it are tried again in ever smaller batches, and in the end alone."""
    await publisher.publish_many(
        [*numbered(*range(30)), ("poison", Abstract(title="poison", abstract="")), *numbered(*range(30, 60))]
    )
    await workers.new().source.create_groups()

    deaths = 0
    while not await is_empty(workers, streams, redis, results=60):
        worker = workers.new(f"{deaths}", Deadly(), burst=False, lease_seconds=0.1, max_deliveries=4)
        life = asyncio.create_task(worker.run())
        await wait_until(partial(is_over, life, workers, streams, redis))
        worker.source.stop()
        await asyncio.wait([life])
        deaths += life.exception() is not None

    results = [result async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert deaths == 4
    assert (refusal.causationid, refusal.data.reason, refusal.data.deliveries) == ("poison", "max_deliveries", 5)
    assert Counter(result.causationid for result in results) == {str(number): 1 for number in range(60)}
    assert max(result.data.attempt for result in results) == 4, "alone, at the latest"


async def is_over(life, workers, streams, redis) -> bool:
    """Whether the worker is dead, or all entries have ended."""
    return life.done() or await is_empty(workers, streams, redis, results=60)


async def test_pending_entries_that_were_trimmed_are_reported_as_refusals(
    redis, streams, publisher, subscriber, workers
):
    await publisher.publish_many(numbered(*range(2)))
    await workers.new().source.create_groups()
    await take_and_die(redis, streams, 2)
    await redis.xtrim(streams.lane("interactive"), maxlen=0, approximate=False)

    async with workers.running(lease_seconds=0.2):
        await wait_until(lambda: has_length(redis, streams.refusals, 2))

    reasons = [result.data.reason async for _, result in subscriber.refusals(since="0", until_idle=0.1)]
    assert reasons == ["trimmed", "trimmed"]
    assert await workers.pending() == 0


async def test_a_deleted_group_is_created_again_and_nothing_is_answered_twice(redis, streams, publisher, workers):
    """As after Redis came back empty, or somebody deleted the group."""
    await publisher.publish_many(numbered(*range(3)))
    async with workers.running():
        await wait_until(lambda: is_empty(workers, streams, redis, results=3))
        await redis.xgroup_destroy(streams.lane("interactive"), "classifiers")
        await publisher.publish_many([("new", Abstract(title="After", abstract=""))])
        await wait_until(lambda: has_length(redis, streams.predictions, 4))

    assert await redis.xlen(streams.predictions) == 4
    assert await workers.pending() == 0


def start_worker(server: str, namespace: str, log: Path, *options: str) -> "subprocess.Popen[bytes]":
    with log.open("wb") as stderr:
        common = ["--redis-url", server, "--namespace", namespace, "--log-format", "json"]
        work = ["work", "--engine", "fake", "--name", "worker", *options]
        return subprocess.Popen([sys.executable, "-m", "abstream.ops", *common, *work], stderr=stderr)


async def test_at_sigterm_a_worker_finishes_its_batch_and_hands_back_the_rest(
    server, namespace, redis, streams, publisher, workers, tmp_path
):
    """It exits with 0, and others can take what it had read and not answered at once, without waiting for a lease."""
    log = tmp_path / "worker.log"
    process = start_worker(server, namespace, log)
    try:
        await wait_until(lambda: "worker_ready" in log.read_text(), "the worker")
        await publisher.publish_many(numbered(*range(500)))
        await wait_until(lambda: redis.xlen(streams.predictions), "a first result")

        process.send_signal(signal.SIGTERM)
        await wait_until(lambda: process.poll() is not None, "the worker's end")
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0
    async with workers.running("heir", lease_seconds=600):
        await wait_until(lambda: is_empty(workers, streams, redis, results=500), "what was handed back")
    handed_back = await redis.xrange(streams.predictions)
    assert all(json.loads(fields[b"event"])["data"]["attempt"] == 1 for _, fields in handed_back)


async def test_sigkill_loses_nothing(server, namespace, redis, streams, publisher, subscriber, workers, tmp_path):
    log = tmp_path / "worker.log"
    process = start_worker(server, namespace, log)
    await wait_until(lambda: "worker_ready" in log.read_text(), "the worker")
    await publisher.publish_many(numbered(*range(500)))
    await wait_until(lambda: redis.xlen(streams.predictions), "a first result")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    async with workers.running("survivor", lease_seconds=0.2):
        await wait_until(lambda: is_empty(workers, streams, redis, results=500))

    results = Counter([result.causationid async for _, result in subscriber.predictions(since="0", until_idle=0.1)])
    assert results == {str(number): 1 for number in range(500)}


async def test_no_log_line_contains_a_text(server, namespace, redis, streams, publisher, tmp_path):
    log = tmp_path / "worker.log"
    await publisher.publish(Abstract(title="Unmistakable title", abstract="Unmistakable text"))
    await redis.xadd(streams.lane("interactive"), {"event": json.dumps({"type": "Unmistakable text"})})
    process = start_worker(server, namespace, log, "--burst")
    await wait_until(lambda: process.poll() is not None, "the worker's end")

    assert process.returncode == 0
    assert await redis.xlen(streams.predictions) == await redis.xlen(streams.refusals) == 1
    assert "Unmistakable" not in log.read_text()
