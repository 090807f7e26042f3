"""Upkeep keeps streams small, trims nothing that is still needed, and reports what others removed."""

import asyncio

import pytest
import structlog
from abstream import Abstract, BacklogFull, Publisher
from abstream.consumer import upkeep
from abstream.consumer.config import WorkerConfig
from abstream.consumer.metrics import Metrics
from abstream.consumer.tasks import end
from abstream.consumer.upkeep import Loss, Upkeep, loss
from abstream.ops.embedded import embedded_redis
from abstream.producer.connection import connect
from abstream.schemas import AbstractRefused
from abstream.schemas.streams import GROUP, from_fields
from redis.exceptions import ConnectionError as RedisConnectionError

from ..conftest import wait_until

DAY = 24 * 3600


class Lane:
    """The interactive lane with its group and its upkeep."""

    def __init__(self, redis, streams) -> None:
        self.redis = redis
        self.streams = streams
        self.key = streams.lane("interactive")
        self.metrics = Metrics("test")
        self.upkeep = self.another_upkeep()

    def another_upkeep(self) -> Upkeep:
        return Upkeep(self.redis, self.streams, WorkerConfig(name="keeper"), self.metrics)

    async def add(self, count: int) -> list[bytes]:
        return [await self.redis.xadd(self.key, {"title": str(number)}) for number in range(count)]

    async def read(self, count: int, worker: str = "worker", group: str = GROUP) -> list[bytes]:
        found = await self.redis.xreadgroup(group, worker, {self.key: ">"}, count=count)
        return [entry for entry, _ in found[0][1]] if found else []

    async def answer(self, *entries: bytes, group: str = GROUP) -> None:
        await self.redis.xack(self.key, group, *entries)

    async def read_and_answer(self, count: int, group: str = GROUP) -> None:
        await self.answer(*await self.read(count, group=group), group=group)

    async def left(self) -> list[bytes]:
        return [entry for entry, _ in await self.redis.xrange(self.key)]

    async def refusals(self) -> list[AbstractRefused]:
        return [from_fields(fields) for _, fields in await self.redis.xrange(self.streams.refusals)]

    async def consumers(self) -> list[dict]:
        return await self.redis.xinfo_consumers(self.key, GROUP)

    async def is_clean(self) -> bool:
        return await self.redis.xlen(self.key) == len(await self.consumers()) == 0

    def counted(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"abstream_{name}_total", labels)


@pytest.fixture
async def lane(either_redis, streams) -> Lane:
    await either_redis.xgroup_create(streams.lane("interactive"), GROUP, id="0", mkstream=True)
    return Lane(either_redis, streams)


@pytest.fixture
async def counting(lane) -> Lane:
    """The lane, on servers that count what was added and read (Redis 7)."""
    if "entries-added" not in await lane.redis.xinfo_stream(lane.key):
        pytest.skip("before Redis 7.0 nothing tells that an unread entry is missing")
    return lane


async def test_only_answered_entries_are_trimmed(lane):
    entries = await lane.add(6)
    await lane.answer(*(await lane.read(4))[:2])

    assert (await lane.upkeep.trim())[lane.key] == 2

    assert await lane.left() == entries[2:], "two are in a worker's hands, two are unread"
    assert await lane.upkeep.trim() == dict.fromkeys(await lane.upkeep.trim(), 0)


async def test_an_answered_entry_behind_a_held_one_stays(lane):
    """Trimming it would also remove the held entry before it."""
    entries = await lane.add(3)
    held, *answered = await lane.read(3)
    await lane.answer(*answered)
    await lane.upkeep.trim()
    assert await lane.left() == entries
    await lane.answer(held)
    await lane.upkeep.trim()
    assert await lane.left() == []


async def test_the_group_that_lags_most_decides_what_is_trimmed(lane):
    await lane.redis.xgroup_create(lane.key, "auditors", id="0")
    entries = await lane.add(6)
    await lane.read_and_answer(6)
    await lane.upkeep.trim()
    assert await lane.left() == entries

    await lane.read_and_answer(2, group="auditors")
    [held] = await lane.read(1, group="auditors")
    await lane.upkeep.trim()
    assert held == entries[2]
    assert await lane.left() == entries[2:]


