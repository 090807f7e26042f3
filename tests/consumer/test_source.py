"""How much a worker reads at once, and which leases it keeps."""

import asyncio
from contextlib import aclosing

import pytest
from abstream.consumer.config import WorkerConfig
from abstream.consumer.inlet import Expired
from abstream.consumer.metrics import Metrics
from abstream.consumer.shards import Shard, inlets
from abstream.consumer.source import FIRST_READ, READ_BYTES, USUAL_READ, Source
from abstream.schemas import Shards
from redis.exceptions import ConnectionError as RedisConnectionError

from ..conftest import PATIENCE_SECONDS, wait_until


@pytest.fixture
async def source(redis, streams) -> Source:
    source = Source(inlets([Shard(redis, streams)], "worker"), WorkerConfig(name="worker", burst=True), Metrics("test"))
    await source.create_groups()
    return source


async def add(redis, stream: str, number: int, size: int = 1) -> None:
    for _ in range(number):
        await redis.xadd(stream, {"abstract": b"x" * size})


async def reads(source: Source) -> list[int]:
    return [len(deliveries) async for deliveries in source.new(source.inlets[0])]


@pytest.mark.parametrize(
    ("quick_seconds", "expected"),
    [(60, [FIRST_READ, 16, 32, 64, 128, 256, 16]), (-1, [FIRST_READ, 16, 32, *[USUAL_READ] * 7, 16])],
    ids=["quick", "slow"],
)
async def test_reads_grow_as_long_as_there_is_room_again_soon(
    quick_seconds, expected, redis, streams, source, monkeypatch
):
    monkeypatch.setattr("abstream.consumer.source.QUICK_SECONDS", quick_seconds)
    await add(redis, streams.lane("interactive"), 520)

    assert await reads(source) == expected


async def test_the_next_entries_are_read_ahead_where_the_engine_is_quick(redis, streams, source, monkeypatch):
    await add(redis, streams.lane("interactive"), 700)
    [inlet, _] = source.inlets

    async with aclosing(source.new(inlet)) as new:
        for read in (FIRST_READ, 16, 32, 64, 128):
            assert len(await anext(new)) == read
        await wait_until(lambda: len(inlet.held) == 8 + 16 + 32 + 64 + 128 + 256, "the next read")
        monkeypatch.setattr("abstream.consumer.source.QUICK_SECONDS", -1)
        assert len(await anext(new)) == 256
        assert len(await anext(new)) == USUAL_READ
    assert len(inlet.held) == 8 + 16 + 32 + 64 + 128 + 256 + USUAL_READ


async def test_what_was_read_ahead_when_the_worker_stops_is_not_lost(redis, streams, source):
    await add(redis, streams.lane("interactive"), 700)
    [inlet, _] = source.inlets
    taken = 0

    async with aclosing(source.new(inlet)) as new:
        async for deliveries in new:
            taken += len(deliveries)
            if len(deliveries) == 128:
                source.stop()

    assert taken == len(inlet.held) == 8 + 16 + 32 + 64 + 128 + 256


async def test_a_shard_that_is_served_no_more_is_not_read_ahead(redis, streams, source):
    await add(redis, streams.lane("interactive"), 700)
    [inlet, _] = source.inlets

    async with aclosing(source.new(inlet)) as new:
        while len(await anext(new)) < 128:
            pass
        source.serve(())
        assert len(await anext(new)) == 256  # had been read ahead
        source.stop()
        assert [deliveries async for deliveries in new] == []
    assert len(inlet.held) == 8 + 16 + 32 + 64 + 128 + 256


