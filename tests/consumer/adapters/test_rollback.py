"""An adapter that misbehaves on live abstracts is rolled back by one announcement, however many workers see it."""

import asyncio

import pytest
from abstream import Abstract
from abstream.consumer.engine import Classified
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.tasks import end
from abstream.schemas import AdapterRejected, AdapterUpdated
from abstream.schemas.announced import Announced
from abstream.schemas.streams import from_fields
from abstream.training.release import release
from structlog.testing import capture_logs

from ...conftest import wait_until
from .conftest import fleet_events


class Steady(FakeEngine):
    """Answers by the words alone, whatever the adapter; ``skew`` is added to the logit of the first label."""

    skew = 0.0

    def classify(self, batch):
        logits = [[list(row) for row in FakeEngine().classify([tokens]).logits[0]] for tokens in batch]
        for rows in logits:
            rows[0][0] += self.skew
        return Classified(self.model, [tuple(map(tuple, rows)) for rows in logits])


def load_engine(adapter):
    """An engine whose answers are skewed to Cancer for version 2."""
    engine = Steady(adapter=adapter)
    engine.skew = 100.0 if adapter.manifest.version == "2" else 0.0
    return engine


@pytest.fixture
async def flow(publisher):
    """Publish abstracts for as long as the test runs."""

    async def publish() -> None:
        for number in range(100_000):
            await publisher.publish_many(
                [(f"{number}-{of}", Abstract(title=f"{number} {of}", abstract="")) for of in range(8)]
            )

    flow = asyncio.create_task(publish())
    yield
    await end([flow])


async def announced(redis, streams) -> list[AdapterUpdated]:
    return [from_fields(fields) for _, fields in await redis.xrange(streams.output("adapters"))]


def serve(digest, *workers):
    return lambda: all(worker.engine.model.receipt.adapter_digest == digest for worker in workers)


async def test_workers_that_all_see_the_fault_roll_back_once(redis, streams, workers, make_adapter, tmp_path, flow):
    """To the adapter that was live before, not to one that was announced in between and rejected."""
    good, bad = make_adapter("1", probes=()), make_adapter("2", probes=())
    unfit = make_adapter("3", base_model={"id": "other", "revision": "7"})
    await release(redis, streams, good.path, tmp_path)
    async with (
        workers.following("one", load_engine=load_engine) as one,
        workers.following("two", load_engine=load_engine) as two,
    ):
        await wait_until(
            lambda: two.metrics.registry.get_sample_value("abstream_confidence_count", {"question": "cancer"})
        )
        seen = one.metrics.registry.get_sample_value
        await wait_until(lambda: (seen("abstream_confidence_count", {"question": "cancer"}) or 0) > 200)
        await release(redis, streams, unfit.path, tmp_path)
        await wait_until(lambda: _rejected_by_both(redis, streams), "two rejections")
        await release(redis, streams, bad.path, tmp_path)
        await wait_until(lambda: _rolled_back(redis, streams), "the rollback")
        await wait_until(serve(good.digest, one, two), "the good adapter")
        before = await redis.xlen(streams.predictions)
        await wait_until(lambda: _grew(redis, streams, before + 500), "answers after the rollback")

    *_, rollback = events = await announced(redis, streams)
    assert [event.data.action for event in events] == ["activate", "activate", "activate", "rollback"]
    assert rollback.data.digest == good.digest
    assert rollback.causationid == events[2].id
    assert "were answered Cancer" in rollback.data.reason
    assert serve(good.digest, one, two)()


async def test_there_is_no_rollback_without_a_previous_adapter(redis, streams, workers, make_adapter, tmp_path, flow):
    await release(redis, streams, make_adapter("2", probes=()).path, tmp_path)
    async with workers.following("one", load_engine=load_engine):
        await wait_until(lambda: _grew(redis, streams, 600), "answers")
    assert len(await announced(redis, streams)) == 1


async def test_the_first_adapter_stays_although_it_answers_unlike_the_base(
    redis, streams, workers, make_adapter, tmp_path, flow
):
    """No announcement says how to go back to the base. The worker follows the next one as before."""
    bad, good = make_adapter("2", probes=()), make_adapter("1", probes=())
    async with workers.following("one", load_engine=load_engine) as one:
        await wait_until(lambda: _grew(redis, streams, 300), "answers of the base")
        with capture_logs() as logs:
            await release(redis, streams, bad.path, tmp_path)
            await wait_until(lambda: any(line["event"] == "adapter_misbehaves" for line in logs), "the objection")
        await release(redis, streams, good.path, tmp_path)
        await wait_until(serve(good.digest, one), "the next adapter")

    assert [event.data.action for event in await announced(redis, streams)] == ["activate", "activate"]


async def test_an_objection_that_comes_after_the_next_adapter_rolls_nothing_back(
    redis, streams, workers, make_adapter, store
):
    worker = workers.new()
    registry = workers.registry(worker)
    adapters = [make_adapter(version) for version in "1234"]
    for adapter in adapters[:3]:
        released = await release(redis, streams, adapter.path, store)
        await registry.catch_up()
        if adapter is adapters[1]:
            replaced = Announced(released.entry_id, released.event)
    registry.guard.objections.put_nowait((replaced, "too many reviews"))
    following = asyncio.create_task(registry.follow())
    try:
        await wait_until(registry.guard.objections.empty, "the objection to be taken")
        await release(redis, streams, adapters[3].path, store)
        await wait_until(serve(adapters[3].digest, worker), "the next adapter")
    finally:
        await end([following])

    assert [event.data.action for event in await announced(redis, streams)] == ["activate"] * 4


async def _rolled_back(redis, streams) -> bool:
    return await redis.xlen(streams.output("adapters")) > 3


async def _rejected_by_both(redis, streams) -> bool:
    return len(await fleet_events(redis, streams, AdapterRejected)) == 2


async def _grew(redis, streams, count: int) -> bool:
    return await redis.xlen(streams.predictions) >= count
