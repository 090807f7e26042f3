"""Each script makes its change in Redis atomically. All tests run on a real server and on fakeredis."""

import pytest
from abstream.consumer.scripts import script
from abstream.schemas import Streams
from abstream.schemas.streams import GROUP
from redis.exceptions import ResponseError

from ..conftest import wait_until


class Shard:
    """A stream with a group, and the scripts called with the usual arguments."""

    def __init__(self, redis, streams: Streams) -> None:
        self.redis = redis
        self.lane = streams.lane("interactive")
        self.keys = [self.lane, streams.lane("bulk"), streams.predictions, streams.refusals, *streams.seen(1e9)]
        self.predictions, self.refusals, self.seen = self.keys[2:5]

    async def add(self, *texts: str) -> list[str]:
        return [(await self.redis.xadd(self.lane, {"title": text})).decode() for text in texts]

    async def read(self, worker: str, count: int = 10) -> None:
        await self.redis.xreadgroup(GROUP, worker, {self.lane: ">"}, count=count)

    async def commit(self, *answers: tuple[str, int, str, str]) -> list[int]:
        arguments = [value for entry, *answer in answers for value in (1, entry, *answer)]
        return await script(self.redis, "commit")(self.keys, [GROUP, 60, *arguments])

    async def call(self, name: str, *arguments: str | int):
        return await script(self.redis, name)([self.lane], [GROUP, *arguments])

    async def reclaim(
        self, lease: int = 1, most: int = 10, size: int = 1000, least: int = 0, greatest: int = 9
    ) -> list:
        return await self.call("reclaim", "heir", lease, most, size, least, greatest)

    async def become_idle(self) -> None:
        """Return once every pending entry has been idle for some milliseconds."""
        await wait_until(self._are_idle)

    async def _are_idle(self) -> bool:
        return all(held["time_since_delivered"] > 2 for held in await self.pending())

    async def pending(self) -> list[dict]:
        return await self.redis.xpending_range(self.lane, GROUP, "-", "+", 10)


@pytest.fixture
async def shard(either_redis, streams):
    shard = Shard(either_redis, streams)
    for lane in shard.keys[:2]:
        await either_redis.xgroup_create(lane, GROUP, id="0", mkstream=True)
    return shard


async def test_commit_acknowledges_and_publishes(shard):
    [entry] = await shard.add("a")
    await shard.read("one")

    assert await shard.commit((entry, 3, "identity", "event")) == [1]

    assert [fields for _, fields in await shard.redis.xrange(shard.predictions)] == [{b"event": b"event"}]
    assert await shard.pending() == []


async def test_the_second_commit_of_an_entry_changes_nothing(shard):
    """It comes from a worker that lost its lease, or was repeated since the reply was lost."""
    [entry] = await shard.add("a")
    await shard.read("one")

    assert await shard.commit((entry, 3, "identity", "first")) == [1]
    assert await shard.commit((entry, 3, "identity", "second")) == [0]

    assert await shard.redis.xlen(shard.predictions) == 1


async def test_the_second_submission_of_an_identity_is_acknowledged_and_not_published(shard):
    first, again = await shard.add("a", "a again")
    await shard.read("one")

    assert await shard.commit((first, 3, "identity", "event"), (again, 3, "identity", "event")) == [1, 2]

    assert await shard.redis.xlen(shard.predictions) == 1
    assert await shard.pending() == []


async def test_a_refusal_goes_to_the_refusals_and_leaves_the_identity_free(shard):
    """A refused abstract may be mended and sent again under the same id."""
    first, mended = await shard.add("a", "mended")
    await shard.read("one")

    assert await shard.commit((first, 4, "", "refusal"), (mended, 3, "identity", "event")) == [1, 1]

    assert await shard.redis.xlen(shard.refusals) == await shard.redis.xlen(shard.predictions) == 1


async def test_after_the_group_is_lost_a_refused_entry_gets_no_result_but_its_replay_does(shard):
    [entry] = await shard.add("a")
    await shard.read("one")
    assert await shard.commit((entry, 4, "identity", "refusal")) == [1]
    await shard.redis.xgroup_setid(shard.lane, GROUP, "0")
    [replay] = await shard.add("a")
    await shard.read("one")

    assert await shard.commit((entry, 3, "identity", "event"), (replay, 3, "identity", "event")) == [2, 1]


async def test_after_the_group_is_lost_an_answered_entry_is_not_refused(shard):
    [entry] = await shard.add("a")
    await shard.read("one")
    assert await shard.commit((entry, 3, "identity", "event")) == [1]
    await shard.redis.xgroup_setid(shard.lane, GROUP, "0")
    await shard.read("one")

    assert await shard.commit((entry, 4, "identity", "refusal")) == [2]
    assert await shard.redis.xlen(shard.refusals) == 0


async def test_an_entry_that_was_never_delivered_cannot_be_answered(shard):
    [entry] = await shard.add("a")
    assert await shard.commit((entry, 3, "identity", "event")) == [0]
    assert await shard.redis.xlen(shard.predictions) == 0