async def test_large_entries_are_read_a_few_at_a_time(redis, streams, source):
    await add(redis, streams.lane("interactive"), 8)
    await add(redis, streams.lane("interactive"), 40, READ_BYTES // 4)

    assert await reads(source) == [8, 16] + [3] * 8


async def test_entries_with_the_same_id_in_two_lanes_are_kept_apart(redis, streams, source):
    """Entry ids are milliseconds, so at a thousand entries a second equal ids are common."""
    for lane in ("interactive", "bulk"):
        await redis.xadd(streams.lane(lane), {"title": lane}, id="7-0")
    interactive_lane, bulk_lane = source.inlets
    [[urgent]] = [deliveries async for deliveries in source.new(interactive_lane)]
    [[bulk]] = [deliveries async for deliveries in source.new(bulk_lane)]
    await redis.xclaim(streams.lane("interactive"), "classifiers", "another", 0, ["7-0"])

    await interactive_lane.extend()
    await bulk_lane.extend()
    assert (source.holds(urgent), source.holds(bulk)) == (False, True)

    assert await source.release([urgent]) == 1
    [held] = await redis.xpending_range(streams.lane("bulk"), "classifiers", "-", "+", 1)
    assert held["times_delivered"] == 0


@pytest.fixture
async def of_two_shards(redis, streams) -> Source:
    shards = [Shard(redis, one) for one in Shards(streams.namespace, 2).all]
    source = Source(inlets(shards, "worker"), WorkerConfig(name="worker"), Metrics("test"))
    await source.create_groups()
    return source


async def test_a_worker_waits_in_vain_where_it_holds_nothing_of_a_shard_that_answers(of_two_shards):
    here, _, away, _ = of_two_shards.inlets
    away.held.add("1-0")
    assert not of_two_shards.waits_in_vain
    of_two_shards._metrics.of_shard(1).redis_away(RedisConnectionError("connection refused"))
    assert of_two_shards.waits_in_vain
    here.held.add("1-0")
    assert not of_two_shards.waits_in_vain


async def test_the_shards_that_a_worker_serves_share_the_limit_of_a_read(redis, streams):
    shards = [Shard(redis, one) for one in Shards(streams.namespace, 2).all]
    config = WorkerConfig(name="worker", burst=True, read_count=FIRST_READ)
    source = Source(inlets(shards, "worker"), config, Metrics("test"))
    await source.create_groups()
    await add(redis, source.inlets[0].stream, 2 * FIRST_READ)

    assert await reads(source) == [FIRST_READ // 2] * 4


async def test_entries_of_a_shard_are_handed_back_although_another_shard_is_away(redis, of_two_shards, monkeypatch):
    away, _, here, _ = of_two_shards.inlets
    await redis.xadd(here.stream, {"title": "T"})
    await here.read(1, None)

    async def refuse(_: set[str]) -> int:
        raise RedisConnectionError("connection refused")

    monkeypatch.setattr(away, "release", refuse)
    with pytest.raises(RedisConnectionError):
        await of_two_shards.release()

    assert not here.held
    [expired] = await here.oldest_expired(1_000)
    assert expired.deliveries == 0


async def test_a_suspect_waits_for_a_shard_that_is_away_and_new_entries_do_not(redis, of_two_shards, monkeypatch):
    """A suspect is computed alone, so it must wait until the entries of the shard that is away are settled."""
    here, _, away, _ = of_two_shards.inlets
    await redis.xadd(away.stream, {"title": "T"})
    await away.read(1, None)
    of_two_shards._metrics.of_shard(1).redis_away(RedisConnectionError("connection refused"))
    suspect = await redis.xadd(here.stream, {"title": "T"})
    await redis.xreadgroup("classifiers", "dead", {here.stream: ">"})
    await redis.xclaim(here.stream, "classifiers", "dead", 0, [suspect], retrycount=2, idle=60_000, justid=True)
    taken: list[str] = []
    looks: list[object] = []
    look = here.oldest_expired

    async def counted(lease_milliseconds: int) -> list[Expired]:
        looks.append(found := await look(lease_milliseconds))
        return found

    async def take() -> None:
        async for deliveries in of_two_shards.expired():
            taken.extend(delivery.entry_id for delivery in deliveries)
            of_two_shards.settle(deliveries)

    monkeypatch.setattr(here, "oldest_expired", counted)
    taking = asyncio.create_task(take())
    await wait_until(lambda: looks, "a look at the suspect")
    new = await redis.xadd(here.stream, {"title": "New"})
    reading = of_two_shards.new(here)
    [delivery] = await asyncio.wait_for(anext(reading), PATIENCE_SECONDS)
    assert (delivery.entry_id, taken) == (new.decode(), [])

    of_two_shards._metrics.of_shard(1).redis_back()
    for inlet in (here, away):
        inlet.held.clear()
    await wait_until(lambda: taken == [suspect.decode()], "the suspect")
    of_two_shards.stop()
    await taking


async def test_a_burst_continues_after_the_group_was_recreated(redis, streams, source):
    await add(redis, streams.lane("interactive"), 3)
    await redis.xgroup_destroy(streams.lane("interactive"), "classifiers")

    assert await reads(source) == [3]


async def test_expired_entries_are_taken_oldest_first_whatever_their_delivery_count(redis, streams, source):
    """Otherwise, where workers are killed all the time, entries delivered once would always go first."""
    ids = await abandon(redis, streams.lane("interactive"), 3, 1, 2, 1)
    assert await taken_over(source) == [[ids[0]], [ids[1], ids[3]], [ids[2]]]


async def abandon(redis, stream: str, *deliveries: int) -> list[str]:
    """Leave entries with a dead worker, each delivered so often; their ids."""
    ids = [await redis.xadd(stream, {"title": "T"}) for _ in deliveries]
    await redis.xreadgroup("classifiers", "dead", {stream: ">"})
    for entry_id, times in zip(ids, deliveries, strict=True):
        await redis.xclaim(stream, "classifiers", "dead", 0, [entry_id], retrycount=times, idle=60_000, justid=True)
    return [entry_id.decode() for entry_id in ids]


async def taken_over(source: Source) -> list[list[str]]:
    """The ids of what a burst takes over, read by read; each is settled before the next."""
    taken = []
    async for deliveries in source.expired():
        taken.append([delivery.entry_id for delivery in deliveries])
        for delivery in deliveries:
            await source.inlets[0]._redis.xack(delivery.stream, "classifiers", delivery.entry_id)
        source.settle(deliveries)
    return taken


async def test_suspects_are_taken_in_fours_and_later_one_by_one(redis, streams, source):
    ids = await abandon(redis, streams.lane("interactive"), *[2] * 5, *[3] * 2)
    assert await taken_over(source) == [ids[:4], ids[4:5], ids[5:6], ids[6:]]


async def test_the_oldest_entry_of_any_shard_is_taken_over_first(redis, streams):
    shards = [Shard(redis, one) for one in Shards(streams.namespace, 2).all]
    source = Source(inlets(shards, "worker"), WorkerConfig(name="worker", burst=True), Metrics("test"))
    await source.create_groups()
    first, _, second, _ = (inlet.stream for inlet in source.inlets)
    ids = [(await abandon(redis, stream, 1))[0] for stream in (second, first)]

    assert [taken for [taken] in await taken_over(source)] == ids


async def test_new_entries_have_their_turn_between_suspects(redis, streams, source, monkeypatch):
    monkeypatch.setattr("abstream.consumer.source.LONGEST_LOOK_SECONDS", 0.001)
    await abandon(redis, streams.lane("interactive"), 3, 3)
    done = []

    async def read_new_entries() -> None:
        async with source.inlets[0].reading:
            done.append("new entries")

    async for deliveries in source.expired():
        if not done:
            reading = asyncio.create_task(read_new_entries())
            await asyncio.sleep(0.002)  # longer than suspects have their turn
        done.append("a suspect")
        await redis.xack(streams.lane("interactive"), "classifiers", *[one.entry_id for one in deliveries])
        source.settle(deliveries)
    await reading
    assert done == ["a suspect", "new entries", "a suspect"]


async def test_both_lanes_of_a_shard_are_made_again_when_one_is_found_to_be_gone(redis, streams, source):
    """The reader of the other may be blocked, and not know it yet."""
    await add(redis, streams.lane("interactive"), 1)
    for lane in ("interactive", "bulk"):
        await redis.xgroup_destroy(streams.lane(lane), "classifiers")

    assert await reads(source) == [1]
    for lane in ("interactive", "bulk"):
        assert [group["name"] for group in await redis.xinfo_groups(streams.lane(lane))] == [b"classifiers"]
