"""A worker that is stopped while its Redis is away does not wait for long, and loses and repeats nothing."""

import asyncio
import signal
import time

import pytest
from abstream import Abstract
from abstream.consumer import service
from abstream.consumer.config import WorkerConfig
from abstream.consumer.health import Health
from abstream.consumer.metrics import Metrics
from abstream.consumer.service import serve
from abstream.consumer.shards import Shard

from ..conftest import PATIENCE_SECONDS, PrivateRedis, Workers, wait_until
from ..story.test_3_nothing_is_lost_nothing_is_repeated import SlowEngine

LONG_SECONDS = 4 * PATIENCE_SECONDS  # no test waits for that


@pytest.fixture
def server(private_redis: PrivateRedis) -> str:
    return private_redis.url


class Ready(SlowEngine):
    """Answers at once, as it must the first probe, until ``hold`` is called; then not before ``go``."""

    def __init__(self) -> None:
        super().__init__()
        self.go()

    def hold(self) -> None:
        self.computing.clear()
        self._go.clear()


@pytest.fixture
async def engine() -> Ready:
    return Ready()


@pytest.fixture
async def health() -> Health:
    return Health()


@pytest.fixture
async def serving(redis, streams, engine, health) -> "asyncio.Task[None]":
    """The task of a ready worker, served as in a process of its own."""
    shard, config = Shard(redis, streams), WorkerConfig(name="worker", drain_seconds=LONG_SECONDS)
    task = asyncio.create_task(serve(shard, [shard], config, lambda _: engine, Metrics("test", health), follow=False))
    await wait_until(lambda: task.done() or all(check.ok for check in health.checks().values()), "the worker")
    engine.hold()
    return task


async def lose_redis_before_the_commit(engine: Ready, health: Health, private_redis: PrivateRedis, publisher) -> None:
    """Return once two abstracts are answered, but not committed since Redis is away."""
    await publisher.publish_many([(id_, Abstract(title=id_, abstract="")) for id_ in ("1", "2")])
    await engine.computing.wait()
    private_redis.stop()
    engine.go()
    await wait_until(health.away, "the loss of Redis")


@pytest.mark.parametrize("away_seconds", [0.0, 0.3])
async def test_answers_that_cannot_be_committed_are_soon_left_to_other_workers(
    away_seconds, engine, health, serving, private_redis, redis, streams, publisher, workers: Workers, monkeypatch
):
    monkeypatch.setattr(service, "_AWAY_SECONDS", away_seconds)
    await lose_redis_before_the_commit(engine, health, private_redis, publisher)

    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(serving, PATIENCE_SECONDS)

    private_redis.start()
    assert await redis.xlen(streams.predictions) == 0
    await workers.burst("heir", lease_seconds=0.001)
    assert (await workers.pending(), await redis.xlen(streams.predictions)) == (0, 2)


async def test_the_answers_are_committed_if_redis_comes_back_in_time(
    engine, health, serving, private_redis, redis, streams, publisher, workers: Workers, monkeypatch
):
    monkeypatch.setattr(service, "_AWAY_SECONDS", LONG_SECONDS)
    await lose_redis_before_the_commit(engine, health, private_redis, publisher)

    signal.raise_signal(signal.SIGTERM)
    private_redis.start()
    await asyncio.wait_for(serving, PATIENCE_SECONDS)

    assert (await workers.pending(), await redis.xlen(streams.predictions)) == (0, 2)


async def test_a_redis_that_stops_answering_is_not_waited_for_until_the_client_times_out(
    engine, health, serving, private_redis, publisher, monkeypatch
):
    monkeypatch.setattr(service, "_AWAY_SECONDS", 0.3)
    monkeypatch.setattr(service, "_HAND_BACK_SECONDS", 0.3)
    await publisher.publish(Abstract(title="1", abstract=""))
    await engine.computing.wait()
    private_redis.freeze()

    signal.raise_signal(signal.SIGTERM)
    engine.go()
    await asyncio.wait_for(serving, PATIENCE_SECONDS)

    assert not health.away()


async def test_a_worker_that_holds_nothing_does_not_wait_for_a_redis_that_is_away(
    health, serving, private_redis, monkeypatch
):
    monkeypatch.setattr(service, "_AWAY_SECONDS", 0.3)
    private_redis.stop()
    await wait_until(health.away, "the loss of Redis")

    begun = time.monotonic()
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(serving, PATIENCE_SECONDS)

    assert time.monotonic() - begun < LONG_SECONDS / 4
