"""The client fails at once if it cannot reach Redis, and never repeats a write by itself."""

import logging
import re
from datetime import datetime, timedelta, timezone

import pytest
from abstream import Abstract, Malformed, Publisher, Subscriber, Unavailable
from abstream.schemas import Shards

NOWHERE = "unix:///nowhere/redis.sock"
ABSTRACT = Abstract(title="Title", abstract="")


async def test_a_publisher_without_redis_says_that_it_may_publish_again():
    async with Publisher(NOWHERE) as publisher:
        with pytest.raises(Unavailable, match="same ids"):
            await publisher.publish(ABSTRACT)


async def test_a_subscriber_without_redis_says_so_at_once():
    async with Subscriber(NOWHERE) as subscriber:
        with pytest.raises(Unavailable, match="last entry id"):
            async for _ in subscriber.predictions(since="0"):
                pass


async def test_publishing_to_a_key_that_is_no_stream_is_an_error(redis, streams, publisher):
    await redis.set(streams.lane("interactive"), "somebody else's")
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        await publisher.publish(ABSTRACT)


async def test_without_a_source_each_publisher_is_a_new_one(server):
    async with Publisher(server) as one, Publisher(server) as other:
        assert one.source != other.source


async def test_many_abstracts_keep_their_order(redis, streams, publisher):
    published = await publisher.publish_many((str(number), ABSTRACT) for number in range(600))
    entries = [entry.decode() for entry, _ in await redis.xrange(streams.lane("interactive"))]
    assert [one.entry_id for one in published] == entries
    assert [one.id for one in published] == [str(number) for number in range(600)]


@pytest.mark.parametrize(("id_", "why"), [("", "not be empty"), (7, "be a string"), ("\ud800", "be valid Unicode")])
async def test_an_id_that_is_none_is_told_and_nothing_is_sent(id_, why, redis, streams, publisher):
    with pytest.raises(Malformed, match=f"^abstract {re.escape(repr(id_))}: id: must {why}"):
        await publisher.publish_many([("sound", ABSTRACT), (id_, ABSTRACT)])
    assert not await redis.exists(streams.lane("interactive"))


async def test_an_empty_id_is_none_of_a_single_abstract_either(redis, streams, publisher):
    with pytest.raises(Malformed, match="must not be empty"):
        await publisher.publish(ABSTRACT, id="")
    assert not await redis.exists(streams.lane("interactive"))


async def test_since_now_skips_what_was(publisher, subscriber, workers):
    await publisher.publish(ABSTRACT, id="old")
    await workers.burst()
    assert [result async for result in subscriber.predictions(until_idle=0.05)] == []


async def test_since_a_time(publisher, subscriber, workers):
    await publisher.publish(ABSTRACT, id="one")
    await workers.burst()
    an_hour = timedelta(hours=1)
    now = datetime.now(timezone.utc)
    assert len([result async for result in subscriber.predictions(since=now - an_hour, until_idle=0.05)]) == 1
    assert len([result async for result in subscriber.predictions(since=now + an_hour, until_idle=0.05)]) == 0


@pytest.mark.parametrize("count", [1, 2])
async def test_who_waits_for_no_time_gets_all_there_is(redis, server, namespace, count):
    """From every shard, in more than one read each."""
    shards = Shards(namespace, count)
    for streams in shards.all:
        for number in range(200):
            await redis.xadd(streams.predictions, {"number": str(number)})
    async with Subscriber(server, namespace=namespace, shards=count) as subscriber:
        assert len([entry async for entry in subscriber.entries("predictions", "0", until_idle=0)]) == 200 * count


async def test_an_entry_nobody_can_read_does_not_stop_a_subscriber(
    redis, streams, publisher, subscriber, workers, caplog
):
    await redis.xadd(streams.predictions, {"event": '{"type": "from.the.future"}'})
    await publisher.publish(ABSTRACT, id="one")
    await workers.burst()
    with caplog.at_level(logging.WARNING):
        seen = [result.causationid async for _, result in subscriber.predictions(since="0", until_idle=0.05)]
    assert seen == ["one"]
    assert "unknown event type" in caplog.text
