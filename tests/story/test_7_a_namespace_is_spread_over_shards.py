"""One namespace over four shards of one server, with workers that come and go."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from abstream import Abstract, Publisher, Subscriber
from abstream.consumer import membership
from abstream.consumer.membership import Membership
from abstream.consumer.tasks import end
from abstream.consumer.worker import Worker
from abstream.schemas import Shards
from abstream.schemas.streams import from_fields

from ..conftest import PATIENCE_SECONDS, Workers, wait_until

SHARDS = 4
ABSTRACTS = [(f"abstract-{number}", Abstract(abstract=f"Text {number}.")) for number in range(400)]


@pytest.fixture
def names(namespace) -> Shards:
    return Shards(namespace, SHARDS)


@pytest.fixture
def workers(redis, streams) -> Workers:
    return Workers(redis, streams, SHARDS)


@pytest.fixture
async def publisher(server, namespace) -> AsyncIterator[Publisher]:
    async with Publisher(server, namespace=namespace, shards=SHARDS) as publisher:
        yield publisher


@pytest.fixture
async def subscriber(server, namespace) -> AsyncIterator[Subscriber]:
    async with Subscriber(server, namespace=namespace, shards=SHARDS) as subscriber:
        yield subscriber


@asynccontextmanager
async def sharing(workers: Workers, name: str) -> AsyncIterator[Worker]:
    """Run a worker that divides the shards with the others while the block lasts."""
    async with workers.running(name, lease_seconds=1) as worker:
        member = Membership(workers.redis, workers.names.control, name, worker.source, worker.metrics)
        await member.join()
        beating = asyncio.create_task(member.run())
        yield worker
        await end([beating])


async def answered(redis, names: Shards) -> Counter[str]:
    """How often each abstract was answered, over all shards."""
    entries = [entry for streams in names.all for entry in await redis.xrange(streams.predictions)]
    return Counter(from_fields(fields).causationid for _, fields in entries)


async def test_each_abstract_goes_to_the_shard_of_its_id_and_is_answered_there(redis, names, publisher, workers):
    published = await publisher.publish_many(ABSTRACTS)
    await workers.burst()

    assert [one.id for one in published] == [id_ for id_, _ in ABSTRACTS]
    for number, streams in enumerate(names.all):
        entries = {
            entry_id.decode(): from_fields(fields) for entry_id, fields in await redis.xrange(streams.predictions)
        }
        ids = {event.causationid: event.data.input.entry_id for event in entries.values()}
        assert ids == {id_: entry_id for id_, entry_id in published if names.of(id_) == number}


async def test_nothing_is_lost_or_doubled_while_workers_come_and_go(redis, names, publisher, workers, monkeypatch):
    monkeypatch.setattr(membership, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr("abstream.consumer.source.IDLE_SECONDS", 0.02)

    async def publish() -> None:
        for start in range(0, len(ABSTRACTS), 10):
            await publisher.publish_many(ABSTRACTS[start : start + 10])

    async with sharing(workers, "constant"):
        publishing = asyncio.create_task(publish())
        for name in ("second", "third", "fourth"):
            async with sharing(workers, name):
                goal = (await answered(redis, names)).total() + 40
                await wait_until(lambda goal=goal: has_answered(redis, names, goal), f"{goal} answers")
        await publishing
        await wait_until(lambda: has_answered(redis, names, len(ABSTRACTS)), "all answers")

    assert await answered(redis, names) == Counter(id_ for id_, _ in ABSTRACTS)
    assert await workers.pending() == 0


async def has_answered(redis, names: Shards, count: int) -> bool:
    return (await answered(redis, names)).total() >= min(count, len(ABSTRACTS))


async def test_the_entries_of_a_dead_worker_are_taken_over_in_every_shard(redis, names, publisher, workers):
    await workers.new().source.create_groups()
    await publisher.publish_many(ABSTRACTS[:40])
    for streams in names.all:
        lane = streams.lane("interactive")
        [(_, held)] = await redis.xreadgroup("classifiers", "dead", {lane: ">"})
        await redis.xclaim(lane, "classifiers", "dead", 0, [entry_id for entry_id, _ in held], idle=60_000, justid=True)

    await workers.burst()

    assert await answered(redis, names) == Counter(id_ for id_, _ in ABSTRACTS[:40])


async def test_a_worker_reads_only_from_the_shards_it_serves(redis, names, publisher, workers):
    [name] = [id_ for id_, _ in ABSTRACTS if names.of(id_) == 3][:1]
    async with workers.running() as worker:
        worker.source.serve({0, 1, 2})  # before it begins to read
        await publisher.publish(Abstract(abstract="Waits."), id=name)
        others = [(id_, abstract) for id_, abstract in ABSTRACTS if names.of(id_) != 3]
        await publisher.publish_many(others)
        await wait_until(lambda: has_answered(redis, names, len(others)), "those of the other shards")
        seen = await answered(redis, names)
        worker.source.serve({3})
        await wait_until(lambda: has_answered(redis, names, len(others) + 1), "that of the fourth")

    assert seen[name] == 0


async def test_a_subscriber_continues_in_every_shard_from_the_position_it_kept(publisher, subscriber, workers):
    await publisher.publish_many(ABSTRACTS[:100])
    await workers.burst()

    first: list[str] = []
    async for place, prediction in subscriber.predictions(since="0", until_idle=0.2):
        first.append(prediction.causationid)
        if len(first) == 37:
            break
    rest = [prediction.causationid async for _, prediction in subscriber.predictions(since=place, until_idle=0.2)]

    assert Counter(first + rest) == Counter(id_ for id_, _ in ABSTRACTS[:100])


async def test_a_subscriber_that_starts_now_sees_later_results_of_every_shard(publisher, subscriber, workers):
    await publisher.publish_many(ABSTRACTS[:20])
    await workers.burst()
    since = await subscriber.resolve("predictions")
    await publisher.publish_many(ABSTRACTS[20:60])
    await workers.burst()

    seen = [prediction.causationid async for _, prediction in subscriber.predictions(since, until_idle=0.2)]
    assert Counter(seen) == Counter(id_ for id_, _ in ABSTRACTS[20:60])


async def test_a_resubmission_is_recognised_by_its_shard(redis, names, server, namespace, workers):
    async with Publisher(server, namespace=namespace, shards=SHARDS, source="urn:one") as publisher:
        for _ in range(2):
            await publisher.publish_many(ABSTRACTS[:50])
            await asyncio.wait_for(workers.burst(), PATIENCE_SECONDS)

    assert await answered(redis, names) == Counter(id_ for id_, _ in ABSTRACTS[:50])
