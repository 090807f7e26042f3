"""A publisher gets a clear refusal when too many wait, and a call whose reply was lost adds nothing twice."""

import asyncio
import logging
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from random import Random

import pytest
from abstream import Abstract, BacklogFull, Malformed, Publisher, Unavailable
from abstream.ops.chaos.proxy import Proxy
from abstream.ops.chaos.servers import Server, free_port, replica_options
from abstream.ops.embedded import embedded_redis
from abstream.producer import shipping
from abstream.producer.connection import connect
from abstream.schemas import Streams
from abstream.schemas.streams import GROUP, MAX_EVENT_BYTES
from redis.asyncio.client import Pipeline

from ..conftest import wait_until

ABSTRACT = Abstract(title="Title", abstract="")


def some(count: int, prefix: str = ""):
    return [(f"{prefix}{number}", ABSTRACT) for number in range(count)]


@pytest.fixture
def small(server, namespace):
    """A publisher with a backlog of at most five."""
    return Publisher(server, namespace=namespace, max_backlog=5)


@pytest.fixture
def publish_script(either_redis, streams):
    script = either_redis.register_script((files("abstream.producer") / "publish.lua").read_text())

    async def call(name: str, *events: str, limit: int = 0):
        return await script([streams.lane("interactive"), streams.published(name)], [GROUP, limit, 60, *events])

    return call


async def test_over_the_limit_it_is_said_how_many_wait_and_when_to_try_again(small, redis, streams):
    async with small as publisher:
        await publisher.publish_many(some(5))
        with pytest.raises(
            BacklogFull, match="5 abstracts are waiting in the interactive lane, and the limit is 5"
        ) as refused:
            await publisher.publish(ABSTRACT)

    full = refused.value
    assert (full.waiting, full.limit, full.retry_after_seconds > 0) == (5, 5, True)
    assert await redis.xlen(streams.lane("interactive")) == 5


async def test_each_lane_has_its_own_room(small):
    async with small as publisher:
        await publisher.publish_many(some(5), lane="bulk")
        await publisher.publish(ABSTRACT, lane="interactive")
        with pytest.raises(BacklogFull, match="bulk"):
            await publisher.publish(ABSTRACT, lane="bulk")


async def test_without_a_limit_any_number_may_wait(server, namespace):
    async with Publisher(server, namespace=namespace, max_backlog=None) as publisher:
        assert len(await publisher.publish_many(some(600))) == 600


async def test_a_lane_that_is_full_of_answered_abstracts_has_room(either_redis, publish_script, streams):
    lane = streams.lane("interactive")
    await either_redis.xgroup_create(lane, GROUP, id="0", mkstream=True)
    if "lag" not in (await either_redis.xinfo_groups(lane))[0]:
        pytest.skip("before Redis 7.0 the length is all that is known: there is room when it was trimmed")
    await publish_script("one", *"abcde")
    [[_, read]] = await either_redis.xreadgroup(GROUP, "worker", {lane: ">"}, count=4)

    assert await publish_script("two", "f", limit=5) == 5, "one unread and four in a worker's hands"
    await either_redis.xack(lane, GROUP, *[entry for entry, _ in read[:2]])
    assert isinstance(await publish_script("two", "f", limit=5), bytes)


async def test_there_is_room_again_when_what_was_answered_was_trimmed(either_redis, publish_script, streams):
    lane = streams.lane("interactive")
    await publish_script("one", *"abcde")
    assert await publish_script("two", "f", limit=5) == 5
    await either_redis.xtrim(lane, maxlen=2, approximate=False)
    assert isinstance(await publish_script("two", "f", limit=5), bytes)


async def test_the_same_call_again_adds_nothing_and_is_answered_the_same(either_redis, publish_script, streams):
    first = await publish_script("call", "a", "b", limit=2)
    again = await publish_script("call", "a", "b", limit=2)

    assert again == first, "though by now there would be no room"
    assert await either_redis.xlen(streams.lane("interactive")) == 2
    assert 0 < await either_redis.ttl(streams.published("call")) <= 60


async def test_a_call_of_many_gets_ids_in_a_row(either_redis, publish_script, streams):
    first = (await publish_script("call", *"abc")).decode()
    milliseconds, number = first.split("-")
    entries = await either_redis.xrange(streams.lane("interactive"))
    assert [entry.decode() for entry, _ in entries] == [f"{milliseconds}-{int(number) + n}" for n in range(3)]
    assert [fields[b"event"] for _, fields in entries] == [b"a", b"b", b"c"]


async def test_a_publish_whose_reply_is_lost_adds_one_entry(server, namespace, redis, streams):
    async with (
        Proxy(Path(server.removeprefix("unix://")).parent, Random(1)) as proxy,
        Publisher(proxy.url, namespace=namespace) as publisher,
    ):
        await publisher.publish(ABSTRACT, id="before")
        proxy.drop_replies(1)
        publishing = asyncio.create_task(publisher.publish(ABSTRACT, id="unheard"))
        await wait_until(lambda: proxy.dropped, "a lost reply")
        proxy.drop_replies(0)
        published = await publishing

    entries = await redis.xrange(streams.lane("interactive"))
    assert [entry.decode() for entry, _ in entries][1:] == [published.entry_id]


async def test_a_publisher_survives_that_its_script_is_forgotten(redis, publisher):
    await publisher.publish(ABSTRACT)
    await redis.script_flush()
    await publisher.publish(ABSTRACT)