async def test_entries_after_the_position_a_group_was_set_back_to_stay(lane):
    """Pending entries may lie after the group's position when an operator has moved it."""
    entries = await lane.add(4)
    await lane.read(4)
    await lane.redis.xgroup_setid(lane.key, GROUP, entries[0])
    await lane.answer(*entries[:3])
    await lane.upkeep.trim()
    assert await lane.left() == entries[1:]


async def test_a_lane_without_a_group_is_not_trimmed(lane):
    bulk = lane.streams.lane("bulk")
    await lane.redis.xadd(bulk, {"title": "early"})
    assert (await lane.upkeep.trim())[bulk] == 0
    assert await lane.redis.xlen(bulk) == 1


async def test_entry_ids_are_compared_as_numbers(lane):
    largest = 2**64 - 1
    for entry in ("9-5", "10-1", f"10-{largest}", "11-0"):
        await lane.redis.xadd(lane.key, {"title": entry}, id=entry)
    await lane.read_and_answer(3)
    await lane.upkeep.trim()
    assert await lane.left() == [f"10-{largest}".encode(), b"11-0"], "no script can add one to so large a number"


async def test_the_ninth_entry_of_a_millisecond_precedes_the_tenth(lane):
    for number in range(8, 12):
        await lane.redis.xadd(lane.key, {"title": ""}, id=f"5-{number}")
    await lane.redis.xgroup_create(lane.key, "auditors", id="5-8")
    await lane.read_and_answer(2)
    await lane.upkeep.trim()
    assert await lane.left() == [b"5-9", b"5-10", b"5-11"]


async def test_a_large_stream_is_trimmed_in_steps(lane):
    """So Redis serves other clients in between."""
    pipeline = lane.redis.pipeline(transaction=False)
    for number in range(1, 12_001):
        pipeline.xadd(lane.key, {"title": ""}, id=f"{number}-0")
    await pipeline.execute()
    await lane.redis.xgroup_setid(lane.key, GROUP, "11990-0")
    assert (await lane.upkeep.trim())[lane.key] == 11_990
    assert await lane.redis.xlen(lane.key) == 10


async def test_results_are_kept_for_a_week_and_longer_while_a_group_needs_them(lane):
    now = int((await lane.redis.time())[0])
    ages = [8 * DAY, 8 * DAY - 1, DAY]
    results = [
        await lane.redis.xadd(lane.streams.predictions, {"event": "{}"}, id=f"{(now - age) * 1000}-0") for age in ages
    ]
    refusal = await lane.redis.xadd(lane.streams.refusals, {"event": "{}"}, id=f"{(now - 8 * DAY) * 1000}-0")
    await lane.redis.xgroup_create(lane.streams.predictions, "subscribers", id=results[0])

    removed = await lane.upkeep.trim()
    assert (removed[lane.streams.predictions], removed[lane.streams.refusals]) == (1, 0)
    await lane.redis.xgroup_destroy(lane.streams.predictions, "subscribers")
    await lane.upkeep.trim()

    assert [entry for entry, _ in await lane.redis.xrange(lane.streams.predictions)] == results[2:]
    assert [entry for entry, _ in await lane.redis.xrange(lane.streams.refusals)] == [refusal], "a person may be away"


async def test_a_thousand_dead_consumers_are_removed_but_not_those_that_hold_entries(lane, monkeypatch):
    for number in range(1000):
        await lane.redis.xgroup_createconsumer(lane.key, GROUP, f"dead-{number}")
    await lane.add(1)
    await lane.read(1, worker="holds")
    monkeypatch.setattr(upkeep, "SILENCE_SECONDS", 0.001)

    async def all_silent() -> bool:
        return all(consumer["idle"] > 1 for consumer in await lane.consumers())

    await wait_until(all_silent)
    assert await lane.upkeep.reap() == 1000
    assert [consumer["name"] for consumer in await lane.consumers()] == [b"holds"]
    assert len(await lane.redis.xpending_range(lane.key, GROUP, "-", "+", 10)) == 1


async def test_a_consumer_that_was_active_recently_stays(lane):
    await lane.redis.xgroup_createconsumer(lane.key, GROUP, "alive")
    assert await lane.upkeep.reap() == 0
    assert len(await lane.consumers()) == 1


