"""Two lanes: bulk work uses the capacity that interactive work leaves free, however much is queued."""

import asyncio
from collections.abc import Sequence

from abstream import Abstract
from abstream.consumer.engine import Classified, Tokens
from abstream.consumer.engine.fake import FakeEngine

from ..conftest import wait_until

URGENT = Abstract(title="Urgent", abstract="")


class StepEngine(FakeEngine):
    """Computes one batch for each call of ``step``."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Sequence[Tokens]] = []
        self._loop = asyncio.get_running_loop()
        self._steps = asyncio.Semaphore(0)

    def step(self) -> None:
        self._steps.release()

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        self.batches.append(batch)
        asyncio.run_coroutine_threadsafe(self._steps.acquire(), self._loop).result()
        return super().classify(batch)


def numbered(name: str, count: int) -> list[tuple[str, Abstract]]:
    return [(f"{name} {number}", Abstract(title=f"{name} {number}", abstract="")) for number in range(count)]


async def test_an_urgent_abstract_waits_only_for_the_batch_being_computed(redis, streams, publisher, workers):
    await publisher.publish_many(numbered("bulk", 500), lane="bulk")
    engine = StepEngine()

    async with workers.running(engine=engine, max_batch_tokens=20) as worker:
        await wait_until(lambda: len(engine.batches) == 1)
        await publisher.publish(URGENT)
        await wait_until(lambda: worker.ready.stands("interactive"))
        engine.step()
        await wait_until(lambda: len(engine.batches) == 2)
        worker.leave()
        engine.step()

    at_work, after = engine.batches
    assert len(at_work) < 20, "of five hundred"
    assert engine.encode(URGENT) in after


async def test_bulk_work_is_done_when_there_is_no_interactive_work(redis, streams, publisher, workers):
    await publisher.publish_many(numbered("bulk", 500), lane="bulk")

    await workers.burst()

    assert await redis.xlen(streams.predictions) == 500
    assert await workers.pending() == 0


async def test_a_worker_holds_a_bounded_number_of_entries_whatever_the_backlog(redis, streams, publisher, workers):
    for lane in ("bulk", "interactive"):
        await publisher.publish_many(numbered(lane, 1_000), lane=lane)
    engine = StepEngine()

    async with workers.running(engine=engine, read_count=16, max_batch_tokens=32) as worker:
        await wait_until(lambda: engine.batches)
        await wait_until(lambda: worker.ready.stands("interactive"))
        assert await workers.pending() <= 4 * 16
        worker.leave()
        engine.step()


async def test_entries_with_the_same_id_in_two_lanes_are_two_abstracts(redis, streams, workers):
    """Typed at redis-cli they have no id of their own, and an entry id is unique only within its lane."""
    for lane in ("interactive", "bulk"):
        await redis.xadd(streams.lane(lane), {"title": lane}, id="1000-0")

    await workers.burst()

    assert await redis.xlen(streams.predictions) == 2
