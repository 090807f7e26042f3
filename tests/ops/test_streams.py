"""``abstream streams``: groups, backlog and trimming by hand."""

import json

import pytest
from abstream import Abstract
from abstream.schemas.streams import GROUP

ABSTRACT = Abstract(title="Title", abstract="")


@pytest.fixture
async def used(redis, streams, publisher) -> str:
    """The interactive lane with two answered entries, two in a worker's hands, and one unread."""
    lane = streams.lane("interactive")
    await redis.xgroup_create(lane, GROUP, id="0", mkstream=True)
    await publisher.publish_many([(str(number), ABSTRACT) for number in range(5)])
    [[_, read]] = await redis.xreadgroup(GROUP, "worker", {lane: ">"}, count=4)
    await redis.xack(lane, GROUP, *[entry for entry, _ in read[:2]])
    return lane


async def test_init_creates_both_lanes_and_can_be_repeated(abstream, redis, streams):
    assert [abstream("streams", "init").returncode for _ in range(2)] == [0, 0]
    for lane in ("interactive", "bulk"):
        [group] = await redis.xinfo_groups(streams.lane(lane))
        assert (group["name"], group["last-delivered-id"]) == (GROUP.encode(), b"0-0")


async def test_info_gives_programs_the_backlog_and_its_holders(abstream, used, streams):
    done = abstream("streams", "info", "--json")

    assert done.returncode == 0, done.stderr
    found = {row["stream"]: row for row in json.loads(done.stdout)}
    lane = found[used]
    assert (lane["length"], lane["lag"], lane["pending"]) == (5, 1, 2)
    assert lane["oldest_unanswered_seconds"] > 0
    [group] = lane["groups"]
    [consumer] = group["consumers"]
    assert (group["group"], consumer["consumer"], consumer["pending"]) == (GROUP, "worker", 2)
    assert found[streams.lane("bulk")] == {
        "stream": streams.lane("bulk"),
        "length": 0,
        "lag": None,
        "pending": None,
        "oldest_unanswered_seconds": None,
        "groups": [],
    }
    assert set(found) > {streams.predictions, streams.refusals}


async def test_info_gives_people_the_same_in_tables(abstream, used):
    streams_table, groups, consumers = abstream("streams", "info").stdout.decode().split("\n\n")
    assert streams_table.splitlines()[0].split() == ["stream", "length", "lag", "pending", "oldest_unanswered_seconds"]
    assert streams_table.splitlines()[1].split()[:4] == [used, "5", "1", "2"]
    assert groups.splitlines()[1].split()[:2] == [used, GROUP]
    assert consumers.splitlines()[1].split()[:4] == [used, GROUP, "worker", "2"]


async def test_trim_removes_what_every_group_has_acknowledged_and_says_how_much(abstream, used, redis):
    await redis.xgroup_create(used, "auditors", id="0")
    assert json.loads(abstream("streams", "trim", "--json").stdout)[used] == 0
    await redis.xgroup_destroy(used, "auditors")

    done = abstream("streams", "trim")

    assert done.returncode == 0
    assert [used, "2"] in [line.split() for line in done.stdout.decode().splitlines()]
    assert await redis.xlen(used) == 3


@pytest.mark.parametrize("command", ["init", "info", "trim"])
def test_without_redis_the_command_exits_5(abstream, command):
    done = abstream("streams", command, REDIS_URL="unix:///nowhere/redis.sock")
    assert done.returncode == 5
    assert b"Traceback" not in done.stderr


async def test_a_key_that_is_not_a_stream_is_named(abstream, redis, streams):
    await redis.set(streams.predictions, "somebody else's")
    done = abstream("streams", "info")
    assert done.returncode == 1
    assert b"WRONGTYPE" in done.stderr
