"""Every worker reads the whole adapter stream for itself. All tests run on a real server and on fakeredis."""

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
    """A function that adds updates with these ids to the stream."""
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


async def test_the_first_read_is_newest_first_and_later_ones_have_only_what_is_new(watch, announce):
    await announce("a", "b")
    assert await unseen(watch) == ["b", "a"]
    assert await unseen(watch) == []
    await announce("c")
    assert await unseen(watch) == ["c"]


async def test_a_missing_stream_has_no_updates(watch):
    assert await unseen(watch) == []


async def test_of_a_storm_of_updates_only_the_newest_are_read(watch, announce):
    await announce(*map(str, range(100)))
    assert await unseen(watch) == [str(number) for number in range(99, 99 - MOST_UPDATES, -1)]
    assert await unseen(watch) == []


async def test_unreadable_entries_are_skipped(watch, announce, either_redis, streams):
    stream = streams.output("adapters")
    await announce("a")
    await either_redis.xadd(stream, {"event": b"no JSON"})
    await either_redis.xadd(stream, {"colour": b"blue"})
    assert await unseen(watch) == ["a"]
    await either_redis.xadd(stream, {"event": b"\xff"})
    assert await unseen(watch) == []


async def test_waiting_ends_when_an_update_is_announced(watch, announce):
    await announce("a")
    await unseen(watch)
    waiting = asyncio.create_task(watch.wait())
    try:
        await announce("b")
        await wait_until(waiting.done, "the end of waiting")
    finally:
        await end([waiting])
    assert await unseen(watch) == ["b"]
