"""What a worker process does beyond answering: it follows adapters, warns of eviction and ends when it hangs."""

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
from abstream.consumer.upkeep import Upkeep
from abstream.consumer.worker import PROBE, Stuck
from abstream.schemas import Text
from abstream.training.release import release
from structlog.testing import capture_logs

from ..conftest import PATIENCE_SECONDS, has_length, wait_until

ENDLESS = Abstract(title="Endless", abstract="")
over = threading.Event()


@pytest.fixture
def serving(redis, streams):
    """A function that runs a worker as its process would."""

    async def run(**options: object) -> None:
        follow, make = options.pop("follow", True), options.pop("engine", FakeEngine)
        metrics, observers = options.pop("metrics", None) or Metrics("test"), options.pop("observers", ())
        config = WorkerConfig(name="worker", **{"burst": True, **options})
        work = serve(
            Shard(redis, streams),
            [Shard(redis, streams)],
            config,
            lambda adapter: make(adapter=adapter),
            metrics,
            follow=follow,
            observers=observers,
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


class Broken(FakeEngine):
    """Loads, and answers nothing."""

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        raise RuntimeError("out of order")


async def test_an_engine_that_answers_nothing_ends_the_worker_before_it_reads_anything(
    serving, redis, streams, publisher, workers
):
    """Or the delivery would count against the abstract."""
    await publisher.publish(PROBE)

    with pytest.raises(RuntimeError, match="out of order"):
        await serving(engine=Broken)

    assert (await workers.pending(), await redis.xlen(streams.refusals)) == (0, 0)


async def test_from_the_start_the_metrics_say_what_is_served_and_observers_see_every_batch(
    serving, publisher, make_adapter
):
    """Its own observers compare the answers with the headings that came along."""
    served, metrics, seen = make_adapter("7"), Metrics("test"), []
    await publisher.publish(PROBE.model_copy(update={"mesh": ("Breast Neoplasms",)}))

    observers = [lambda *batch: seen.append(batch)]
    await serving(engine=lambda **_: FakeEngine(adapter=served), metrics=metrics, observers=observers)

    value = metrics.registry.get_sample_value
    assert value("abstream_adapter_info", {"name": "oncology", "version": "7", "digest": served.digest}) == 1
    compared = [one for one in metrics.registry.collect() if one.name == "abstream_mesh_answers"]
    assert sum(sample.value for one in compared for sample in one.samples if sample.name.endswith("_total")) == 1
    assert len(seen) == 1


async def test_a_worker_that_has_left_leaves_signals_as_they_were(serving):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    await serving()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_while_the_adapter_stream_cannot_be_read_the_worker_serves_on_and_follows_once_it_can(
    serving, redis, streams, publisher, make_adapter, tmp_path
):
    """It logs the error and is not ready until somebody moves the key that is in the way."""
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


class Hanging(FakeEngine):
    """Hangs in ``classify`` on one abstract until the test is over."""

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        if self.encode(ENDLESS) in batch:
            over.wait()
        return super().classify(batch)


class Puzzled(FakeEngine):
    """Hangs in ``encode`` on the same abstract."""

    def encode(self, abstract: Text) -> Tokens:
        if abstract.title == ENDLESS.title:
            over.wait()
        return super().encode(abstract)


async def test_if_upkeep_fails_the_batch_at_work_is_finished_and_its_error_ends_the_worker(
    serving, redis, streams, publisher, workers, monkeypatch
):
    async def fail(_: object) -> None:
        await wait_until(workers.pending, "the batch")
        asyncio.get_running_loop().call_soon(over.set)
        raise RuntimeError("upkeep failed")

    over.clear()
    monkeypatch.setattr(Upkeep, "run", fail)
    await publisher.publish(ENDLESS)

    with pytest.raises(RuntimeError, match="upkeep failed"):
        await serving(engine=Hanging, burst=False)

    assert (await redis.xlen(streams.predictions), await workers.pending()) == (1, 0)


@pytest.mark.parametrize("engine", [Hanging, Puzzled])
async def test_an_abstract_that_hangs_ends_the_worker_and_is_handed_back_at_once(
    engine, serving, redis, streams, publisher, workers
):
    """Its delivery counts, so that in the end it is refused; the deliveries of the worker's other entries do not."""
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
async def test_a_redis_that_may_evict_is_warned_of_at_start(policy, warned, serving, redis):
    """Eviction removes whole streams, and a warning after that would come too late."""
    await redis.config_set("maxmemory-policy", policy)
    try:
        with capture_logs() as logs:
            await serving()
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")

    assert [said["policy"] for said in logs if said["event"] == "redis_may_evict"] == warned
