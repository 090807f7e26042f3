"""The backlog metrics agree with what Redis itself reports of the streams and the group."""

import time

import pytest
from abstream.consumer.backlog import BacklogGauges, RedisGauges
from abstream.ops.working import broker_at
from abstream.schemas import Shards
from abstream.schemas.streams import GROUP
from prometheus_client import CollectorRegistry

from ..conftest import Workers

NAMES = ("abstream_stream_lag", "abstream_stream_pending", "abstream_oldest_unanswered_age_seconds")


@pytest.fixture
def broker(server, streams):
    broker = broker_at(server, Shards(streams.namespace))
    yield broker
    broker.close()


@pytest.fixture
def gauges(broker):
    """A function that reads all gauges of a lane, as a scrape does."""
    registry = CollectorRegistry()
    registry.register(BacklogGauges(broker))
    return lambda lane: [registry.get_sample_value(name, {"lane": lane}) for name in NAMES]


@pytest.fixture
def lane(streams) -> str:
    return streams.lane("interactive")


async def add(redis, lane: str, count: int, size: int = 10) -> list[bytes]:
    async with redis.pipeline(transaction=False) as pipeline:
        for _ in range(count):
            pipeline.xadd(lane, {"event": b"x" * size})
        return await pipeline.execute()


async def read(redis, lane: str, count: int) -> list[bytes]:
    [(_, entries)] = await redis.xreadgroup(GROUP, "worker", {lane: ">"}, count=count)
    return [entry_id for entry_id, _ in entries]


async def test_lag_and_pending_agree_with_xinfo_and_xpending(gauges, workers, redis, streams, lane):
    await workers.new().source.create_groups()
    await add(redis, lane, 7)
    first, *_ = await read(redis, lane, 3)
    await redis.xack(lane, GROUP, first)

    lag, pending, _ = gauges("interactive")

    [group] = await redis.xinfo_groups(lane)
    assert lag == group.get("lag", 4) == 4  # Redis 6.2 does not report it
    assert pending == group["pending"] == (await redis.xpending(lane, GROUP))["pending"] == 2
    assert gauges("bulk") == [0, 0, 0]


async def seconds_of(redis) -> float:
    seconds, microseconds = await redis.time()
    return seconds + microseconds // 1000 / 1000


async def test_the_age_is_that_of_the_oldest_pending_or_else_of_the_first_unread_entry(gauges, workers, redis, lane):
    await workers.new().source.create_groups()
    now = int(await seconds_of(redis) * 1000)
    ids = [f"{now - ago}-0" for ago in (3_600_000, 1_800_000, 60_000)]
    for entry_id in ids:
        await redis.xadd(lane, {"event": "x"}, id=entry_id)

    async def assert_oldest_is(ago_seconds: float) -> None:
        before = await seconds_of(redis)
        _, _, age = gauges("interactive")
        passed = await seconds_of(redis) - now / 1000
        assert ago_seconds + before - now / 1000 - 0.002 <= age <= ago_seconds + passed + 0.002

    await assert_oldest_is(3600)
    await read(redis, lane, 2)
    await assert_oldest_is(3600)
    await redis.xack(lane, GROUP, ids[0])
    await assert_oldest_is(1800)
    await redis.xack(lane, GROUP, ids[1])
    await assert_oldest_is(60)
    await read(redis, lane, 1)
    await redis.xack(lane, GROUP, ids[2])
    assert gauges("interactive") == [0, 0, 0]


async def test_the_age_of_an_entry_from_the_future_is_not_negative(gauges, workers, redis, lane):
    await workers.new().source.create_groups()
    await redis.xadd(lane, {"event": "x"}, id=f"{int(time.time() * 1000) + 3_600_000}-0")
    assert gauges("interactive") == [1, 0, 0]


@pytest.mark.parametrize(
    ("answered", "unread", "size"),
    [(0, 30, 10), (600, 150, 10), (100, 600, 10), (10, 20, 100_000)],
    ids=["few", "nearly all answered", "nearly all unread", "large"],
)
async def test_lag_is_counted_where_the_server_does_not_report_it(answered, unread, size, gauges, workers, redis, lane):
    """So in Redis 6.2, and in later versions after an unread entry was deleted."""
    await workers.new().source.create_groups()
    if answered:
        await add(redis, lane, answered)
        await redis.xack(lane, GROUP, *await read(redis, lane, answered))
    ids = await add(redis, lane, unread, size)
    await redis.xdel(lane, ids[-2])
    [group] = await redis.xinfo_groups(lane)
    assert group.get("lag") is None

    assert gauges("interactive")[:2] == [unread - 1, 0]