@pytest.mark.parametrize("position", range(1, 7))
async def test_a_key_of_the_wrong_type_stops_a_commit_before_it_changes_anything(shard, position):
    entries = await shard.add("a", "b")
    await shard.read("one")
    await shard.redis.delete(shard.keys[position])
    await shard.redis.set(shard.keys[position], "somebody else's")

    with pytest.raises(ResponseError, match="rename or delete it"):
        await shard.commit(*((entry, 3, entry, "event") for entry in entries))

    assert [held["message_id"].decode() for held in await shard.pending()] == entries


async def test_reclaim_takes_only_entries_idle_for_longer_than_the_lease(shard):
    [entry] = await shard.add("a")
    await shard.read("dead")
    await shard.become_idle()

    assert await shard.reclaim(lease=60_000) == []
    [[taken, deliveries, owner, fields]] = await shard.reclaim()

    assert (taken.decode(), deliveries, owner, fields) == (entry, 1, b"dead", [b"title", b"a"])
    [held] = await shard.pending()
    assert (held["consumer"], held["times_delivered"]) == (b"heir", 2)


async def test_reclaim_takes_no_more_than_asked_for_and_counts_only_those_deliveries(shard):
    await shard.add("a", "b", "c")
    await shard.read("dead")
    await shard.become_idle()

    assert len(await shard.reclaim(most=2)) == 2

    assert [held["times_delivered"] for held in await shard.pending()] == [2, 2, 1]


async def test_reclaim_reports_trimmed_entries(shard):
    await shard.add("a")
    await shard.read("dead")
    await shard.become_idle()
    await shard.redis.xtrim(shard.lane, maxlen=0, approximate=False)

    [[_, _, owner, fields]] = await shard.reclaim()

    assert (owner, fields) == (b"dead", None)
    assert len(await shard.pending()) == 1, "it stays pending until its refusal is committed"


async def test_extend_renews_only_the_workers_own_leases(shard):
    mine, others = await shard.add("a", "b")
    await shard.read("me", count=1)
    await shard.read("other", count=1)

    assert await shard.call("extend", "me", mine, others, "1-1") == [others.encode(), b"1-1"]

    assert [held["times_delivered"] for held in await shard.pending()] == [1, 1]


@pytest.mark.parametrize(("forget", "deliveries"), [(1, 0), (0, 1)])
async def test_release_hands_back_at_once_and_uncounts_the_delivery_unless_the_entry_is_suspected(
    shard, forget, deliveries
):
    mine, others = await shard.add("a", "b")
    await shard.read("me", count=1)
    await shard.read("other", count=1)

    assert await shard.call("release", "me", 3_600_000, forget, mine, others) == 1

    assert [held["times_delivered"] for held in await shard.pending()] == [deliveries, 1]
    [[taken, *_]] = await shard.reclaim(lease=1_800_000)
    assert taken.decode() == mine


async def test_a_release_that_is_repeated_since_its_reply_was_lost_counts_no_fewer_than_no_deliveries(shard):
    [entry] = await shard.add("a")
    await shard.read("me")

    for _ in range(2):
        assert await shard.call("release", "me", 1, 1, entry) == 1

    assert [held["times_delivered"] for held in await shard.pending()] == [0]


async def test_all_leases_restart_however_many_there_are(shard):
    entries = await shard.add(*map(str, range(201)))
    await shard.read("dead", count=len(entries))
    await shard.redis.xclaim(shard.lane, GROUP, "dead", 0, entries, idle=3_600_000, justid=True)

    assert await shard.call("restart_leases") == len(entries)

    held = await shard.redis.xpending_range(shard.lane, GROUP, "-", "+", len(entries))
    assert max(one["time_since_delivered"] for one in held) < 1_800_000


@pytest.mark.parametrize("call", [("extend", "me"), ("release", "me", 1, 1)])
async def test_trimmed_entries_are_neither_renewed_nor_handed_back_so_that_they_are_reported(shard, call):
    [entry] = await shard.add("a")
    await shard.read("me")
    await shard.redis.xtrim(shard.lane, maxlen=0, approximate=False)

    assert not await shard.call(*call, entry)

    [held] = await shard.pending()
    assert held["times_delivered"] == 1


async def test_reclaim_takes_only_entries_with_the_delivery_counts_asked_for(shard):
    entries = await shard.add("a", "b", "c")
    await shard.read("dead")
    for times, entry in enumerate(entries, 1):
        await shard.redis.xclaim(shard.lane, GROUP, "dead", 0, [entry], retrycount=times)
    await shard.become_idle()

    assert [taken.decode() for taken, *_ in await shard.reclaim(least=3)] == [entries[2]]
    assert [taken.decode() for taken, *_ in await shard.reclaim(least=2, greatest=2)] == [entries[1]]


async def test_reclaim_finds_an_entry_behind_many_with_other_delivery_counts(shard):
    entries = await shard.add(*map(str, range(250)))
    await shard.read("dead", count=250)
    await shard.redis.xclaim(shard.lane, GROUP, "dead", 0, [entries[-1]], retrycount=2)
    await shard.become_idle()

    assert [taken.decode() for taken, *_ in await shard.reclaim(least=2)] == [entries[-1]]


async def test_reclaim_stops_once_the_size_limit_is_reached(shard):
    await shard.add(*["x" * 600] * 20)
    await shard.read("dead", count=20)
    await shard.become_idle()

    assert len(await shard.reclaim(most=20, size=1000)) == 2
