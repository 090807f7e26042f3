"""A gateway keeps results in memory while Redis accepts no writes, and records them afterwards."""

import pytest
from abstream.producer.connection import Shard
from abstream.producer.gateway.entries import Entry, read_entries
from abstream.producer.gateway.index import Identity, IndexOfShard

from ...conftest import PrivateRedis
from .conftest import prediction_event

SOURCE = "urn:abstream:gateway"


@pytest.fixture
def server(private_redis: PrivateRedis) -> str:
    return private_redis.url


def results(numbers: range) -> list[Entry]:
    events = {number: prediction_event(causationid=str(number), causationsource=SOURCE) for number in numbers}
    return read_entries("predictions", [(b"%d-0" % number, {b"event": event}) for number, event in events.items()])


async def refused_writes(redis) -> int:
    return (await redis.info("commandstats"))["cmdstat_hset"]["rejected_calls"]


async def test_what_others_sent_is_not_recorded(redis, streams):
    others = prediction_event(causationid="1", causationsource=f"{SOURCE}-of-somebody-else")
    clients = prediction_event(causationid="1", causationsource=f"{SOURCE}:client")
    entries = [(b"%d-0" % number, {b"event": event}) for number, event in enumerate((others, clients), start=1)]

    await IndexOfShard(Shard(redis, streams), SOURCE).note(read_entries("predictions", entries))

    assert len(await redis.keys(f"{streams.standing('')}*")) == 1


async def test_a_full_redis_is_asked_for_a_page_at_a_time_and_has_all_once_there_is_room(redis, streams):
    index = IndexOfShard(Shard(redis, streams), SOURCE)
    await redis.config_set("maxmemory", 1)
    await index.note(results(range(1, 3_000)))
    refused = await refused_writes(redis)
    await index.note(results(range(3_000, 3_001)))
    assert await refused_writes(redis) - refused <= 500

    await redis.config_set("maxmemory", 0)
    await index.note(results(range(3_001, 3_002)))
    found = [await index.find(Identity(SOURCE, str(number))) for number in (1, 2_999, 3_001)]
    assert [standing.answered.entry_id for standing in found if standing and standing.answered] == [
        "1-0", "2999-0", "3001-0",
    ]  # fmt: skip
    assert len(await redis.keys(f"{streams.standing('')}*")) == 3_001