async def test_lag_that_takes_long_to_count_is_overestimated_never_underestimated(gauges, workers, redis, lane):
    await workers.new().source.create_groups()
    await add(redis, lane, 700)
    await redis.xack(lane, GROUP, *await read(redis, lane, 700))
    ids = await add(redis, lane, 700)
    await redis.xdel(lane, ids[-2])

    assert 699 <= gauges("interactive")[0] < 1_399


async def test_without_a_group_there_are_no_gauges(broker, gauges, redis, lane):
    assert broker.backlogs() == {"interactive": None, "bulk": None}
    await redis.xadd(lane, {"event": "x"})
    assert gauges("interactive") == [None, None, None]


async def test_the_backlog_of_several_shards_is_their_sum_and_unknown_while_one_is(server, redis, namespace):
    names = Shards(namespace, 2)
    broker, workers = broker_at(server, names), Workers(redis, names.control, names.count)
    await workers.new().source.create_groups()
    lanes = [streams.lane("interactive") for streams in names.all]
    await redis.xadd(lanes[0], {"event": "x"}, id=f"{int(await seconds_of(redis) * 1000) - 3_600_000}-0")
    for lane, count in zip(lanes, (1, 3), strict=True):
        await add(redis, lane, count)
    await read(redis, lanes[1], 1)

    before = [shard["interactive"] for shard in broker.backlogs_of_shards()]  # asked first, since ages grow
    backlog = broker.backlogs()["interactive"]
    assert (backlog.lag, backlog.pending) == (4, 1)
    assert backlog.oldest_age_seconds >= max(shard.oldest_age_seconds for shard in before) > 3_600
    await redis.xgroup_destroy(lanes[1], GROUP)
    assert broker.backlogs()["interactive"] is None
    broker.close()


def test_the_metric_names_are_known_without_asking_redis(streams):
    """Otherwise a worker could not start its endpoints while Redis is away."""
    registry = CollectorRegistry()
    broker = broker_at("unix:///nowhere/redis.sock", Shards(streams.namespace))
    registry.register(BacklogGauges(broker))
    assert [registry.get_sample_value(name, {"lane": "bulk"}) for name in NAMES] == [None, None, None]


@pytest.fixture
def said(broker):
    """A function that reads one of the metrics of Redis itself, as a scrape does."""
    registry = CollectorRegistry()
    registry.register(RedisGauges(broker))
    return lambda name, **labels: registry.get_sample_value(f"abstream_{name}", labels)


async def test_the_memory_of_redis_agrees_with_info(said, redis):
    memory, stats = await redis.info("memory"), await redis.info("stats")
    assert said("redis_memory_bytes", kind="max") == memory["maxmemory"]
    assert said("redis_memory_bytes", kind="used") == pytest.approx(memory["used_memory"], rel=0.2)
    assert said("redis_evicted_keys_total") == stats["evicted_keys"]


async def test_the_lag_of_a_subscriber_group_is_the_age_of_its_first_undelivered_entry(said, redis, streams):
    key = streams.predictions
    for milliseconds in (1_000, 61_000, 121_000):
        await redis.xadd(key, {"event": "x"}, id=f"{milliseconds}-0")
    await redis.xgroup_create(key, "registry", "61000-0")
    await redis.xgroup_create(key, "archive", "$")
    await redis.xgroup_create(key, "new", "0")
    assert said("subscriber_behind_seconds", stream="predictions", group="registry") == 60
    assert said("subscriber_behind_seconds", stream="predictions", group="archive") == 0
    assert said("subscriber_behind_seconds", stream="predictions", group="new") == 120


async def test_without_the_right_to_ask_only_these_metrics_are_missing(server, streams, redis):
    await redis.acl_setuser(
        "nosy", enabled=True, passwords=["+secret"], keys="*", commands=["+type", "+xinfo", "-info"]
    )
    broker = broker_at(server.replace("unix://", "unix://nosy:secret@"), Shards(streams.namespace))
    await redis.xadd(streams.predictions, {"event": "x"}, id="1-0")
    await redis.xgroup_create(streams.predictions, "registry", "$")
    registry = CollectorRegistry()
    registry.register(RedisGauges(broker))
    assert registry.get_sample_value("abstream_redis_memory_bytes", {"kind": "used"}) is None
    behind = registry.get_sample_value(
        "abstream_subscriber_behind_seconds", {"stream": "predictions", "group": "registry"}
    )
    assert behind == 0
    await redis.acl_setuser("nosy", commands=["+info", "-xinfo"])
    assert registry.get_sample_value("abstream_redis_memory_bytes", {"kind": "used"})
    assert registry.get_sample_value("abstream_subscriber_behind_seconds", {"stream": "predictions"}) is None
    broker.close()
    await redis.acl_deluser("nosy")
