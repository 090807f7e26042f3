"""Every worker reads the adapter stream for itself; true of a real server and of its stand-in."""

import asyncio

import pytest
from abstream.consumer.adapters.watch import MOST_UPDATES, Watch
from abstream.consumer.metrics import Metrics
from abstream.consumer.tasks import end
from abstream.schemas import AdapterUpdated
from abstream.schemas.streams import to_fields
from abstream.training.release import describe

from ...conftest import wait_until


@pytest.fixture
def announce(either_redis, streams, make_adapter):
    """Puts an update with this id into the stream."""
    update = describe(make_adapter(), None, "activate")

    async def announce(*ids: str) -> None:
        for id_ in ids:
            event = AdapterUpdated(id=id_, source="test", data=update)
            await either_redis.xadd(streams.output("adapters"), to_fields(event))

    return announce


@pytest.fixture
def watch(either_redis, streams) -> Watch:
    return Watch(either_redis, streams, Metrics("test"))


async def unseen(watch: Watch) -> list[str]:
    return [announced.event.id for announced in await watch.unseen()]


async def test_at_first_the_newest_comes_first_and_then_only_what_is_new(watch, announce):
    await announce("a", "b")
    assert await unseen(watch) == ["b", "a"]
    assert await unseen(watch) == []
    await announce("c")
    assert await unseen(watch) == ["c"]


async def test_a_stream_that_does_not_exist_has_nothing(watch):
    assert await unseen(watch) == []


async def test_of_a_storm_only_the_newest_are_looked_at_and_it_is_over(watch, announce):
    await announce(*map(str, range(100)))
    assert await unseen(watch) == [str(number) for number in range(99, 99 - MOST_UPDATES, -1)]
    assert await unseen(watch) == []


async def test_what_cannot_be_read_is_passed_over(watch, announce, either_redis, streams):
    stream = streams.output("adapters")
    await announce("a")
    await either_redis.xadd(stream, {"event": b"no JSON"})
    await either_redis.xadd(stream, {"colour": b"blue"})
    assert await unseen(watch) == ["a"]
    await either_redis.xadd(stream, {"event": b"\xff"})
    assert await unseen(watch) == []


async def test_waiting_ends_when_something_is_announced(watch, announce):
    await announce("a")
    await unseen(watch)
    waiting = asyncio.create_task(watch.wait())
    try:
        await announce("b")
        await wait_until(waiting.done, "the end of waiting")
    finally:
        await end([waiting])
    assert await unseen(watch) == ["b"]
