"""A worker process follows the adapter stream, or is told not to."""

import asyncio

import pytest
from abstream.consumer.config import WorkerConfig
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.metrics import Metrics
from abstream.consumer.service import serve
from abstream.consumer.worker import PROBE
from abstream.training.release import release
from redis.exceptions import ResponseError

from ..conftest import PATIENCE_SECONDS, wait_until


@pytest.fixture
def serving(redis, streams):
    """Run a worker as its process would."""

    async def run(**options: bool) -> None:
        config = WorkerConfig(name="worker", burst=options.pop("burst", True))
        work = serve(redis, streams, config, lambda adapter: FakeEngine(adapter=adapter), Metrics("test"), **options)
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


async def test_where_the_stream_cannot_be_followed_the_worker_finishes_and_ends_in_the_error(
    serving, redis, streams, publisher, workers
):
    """Serving on in silence, it would miss every adapter to come."""
    running = asyncio.create_task(serving(burst=False))
    await publisher.publish(PROBE)
    await wait_until(lambda: redis.xlen(streams.predictions), "a first result")
    await redis.set(streams.output("adapters"), "somebody else's")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await running
    assert await workers.pending() == 0