async def test_a_worker_that_is_removed_while_it_waits_continues_to_read(redis, streams, monkeypatch):
    """On a quiet stream, some versions of Redis report a blocked reader as idle."""
    monkeypatch.setattr(upkeep, "SILENCE_SECONDS", 0)
    lane = Lane(redis, streams)
    await redis.xgroup_create(lane.key, GROUP, id="0", mkstream=True)
    await redis.xgroup_createconsumer(lane.key, GROUP, "alive")
    waiting = asyncio.create_task(redis.xreadgroup(GROUP, "alive", {lane.key: ">"}, block=4_000))

    async def is_blocked() -> bool:
        return (await redis.info("clients"))["blocked_clients"] > 0

    async def is_reaped() -> bool:
        return await lane.upkeep.reap() == 1

    await wait_until(is_blocked)
    await wait_until(is_reaped)
    [entry] = await lane.add(1)
    await waiting
    [held] = await redis.xpending_range(lane.key, GROUP, "-", "+", 10)
    assert (held["message_id"], held["consumer"]) == (entry, b"alive")


async def test_unread_entries_that_were_trimmed_are_refused_once(counting):
    lane, other = counting, counting.another_upkeep()
    entries = await lane.add(6)
    await lane.read_and_answer(1)
    for keeper in (lane.upkeep, other):
        assert await keeper.report_losses() == []
    await lane.redis.xtrim(lane.key, maxlen=2, approximate=False)

    reported = await asyncio.gather(lane.upkeep.report_losses(), other.report_losses())

    assert [lost for losses in reported for lost in losses] == [
        Loss(3, entries[0].decode(), entries[4].decode(), last_known=False)
    ]
    [refusal] = await lane.refusals()
    assert (refusal.data.reason, refusal.data.deliveries) == ("trimmed", 0)
    assert f"after {entries[0].decode()} and before {entries[4].decode()}" in refusal.data.message
    assert lane.counted("trimmed_undelivered", lane="interactive") == 3
    assert lane.counted("refusals", reason="trimmed") == 1


async def test_the_lag_is_corrected_after_a_loss(counting):
    """Redis keeps counting removed entries as unread, and publishers would be refused because of them."""
    lane = counting
    await lane.add(6)
    await lane.read_and_answer(1)
    await lane.redis.xtrim(lane.key, maxlen=2, approximate=False)
    await lane.upkeep.report_losses()
    assert (await lane.redis.xinfo_groups(lane.key))[0]["lag"] == 2
    await lane.read(1)
    assert (await lane.redis.xinfo_groups(lane.key))[0]["lag"] == 1
    assert await lane.upkeep.report_losses() == []


async def test_a_loss_is_found_and_the_lag_corrected_although_workers_have_read_on(counting):
    lane = counting
    await lane.add(8)
    await lane.read_and_answer(1)
    await lane.redis.xtrim(lane.key, maxlen=4, approximate=False)
    await lane.read(2)
    if (await lane.redis.xinfo_groups(lane.key))[0]["entries-read"] == 6:
        pytest.skip("this server counts anew when a group reads over a gap: only a look before that tells")
    [lost] = await lane.upkeep.report_losses()
    assert lost.entries == 1, "of three: two more show when what is in a worker's hands is answered"
    assert (await lane.redis.xinfo_groups(lane.key))[0]["lag"] == 2
    await lane.read_and_answer(2)
    assert await lane.upkeep.report_losses() == []


async def test_an_unread_entry_that_was_deleted_is_refused_once(counting):
    lane = counting
    entries = await lane.add(4)
    await lane.read_and_answer(1)
    await lane.redis.xdel(lane.key, entries[2])
    for _ in range(2):
        await lane.upkeep.report_losses()
    [refusal] = await lane.refusals()
    assert refusal.data.original.entry_id == entries[2].decode()
    assert f"up to {entries[2].decode()}" in refusal.data.message


async def test_entries_trimmed_by_upkeep_are_not_reported_as_lost(counting):
    lane = counting
    await lane.add(6)
    held, *answered = await lane.read(4)
    for step in (answered[:1], answered[1:], [held]):
        await lane.answer(*step)
        await lane.upkeep.trim()
        assert await lane.upkeep.report_losses() == []
    await lane.read_and_answer(2)
    await lane.upkeep.trim()
    assert await lane.upkeep.report_losses() == []
    assert await lane.refusals() == []


