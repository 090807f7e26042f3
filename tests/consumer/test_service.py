"""A worker process follows the adapter stream, or is told not to."""

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from functools import partial

import pytest
from abstream import Abstract
from abstream.consumer.config import WorkerConfig
from abstream.consumer.engine import Classified, Tokens
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.metrics import Metrics
from abstream.consumer.service import serve
from abstream.consumer.shards import Shard
from abstream.consumer.worker import PROBE, Stuck
from abstream.schemas import Text
from abstream.training.release import release
from structlog.testing import capture_logs

from ..conftest import PATIENCE_SECONDS, wait_until

ENDLESS = Abstract(title="Endless", abstract="")
over = threading.Event()


@pytest.fixture
def serving(redis, streams):
    """Run a worker as its process would."""

    async def run(**options: object) -> None:
        follow, make = options.pop("follow", True), options.pop("engine", FakeEngine)
        config = WorkerConfig(name="worker", **{"burst": True, **options})
        work = serve(
            Shard(redis, streams),
            [Shard(redis, streams)],
            config,
            lambda adapter: make(adapter=adapter),
            Metrics("test"),
            follow=follow,
        )
        await asyncio.wait_for(work, PATIENCE_SECONDS)

    return run


@pytest.mark.parametrize("follow", [True, False])
async def test_the_first_abstract_is_answered_by_the_newest_adapter_or_the_one_that_was_given(
    follow, serving, redis, streams, publisher, subscriber, make_adapter, tmp_path
):
    adapter = make_adapter()
    await release(redis, streams, adapter.path, tmp_path / "store")
    await publisher.publish(PROBE)

    await serving(follow=follow)

    [(_, result)] = [entry async for entry in subscriber.predictions(since="0", until_idle=0.1)]
    assert result.data.model.adapter_digest == (adapter.digest if follow else None)
    assert await redis.xlen(streams.output("fleet")) == follow


async def test_where_the_stream_cannot_be_followed_the_worker_serves_on_and_follows_once_it_can(
    serving, redis, streams, publisher, make_adapter, tmp_path
):
    """It says so in its log and is not ready: a person must move the key that is in the way."""
    adapter = make_adapter()
    with capture_logs() as lines:
        running = asyncio.create_task(serving(burst=False))
        await publisher.publish(PROBE)
        await wait_until(lambda: redis.xlen(streams.predictions), "a first result")
        await redis.set(streams.output("adapters"), "somebody else's")
        await wait_until(lambda: any("WRONGTYPE" in line.get("says", "") for line in lines), "a warning")
        await publisher.publish(ENDLESS)
        await wait_until(partial(has_length, redis, streams.predictions, 2), "a second result")
        await redis.delete(streams.output("adapters"))
        await release(redis, streams, adapter.path, tmp_path / "store")
        await wait_until(lambda: redis.xlen(streams.output("fleet")), "the switch")

    os.kill(os.getpid(), signal.SIGTERM)
    await running


async def has_length(redis, stream: str, length: int) -> bool:
    return await redis.xlen(stream) == length


class Hanging(FakeEngine):
    """Does not come to an end with one abstract until the test is over."""

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        if self.encode(ENDLESS) in batch:
            over.wait()
        return super().classify(batch)


class Puzzled(FakeEngine):
    """The same, in tokenizing it."""

    def encode(self, abstract: Text) -> Tokens:
        if abstract.title == ENDLESS.title:
            over.wait()
        return super().encode(abstract)


@pytest.mark.parametrize("engine", [Hanging, Puzzled])
async def test_an_abstract_that_does_not_end_takes_the_worker_down_and_is_given_back_at_once(
    engine, serving, redis, streams, publisher, workers
):
    """Its delivery counts, so that in the end it is refused; nothing else that was in hand is held against it."""
    over.clear()
    await publisher.publish(ENDLESS)
    try:
        with pytest.raises(Stuck, match=r"1 abstracts took more than 0\.2 s"):
            await serving(engine=engine, batch_deadline_seconds=0.2)
    finally:
        over.set()

    [held] = await redis.xpending_range(streams.lane("interactive"), "classifiers", "-", "+", 10, idle=600_000)
    assert held["times_delivered"] == 1


@pytest.mark.parametrize(("policy", "warned"), [("noeviction", []), ("allkeys-lru", ["allkeys-lru"])])
async def test_a_redis_that_may_evict_is_told_of_at_the_start(policy, warned, serving, redis):
    """Whole streams would vanish, and a log that says so after that comes too late."""
    await redis.config_set("maxmemory-policy", policy)
    try:
        with capture_logs() as logs:
            await serving()
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")

    assert [said["policy"] for said in logs if said["event"] == "redis_may_evict"] == warned