async def test_a_publisher_may_wait_for_room_and_says_so_once(server, namespace, redis, streams, caplog):
    lane = streams.lane("interactive")
    async with Publisher(server, namespace=namespace, max_backlog=1, wait_for_room_seconds=30) as publisher:
        await publisher.publish(ABSTRACT, id="first")
        with caplog.at_level(logging.WARNING):
            waiting = asyncio.create_task(publisher.publish(ABSTRACT, id="second"))
            await wait_until(lambda: "waiting for room" in caplog.text, "a word that it waits")
        await redis.xtrim(lane, maxlen=0, approximate=False)
        await waiting
    assert caplog.text.count("waiting for room") == 1
    assert await redis.xlen(lane) == 1


async def test_however_often_a_publisher_looks_for_room_it_says_so_once(
    server, namespace, redis, streams, caplog, monkeypatch
):
    monkeypatch.setattr(shipping, "_LOOK_SECONDS", 0.001)
    async with Publisher(server, namespace=namespace, max_backlog=1, wait_for_room_seconds=0.05) as publisher:
        await publisher.publish(ABSTRACT)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                with pytest.raises(BacklogFull):
                    await publisher.publish(ABSTRACT)
    assert caplog.text.count("waiting for room") == 1


async def test_a_full_redis_refuses_as_a_full_backlog_does_and_takes_nothing(namespace, streams):
    with embedded_redis("--maxmemory", "20mb", "--maxmemory-policy", "noeviction") as url:
        async with Publisher(url, namespace=namespace) as publisher, connect(url) as redis:
            await publisher.publish(ABSTRACT)
            await redis.config_set("maxmemory", "1")
            with pytest.raises(BacklogFull, match="out of memory") as refused:
                await publisher.publish(ABSTRACT)
            await redis.config_set("maxmemory", "0")
            await publisher.publish(ABSTRACT)
            assert await redis.xlen(streams.lane("interactive")) == 2
    assert refused.value.waiting is None


async def test_one_abstract_that_is_too_large_keeps_its_neighbours_from_being_sent(publisher, redis, streams):
    large = Abstract(title="Title", abstract="", metadata={"blob": "x" * MAX_EVENT_BYTES})
    with pytest.raises(Malformed, match="the event of abstract 'large' has"):
        await publisher.publish_many([*some(300), ("large", large)])
    assert await redis.exists(streams.lane("interactive")) == 0


async def test_large_abstracts_are_sent_in_several_calls(publisher, redis, streams):
    """While Redis runs a call, it serves nobody else."""
    large = Abstract(title="Title", abstract="", metadata={"blob": "x" * (MAX_EVENT_BYTES // 2)})
    await publisher.publish_many([(str(number), large) for number in range(20)])
    assert await redis.xlen(streams.lane("interactive")) == 20
    assert len(await redis.keys(streams.published("*"))) == 3


async def test_many_abstracts_are_sent_in_several_calls(publisher, redis, streams):
    await publisher.publish_many(some(600))
    assert await redis.xlen(streams.lane("interactive")) == 600
    assert len(await redis.keys(streams.published("*"))) == 3


async def test_what_no_replica_has_is_not_published_yet_and_may_be_sent_again(
    server, namespace, subscriber, workers, monkeypatch
):
    """As after a fail-over: the same ids again are answered once, whether the first time arrived or not."""
    monkeypatch.setattr(shipping, "_REPLICA_SECONDS", 0.01)
    async with Publisher(server, namespace=namespace, source="urn:one", wait_replicas=1) as careful:
        for _ in range(2):
            with pytest.raises(Unavailable, match="0 of 1 replicas"):
                await careful.publish_many(some(3))
    await workers.burst()
    results = [result async for _, result in subscriber.predictions(since="0", until_idle=0.05)]
    assert sorted(result.causationid for result in results) == ["0", "1", "2"]


@pytest.mark.parametrize(("reached", "is_published"), [(1, False), (2, True), (3, True)])
async def test_as_many_replicas_must_have_it_as_were_asked_for(server, namespace, monkeypatch, reached, is_published):
    execute = Pipeline.execute

    async def answered(self, raise_on_error):
        entry, _ = await execute(self, raise_on_error)
        return [entry, reached]

    monkeypatch.setattr(shipping, "_REPLICA_SECONDS", 0.01)
    monkeypatch.setattr(Pipeline, "execute", answered)
    async with Publisher(server, namespace=namespace, wait_replicas=2) as careful:
        with nullcontext() if is_published else pytest.raises(Unavailable, match="1 of 2 replicas"):
            await careful.publish(ABSTRACT)


async def test_where_a_replica_follows_it_is_published_when_the_replica_has_it():
    primary = Server("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", port=free_port())
    async with primary, Server(*replica_options(primary.port), port=free_port()) as replica:
        await wait_until(primary.has_replica)
        async with Publisher(primary.url, wait_replicas=1) as careful:
            await careful.publish_many(some(3))
        assert await replica.redis.xlen(Streams().lane("interactive")) == 3


async def test_an_error_of_redis_repeats_no_abstract(redis, streams, server, namespace):
    """redis-py puts the whole command into the errors of a pipeline."""
    await redis.set(streams.lane("interactive"), "somebody else's")
    async with Publisher(server, namespace=namespace, wait_replicas=1) as careful:
        with pytest.raises(Unavailable, match="WRONGTYPE") as raised:
            await careful.publish(Abstract(title="Secret", abstract=""))
    assert "Secret" not in str(raised.value)
