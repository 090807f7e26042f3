"""A worker's health as its own loop reports it: over its whole life, and while a part of it hangs."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from abstream import Abstract, Publisher
from abstream.consumer.config import WorkerConfig
from abstream.consumer.engine import Classified, Tokens
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.health import STALL_SECONDS, Health
from abstream.consumer.metrics import Metrics
from abstream.consumer.service import serve
from abstream.consumer.shards import Shard
from abstream.consumer.worker import PROBE
from abstream.ops.chaos.servers import Server
from abstream.schemas import Shards, Text
from abstream.schemas.streams import GROUP

from ..conftest import PATIENCE_SECONDS, wait_until

HEAVY = Abstract(title="Heavy", abstract="")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Hanging(FakeEngine):
    """On one abstract, the step named ``hangs`` blocks until ``over`` is set."""

    def __init__(self, hangs: str) -> None:
        super().__init__()
        self.hangs = hangs
        self.begun, self.over = threading.Event(), threading.Event()

    def encode(self, abstract: Text) -> Tokens:
        if self.hangs == "encode" and abstract.title == HEAVY.title:
            self._hang()
        return super().encode(abstract)

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        if self.hangs == "classify" and FakeEngine.encode(self, HEAVY) in batch:
            self._hang()
        return super().classify(batch)

    def _hang(self) -> None:
        self.begun.set()
        assert self.over.wait(PATIENCE_SECONDS)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock) -> Health:
    return Health(300, clock)


@pytest.fixture
def service(redis, streams, health) -> Callable[[Hanging], object]:
    """Run a worker while the block lasts, then end it with SIGTERM as a process is ended."""

    @asynccontextmanager
    async def run(engine: Hanging, *shards: Shard) -> AsyncIterator[None]:
        config = WorkerConfig(name="worker", drain_seconds=2)
        work = serve(
            Shard(redis, streams),
            shards or [Shard(redis, streams)],
            config,
            lambda _: engine,
            Metrics("test", health),
            follow=False,
        )
        task = asyncio.create_task(work)
        try:
            await wait_until(lambda: task.done() or is_ready(health), "the worker to be ready")
            yield
        finally:
            engine.over.set()
            if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # it has a handler, and was not signalled yet
                signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(task, PATIENCE_SECONDS)

    return run


def is_ready(health: Health) -> bool:
    return all(check.ok for check in health.checks().values())


def is_draining(health: Health) -> bool:
    return not health.checks()["intake"].ok


async def test_a_worker_is_ready_before_its_first_abstract_and_not_ready_after_sigterm(
    service, health, publisher, redis, streams
):
    engine = Hanging("classify")
    async with service(engine):
        await publisher.publish(HEAVY)
        await wait_until(engine.begun.is_set, "the batch")
        signal.raise_signal(signal.SIGTERM)
        await wait_until(lambda: is_draining(health), "the drain")
        assert health.wedged() is None
        engine.over.set()
    assert await redis.xlen(streams.predictions) == 1


async def test_every_step_of_the_loop_makes_progress_also_without_work(service, health, clock):
    async with service(Hanging("never")):
        for _ in range(3):
            clock.now += STALL_SECONDS + 1
            await wait_until(lambda: health.wedged() is None, "all steps to come round")


async def test_a_batch_may_take_as_long_as_its_deadline(service, health, clock, publisher):
    engine = Hanging("classify")
    async with service(engine):
        await publisher.publish(HEAVY)
        await wait_until(engine.begun.is_set, "the batch")
        clock.now += 300
        assert health.wedged() is None
        clock.now += 1
        assert health.wedged() == "a batch has been computed for 301 s"
        engine.over.set()
        await wait_until(lambda: health.wedged() is None, "the end of the batch")


@pytest.mark.parametrize("step", ["interactive", "take-over"])
async def test_a_hanging_step_is_named_although_the_others_make_progress(
    step, service, health, clock, publisher, redis, streams
):
    engine, lane = Hanging("encode"), streams.lane("interactive")
    await publisher.publish(HEAVY)
    if step == "take-over":
        await redis.xgroup_create(lane, GROUP, id="0")
        [(_, [(entry_id, _)])] = await redis.xreadgroup(GROUP, "gone", {lane: ">"})
        await redis.xclaim(lane, GROUP, "gone", 0, [entry_id], idle=3_600_000, justid=True)
    async with service(engine):
        await wait_until(engine.begun.is_set, "the abstract")
        await publisher.publish(PROBE, lane="bulk")
        await wait_until(lambda: redis.xlen(streams.predictions), "the other lane's answer")
        clock.now += STALL_SECONDS + 1
        await wait_until(lambda: (health.wedged() or "").startswith(f"{step} has not"), "the stall to be named")
        engine.over.set()
        await wait_until(lambda: health.wedged() is None, "the step to come round")


async def test_a_shard_that_is_away_does_not_hide_another_that_hangs(service, health, clock, server, redis, namespace):
    engine, names = Hanging("encode"), Shards(namespace, 2)
    identity = next(name for name in map(str, range(100)) if names.of(name) == 1)
    async with Publisher(server, namespace=namespace, shards=2) as publisher:
        await publisher.publish(HEAVY, id=identity)
    async with Server() as other, service(engine, Shard(other.redis, names.all[0]), Shard(redis, names.all[1])):
        await wait_until(engine.begun.is_set, "the abstract")
        other.kill()
        await wait_until(lambda: not health.checks()["redis"].ok, "the shard to be missed")
        assert health.checks()["redis"].state.startswith("shard 0 away")
        clock.now += STALL_SECONDS + 1
        await wait_until(lambda: (health.wedged() or "").startswith("interactive of shard 1"), "the stall to be named")
        engine.over.set()
        await wait_until(lambda: health.wedged() is None, "the step to come round")
