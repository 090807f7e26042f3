"""The clock of a worker jumps by an hour in either direction, and no promise depends on it.

Leases go by the clock of Redis, which libfaketime moves where it is installed.
"""

import time
from pathlib import Path

import pytest
from abstream import Publisher, Subscriber
from abstream.consumer.clocks import ServerClock
from abstream.consumer.shards import inlets
from abstream.ops.embedded import embedded_redis
from abstream.schemas import Streams
from abstream.schemas.streams import DEDUPE_WINDOW_SECONDS, GROUP

from ..conftest import Workers, connect, numbered, wait_until
from ..story.test_3_nothing_is_lost_nothing_is_repeated import start_slow, take_and_die

LEASE_SECONDS = 0.3
LEASE_MILLISECONDS = 60_000
HOUR_SECONDS = 3_600
MIDNIGHT_SECONDS = 20_500 * DEDUPE_WINDOW_SECONDS


@pytest.mark.parametrize("jump_seconds", [-HOUR_SECONDS, HOUR_SECONDS])
async def test_whatever_the_clock_says_no_latency_is_negative(
    jump_seconds, monkeypatch, publisher, subscriber, workers
):
    now = time.time
    await publisher.publish_many(numbered(1))
    monkeypatch.setattr(time, "time", lambda: now() + jump_seconds)

    await workers.burst()

    [(_, result)] = [entry async for entry in subscriber.predictions(since="0", until_idle=0.1)]
    timing = result.data.timing
    assert min(timing.queued_ms, timing.inference_ms, timing.total_ms) >= 0


@pytest.mark.parametrize("jump_seconds", [-HOUR_SECONDS, HOUR_SECONDS])
async def test_leases_do_not_depend_on_the_clock_of_a_worker(
    jump_seconds, monkeypatch, redis, streams, publisher, subscriber, workers
):
    """The clock jumps while one worker computes and another is dead: only the dead one's abstract is taken over."""
    now = time.time
    await publisher.publish_many(numbered(1))
    slow, engine, task = await start_slow(workers, LEASE_SECONDS)
    slow.source.stop()
    await wait_until(lambda: not any(inlet.reading.locked() for inlet in slow.source.inlets), "its last reads")
    await publisher.publish_many(numbered(2))
    await take_and_die(redis, streams, 1)
    monkeypatch.setattr(time, "time", lambda: now() + jump_seconds)

    async with workers.running("heir", lease_seconds=LEASE_SECONDS) as heir:
        await wait_until(lambda: redis.xlen(streams.predictions), "what the dead one had")
        engine.go()
        await task

    answered = [result.causationid async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    assert answered == ["2", "1"]
    assert heir.metrics.registry.get_sample_value("abstream_redeliveries_total") == 1


@pytest.mark.parametrize(("minutes", "jump_seconds"), [(10, -HOUR_SECONDS), (-10, HOUR_SECONDS)])
async def test_a_resubmission_is_recognised_although_the_clock_jumped_over_midnight(
    minutes, jump_seconds, monkeypatch, redis, streams, publisher, workers
):
    """Identities are kept day by day, and for a worker whose clock is an hour off it is the day before or after."""
    moment = MIDNIGHT_SECONDS + 60 * minutes
    for seconds in (moment, moment + jump_seconds):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
        await publisher.publish_many(numbered(1))
        await workers.burst()

    assert await redis.xlen(streams.predictions) == 1
    assert await workers.pending() == 0


async def test_identities_are_kept_until_the_window_after_theirs_has_ended(redis, streams, publisher, workers):
    await publisher.publish_many(numbered(1))
    await workers.burst()

    [seen] = await redis.keys(streams.seen(time.time())[0].rpartition(":")[0] + ":*")
    assert 0 <= 2 * DEDUPE_WINDOW_SECONDS - await redis.ttl(seen) < 60


def test_a_clock_set_back_is_noticed_once_and_a_forward_jump_is_not_taken_for_one(monkeypatch):
    clock, now = ServerClock(), 5_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    looks = [7_000_000, 7_000_000 + HOUR_SECONDS * 1000, 7_000_000, 7_000_000]

    assert [clock.set_back_by(milliseconds) for milliseconds in looks] == [0, 0, HOUR_SECONDS * 1000, 0]


async def test_when_the_clock_of_redis_is_set_back_every_lease_starts_again(monkeypatch, redis, streams, workers):
    """Seen from the worker, its monotonic clock advanced by an hour while that of Redis did not."""
    [inlet, _] = inlets(workers.shards, "heir")
    await inlet.create_group()
    [kept, trimmed] = [await redis.xadd(inlet.stream, {"title": "T"}) for _ in range(2)]
    await take_and_die(redis, streams, 2)
    await redis.xclaim(inlet.stream, GROUP, "dead", 0, [kept, trimmed], idle=LEASE_MILLISECONDS // 2, justid=True)
    await redis.xdel(inlet.stream, trimmed)
    assert await inlet.oldest_expired(LEASE_MILLISECONDS) == []
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + HOUR_SECONDS)

    assert await inlet.oldest_expired(LEASE_MILLISECONDS) == []

    held, lost = await redis.xpending_range(inlet.stream, GROUP, "-", "+", 10)
    assert held["time_since_delivered"] < LEASE_MILLISECONDS // 2 <= lost["time_since_delivered"]
    assert [one["consumer"] for one in (held, lost)] == [b"dead", b"dead"]
    assert [one["times_delivered"] for one in (held, lost)] == [1, 1]


@pytest.fixture
def moved(monkeypatch, tmp_path):
    """The URL of a Redis server, and a function that sets its clock ``seconds`` off the true time."""
    found = sorted(Path("/usr").glob("lib*/**/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed")
    offset = tmp_path / "offset"

    def move(seconds: int) -> None:
        offset.write_text(f"{seconds:+d}s\n")

    move(0)
    faked = {"LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": offset, "FAKETIME_NO_CACHE": 1}
    with monkeypatch.context() as environment:
        for name, value in {**faked, "FAKETIME_DONT_FAKE_MONOTONIC": 1}.items():
            environment.setenv(name, str(value))
        running = embedded_redis()
        url = running.__enter__()
    yield url, move
    running.__exit__(None, None, None)


async def test_the_entries_of_a_dead_worker_are_taken_over_although_the_clock_of_redis_was_set_back(
    monkeypatch, moved, streams
):
    (url, move), looked = moved, []
    noticed = ServerClock.set_back_by
    monkeypatch.setattr(ServerClock, "set_back_by", lambda self, now: looked.append(now) or noticed(self, now))
    redis = connect(url)
    workers = Workers(redis, streams)
    async with Publisher(url, namespace="aside") as aside:
        await aside.publish_many(numbered(2))
    [(_, fields)] = await redis.xrange(Streams("aside").lane("interactive"))

    async with workers.running(lease_seconds=LEASE_SECONDS):
        await wait_until(lambda: looked, "a first look at the clock")
        async with redis.pipeline(transaction=True) as at_once:  # so that the other worker cannot read it first
            at_once.xadd(streams.lane("interactive"), fields)
            await take_and_die(at_once, streams, 1)
            await at_once.execute()
        move(-HOUR_SECONDS)
        await wait_until(lambda: redis.xlen(streams.predictions), "what the dead one had")

    async with Subscriber(url, namespace=streams.namespace) as subscriber:
        answered = [result.causationid async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    assert answered == ["2"]
    await redis.aclose()
