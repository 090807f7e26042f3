"""How workers divide the shards among themselves."""

import asyncio
from itertools import chain, combinations

import pytest
from abstream.consumer import membership
from abstream.consumer.config import WorkerConfig
from abstream.consumer.membership import Membership, share
from abstream.consumer.metrics import Metrics
from abstream.consumer.shards import Shard, inlets
from abstream.consumer.source import Source
from abstream.consumer.tasks import end
from abstream.schemas import Shards
from structlog.testing import capture_logs

from ..conftest import wait_until

FLEETS = [(workers, shards) for workers in range(1, 20) for shards in range(1, 20)]


def shares_of(workers: int, shards: int) -> list[range]:
    return [share(place, workers, shards) for place in range(workers)]


def test_every_shard_has_a_worker_and_every_worker_a_shard():
    for workers, shards in FLEETS:
        shares = shares_of(workers, shards)
        assert all(shares), (workers, shards)
        assert set(chain(*shares)) == set(range(shards)), (workers, shards)


def test_neighbouring_shards_have_their_fair_share_of_workers():
    for workers, shards in FLEETS:
        for begin, stop in combinations(range(shards + 1), 2):
            serving = sum(1 for one in shares_of(workers, shards) if one.start < stop and one.stop > begin)
            assert serving * shards >= (stop - begin) * workers, (workers, shards, begin, stop)


@pytest.mark.parametrize(("workers", "shards", "most"), [(1, 8, 8), (8, 8, 1), (16, 8, 1), (3, 4, 2), (5, 4, 2)])
def test_no_worker_serves_more_shards_than_needed(workers, shards, most):
    assert max(len(share(place, workers, shards)) for place in range(workers)) == most


class Fleet:
    """Workers that divide four shards and read nothing."""

    def __init__(self, redis, names: Shards) -> None:
        self.redis = redis
        self.names = names
        self.served: dict[str, set[int]] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def join(self, name: str) -> None:
        shards = [Shard(self.redis, streams) for streams in self.names.all]
        source = Source(inlets(shards, name), WorkerConfig(name=name), Metrics("test"))
        source.serve = lambda served: self.served.update({name: set(served)})  # type: ignore[method-assign]
        member = Membership(self.redis, self.names.control, name, source, Metrics("test"))
        await member.join()
        self.tasks[name] = asyncio.create_task(member.run())
        await asyncio.sleep(0)  # let it begin

    async def leave(self, name: str) -> None:
        await end([self.tasks.pop(name)])
        del self.served[name]

    async def settles(self, **served: set[int]) -> None:
        await wait_until(lambda: self.served == served, f"the shares {served}, not {self.served}")


@pytest.fixture
async def fleet(redis, namespace, monkeypatch):
    monkeypatch.setattr(membership, "BEAT_SECONDS", 0.02)
    fleet = Fleet(redis, Shards(namespace, 4))
    yield fleet
    await end(fleet.tasks.values())


async def test_shards_are_redistributed_as_workers_join_and_leave(fleet):
    await fleet.join("a")
    await fleet.settles(a={0, 1, 2, 3})
    await fleet.join("b")
    await fleet.settles(a={0, 1}, b={2, 3})
    await fleet.join("c")
    await fleet.settles(a={0, 1}, b={1, 2}, c={2, 3})
    await fleet.leave("b")
    await fleet.settles(a={0, 1}, c={2, 3})


async def test_shares_are_logged_where_they_change(fleet):
    with capture_logs() as logs:
        await fleet.join("a")
        await fleet.join("b")
        await fleet.settles(a={0, 1}, b={2, 3})
        beats = fleet.served["a"]
        await wait_until(lambda: fleet.served["a"] is not beats, "another heartbeat")
    shares = [line["shards"] for line in logs if line["event"] == "shards_served"]
    assert sorted(shares) == [[0, 1], [0, 1, 2, 3], [2, 3]]


async def test_a_worker_that_is_silent_for_long_is_not_counted(fleet, monkeypatch):
    monkeypatch.setattr(membership, "SILENCE_SECONDS", 0.5)
    await fleet.join("a")
    await fleet.redis.zadd(fleet.names.control.workers, {"dead": 1})
    await fleet.settles(a={0, 1, 2, 3})


async def test_a_heartbeat_from_the_future_does_not_count_for_longer(fleet, monkeypatch):
    monkeypatch.setattr(membership, "SILENCE_SECONDS", 0.5)
    await fleet.join("a")
    await fleet.redis.zadd(fleet.names.control.workers, {"dead": 1e15})
    await fleet.settles(a={0, 1})
    await fleet.settles(a={0, 1, 2, 3})


async def test_a_lost_list_of_members_is_created_again(fleet):
    for name in ("a", "b"):
        await fleet.join(name)
    await fleet.redis.delete(fleet.names.control.workers)
    await fleet.settles(a={0, 1}, b={2, 3})
    await wait_until(lambda: fleet.redis.zcard(fleet.names.control.workers), "the list")


async def test_a_worker_that_leaves_signs_off(fleet):
    await fleet.join("a")
    await fleet.leave("a")
    assert await fleet.redis.zrange(fleet.names.control.workers, 0, -1) == []
