"""A store that is out of reach may come back, so the newest adapter is tried again."""

import asyncio
from functools import partial

from abstream.consumer.adapters import cache, postponed
from abstream.consumer.adapters.postponed import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Postponed
from abstream.schemas import AdapterActivated, AdapterRejected, AdapterShadowed, AdapterUpdated
from abstream.schemas.announced import Announced
from abstream.schemas.streams import to_fields
from abstream.training.release import describe, release

from ...conftest import fake_engine, wait_until
from .conftest import fleet_events


def impatient(monkeypatch) -> None:
    monkeypatch.setattr(cache, "PAUSES_SECONDS", ())
    monkeypatch.setattr(postponed, "FIRST_PAUSE_SECONDS", 0.01)


def announced(adapter, entry_id: str) -> Announced:
    return Announced(entry_id, AdapterUpdated(id=entry_id, source="test", data=describe(adapter, None, "activate")))


def test_retries_are_ever_rarer_and_the_postponement_is_news_once(make_adapter):
    waiting, one = Postponed(), announced(make_adapter(), "1-0")
    assert waiting.pause_seconds is None
    assert waiting.postpone(one)
    pauses = [waiting.pause_seconds]
    for _ in range(8):
        assert waiting.take() == [one]
        assert not waiting.postpone(one)
        pauses.append(waiting.pause_seconds)
    assert pauses[:3] == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_only_the_newest_adapter_is_tried_again(make_adapter):
    waiting, newest, older = Postponed(), announced(make_adapter("2"), "2-0"), announced(make_adapter("1"), "1-0")
    assert waiting.postpone(newest)
    assert waiting.postpone(older), "each postponement is news once"
    assert waiting.take() == [newest]


async def test_an_adapter_is_served_once_its_store_is_back(
    redis, streams, workers, make_adapter, tmp_path, monkeypatch
):
    impatient(monkeypatch)
    adapter = make_adapter()
    hidden = tmp_path / "hidden"
    adapter.path.rename(hidden)
    event = AdapterUpdated(id="1", source="test", data=announced_of(hidden, adapter))

    async with workers.following(load_engine=fake_engine) as worker:
        await redis.xadd(streams.output("adapters"), to_fields(event))
        await wait_until(lambda: redis.xlen(streams.output("fleet")), "a first word")
        hidden.rename(adapter.path)
        await wait_until(lambda: worker.engine.model.receipt.adapter_digest == adapter.digest, "the switch")

    events = await fleet_events(redis, streams)
    assert [type(one) for one in events] == [AdapterRejected, AdapterActivated], "the rejection is not repeated"
    assert "is the store mounted here" in events[0].data.reason


async def test_a_superseded_adapter_is_not_tried_again(redis, streams, workers, make_adapter, tmp_path, monkeypatch):
    impatient(monkeypatch)
    gone, newer = make_adapter("1"), make_adapter("2")
    hidden = gone.path.rename(tmp_path / "hidden")
    event = AdapterUpdated(id="1", source="test", data=announced_of(hidden, gone))

    async with workers.following(load_engine=fake_engine) as worker:
        await redis.xadd(streams.output("adapters"), to_fields(event))
        await wait_until(lambda: redis.xlen(streams.output("fleet")), "a first word")
        await release(redis, streams, newer.path, tmp_path / "store")
        await wait_until(lambda: worker.engine.model.receipt.adapter_digest == newer.digest, "the newer one")
        hidden.rename(gone.path)
        looks = worker.metrics.registry.get_sample_value("abstream_adapter_switch_seconds_count", {"phase": "fetch"})
        await redis.xadd(streams.output("adapters"), to_fields(event))  # once it is refused too, time has passed
        await wait_until(lambda: refused_twice(redis, streams))

    fetched = worker.metrics.registry.get_sample_value("abstream_adapter_switch_seconds_count", {"phase": "fetch"})
    assert fetched == looks


async def test_if_its_successor_is_rejected_it_is_served_as_by_a_worker_that_joins_later(
    redis, streams, workers, make_adapter, tmp_path, monkeypatch
):
    impatient(monkeypatch)
    gone, bad = make_adapter("1"), make_adapter("2", base_model={"id": "other", "revision": "7"})
    hidden = gone.path.rename(tmp_path / "hidden")
    event = AdapterUpdated(id="1", source="test", data=announced_of(hidden, gone))
    worker, late_joiner = workers.new(), workers.new("late")
    registry = workers.registry(worker)

    await redis.xadd(streams.output("adapters"), to_fields(event))
    await registry.catch_up()
    hidden.rename(gone.path)
    await release(redis, streams, bad.path, tmp_path / "store")
    for one in (registry, workers.registry(late_joiner)):
        await one.catch_up()

    assert [one.engine.model.receipt.adapter_digest for one in (worker, late_joiner)] == [gone.digest] * 2


async def test_a_shadow_candidate_does_not_stop_an_adapter_from_being_tried_again(
    redis, streams, workers, make_adapter, tmp_path, monkeypatch
):
    impatient(monkeypatch)
    live, candidate = make_adapter("1"), make_adapter("2")
    hidden = live.path.rename(tmp_path / "hidden")
    event = AdapterUpdated(id="1", source="test", data=announced_of(hidden, live))

    async with workers.following(load_engine=fake_engine) as worker:
        await redis.xadd(streams.output("adapters"), to_fields(event))
        await wait_until(lambda: redis.xlen(streams.output("fleet")), "a first word")
        shadow = await release(redis, streams, candidate.path, tmp_path / "store", action="shadow")
        fetched = partial(
            worker.metrics.registry.get_sample_value, "abstream_adapter_switch_seconds_count", {"phase": "probe"}
        )
        await wait_until(fetched, "the candidate")
        hidden.rename(live.path)
        await wait_until(lambda: worker.engine.model.receipt.adapter_digest == live.digest, "the switch")

    assert not await fleet_events(redis, streams, AdapterShadowed), f"{shadow} is newer, and goes on"


async def test_a_swallowed_cancellation_does_not_stop_an_adapter_from_being_tried_again(
    redis, streams, workers, make_adapter, tmp_path, monkeypatch
):
    """Before Python 3.12, redis-py sometimes swallows a cancellation."""
    impatient(monkeypatch)
    adapter = make_adapter()
    hidden = adapter.path.rename(tmp_path / "hidden")
    event = AdapterUpdated(id="1", source="test", data=announced_of(hidden, adapter))
    read = redis.xread

    async def deaf(*args, **options):
        try:
            return await read(*args, **options)
        except asyncio.CancelledError:
            if hidden.exists():
                return []
            raise

    monkeypatch.setattr(redis, "xread", deaf)
    async with workers.following(load_engine=fake_engine) as worker:
        await redis.xadd(streams.output("adapters"), to_fields(event))
        looks = partial(
            worker.metrics.registry.get_sample_value, "abstream_adapter_switch_seconds_count", {"phase": "fetch"}
        )
        try:
            await wait_until(lambda: (looks() or 0) > 2, "it to be asked for again")
        finally:
            hidden.rename(adapter.path)


async def refused_twice(redis, streams) -> bool:
    return len(await fleet_events(redis, streams, AdapterRejected)) == 2


def announced_of(folder, adapter):
    """The update that announces an adapter whose files were moved to ``folder``, as if they were in its store."""
    update = describe(adapter.model_copy(update={"path": folder}), None, "activate")
    return update.model_copy(update={"uri": adapter.path.as_uri()})
