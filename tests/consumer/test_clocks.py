"""The clock of a worker jumps by an hour, either way: nothing that is promised goes by it.

Leases are kept by Redis, by its own clock. That one cannot be moved from here: ops/bench/RESULTS.md, "Chaos", says what
was tried by hand.
"""

import time

import pytest
from abstream import Abstract
from abstream.schemas.streams import DEDUPE_WINDOW_SECONDS

from ..conftest import wait_until
from ..story.test_3_nothing_is_lost_nothing_is_repeated import start_slow, take_and_die

LEASE_SECONDS = 0.3
HOUR_SECONDS = 3_600
MIDNIGHT_SECONDS = 20_500 * DEDUPE_WINDOW_SECONDS


def some(*ids: object) -> list[tuple[str, Abstract]]:
    return [(str(id_), Abstract(title=f"Abstract {id_}", abstract="")) for id_ in ids]


@pytest.mark.parametrize("jump_seconds", [-HOUR_SECONDS, HOUR_SECONDS])
async def test_whatever_the_clock_says_no_latency_is_negative(
    jump_seconds, monkeypatch, publisher, subscriber, workers
):
    now = time.time
    await publisher.publish_many(some(1))
    monkeypatch.setattr(time, "time", lambda: now() + jump_seconds)

    await workers.burst()

    [(_, result)] = [entry async for entry in subscriber.predictions(since="0", until_idle=0.1)]
    timing = result.data.timing
    assert min(timing.queued_ms, timing.inference_ms, timing.total_ms) >= 0


@pytest.mark.parametrize("jump_seconds", [-HOUR_SECONDS, HOUR_SECONDS])
async def test_leases_do_not_go_by_the_clock_of_a_worker(
    jump_seconds, monkeypatch, redis, streams, publisher, subscriber, workers
):
    """It jumps while one computes and another is dead: the abstract of the dead is taken over, the other is not."""
    now = time.time
    await publisher.publish_many(some(1))
    slow, engine, task = await start_slow(workers, LEASE_SECONDS)
    slow.source.stop()
    await wait_until(lambda: not any(inlet.reading.locked() for inlet in slow.source.inlets), "its last reads")
    await publisher.publish_many(some(2))
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
async def test_what_comes_again_is_known_though_the_clock_jumped_over_midnight(
    minutes, jump_seconds, monkeypatch, redis, streams, publisher, workers
):
    """Identities are kept day by day; a worker whose clock is an hour off is in the day before or after."""
    moment = MIDNIGHT_SECONDS + 60 * minutes
    for seconds in (moment, moment + jump_seconds):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
        await publisher.publish_many(some(1))
        await workers.burst()

    assert await redis.xlen(streams.predictions) == 1
    assert await workers.pending() == 0