def test_no_loss_is_reported_on_a_server_that_does_not_count():
    assert loss({"length": 1}, {"last-delivered-id": b"1-0"}, "0-0") is None


async def test_without_streams_there_is_nothing_to_do(either_redis, streams):
    keeper = Upkeep(either_redis, streams, WorkerConfig(name="keeper"), Metrics("test"))
    assert set((await keeper.trim()).values()) == {0}
    assert await keeper.reap() == 0
    assert await keeper.report_losses() == []
    assert await either_redis.keys(streams._key("*")) == []


async def test_in_each_period_one_worker_has_its_turn(lane):
    keepers = [lane.another_upkeep() for _ in range(3)]
    assert sorted([await keeper.take_turn() for keeper in keepers]) == [False, False, True]
    assert 0 < await lane.redis.pttl(lane.streams.turn) <= upkeep.PERIOD_SECONDS * 1000


async def test_upkeep_runs_until_it_is_cancelled_whatever_redis_refuses(lane, monkeypatch):
    monkeypatch.setattr(upkeep, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(upkeep, "SILENCE_SECONDS", 0.001)
    await lane.redis.set(lane.streams.predictions, "somebody else's")
    await lane.redis.xgroup_createconsumer(lane.key, GROUP, "dead")
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(lane.upkeep.run())
        for _ in range(3):
            await lane.add(1)
            await lane.read_and_answer(1)
            await wait_until(lane.is_clean, "a trimmed lane without dead consumers")
        assert not running.done()
        await end([running])
    refused = [log["step"] for log in logs if log["event"] == "upkeep_put_off"]
    assert refused == ["trim"], "which is said once, and the other steps are done"


async def test_while_redis_is_away_upkeep_waits_for_the_next_period(streams, monkeypatch):
    monkeypatch.setattr(upkeep, "PERIOD_SECONDS", 0.01)
    nowhere = connect("unix:///nowhere/redis.sock")
    tries = []
    monkeypatch.setattr(nowhere, "set", lambda *_, **__: tries.append(1) or nowhere.get("anything"))
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(Upkeep(nowhere, streams, WorkerConfig(name="keeper"), Metrics("test")).run())
        await wait_until(lambda: len(tries) > 2)
        await end([running])
    assert [log["step"] for log in logs] == ["take_turn"]


async def test_a_step_that_fails_again_after_it_worked_is_said_again(redis, streams):
    answers = iter([RedisConnectionError("away"), RedisConnectionError("away"), None, RedisConnectionError("away")])

    async def step() -> None:
        if error := next(answers):
            raise error

    keeper = Upkeep(redis, streams, WorkerConfig(name="keeper"), Metrics("test"))
    with structlog.testing.capture_logs() as logs:
        for _ in range(4):
            await keeper._attempt(step)
    assert [log["event"] for log in logs] == ["upkeep_put_off"] * 2


async def publish_until_full(publisher: Publisher, abstract: Abstract) -> int:
    """Publish until Redis refuses; return how many abstracts were accepted."""
    accepted = 0
    while True:
        try:
            await publisher.publish(abstract)
        except BacklogFull:
            return accepted
        accepted += 1


async def test_a_redis_out_of_memory_recovers_as_its_abstracts_are_answered(streams, namespace):
    """Publishers are refused until workers have committed and upkeep has trimmed."""
    large = Abstract(title="Title", abstract="", metadata={"blob": "x" * 200_000})
    with embedded_redis("--maxmemory", "30mb", "--maxmemory-policy", "noeviction") as url:
        redis = connect(url)
        key = streams.lane("interactive")
        await redis.xgroup_create(key, GROUP, id="0", mkstream=True)
        keeper = Upkeep(redis, streams, WorkerConfig(name="keeper"), Metrics("test"))
        async with Publisher(url, namespace=namespace) as publisher:
            accepted = await publish_until_full(publisher, large)
            [[_, entries]] = await redis.xreadgroup(GROUP, "worker", {key: ">"})
            assert len(entries) == accepted
            await redis.xack(key, GROUP, *[entry for entry, _ in entries])
            assert (await keeper.trim())[key] == accepted
            await publisher.publish(large)
        await redis.aclose()
