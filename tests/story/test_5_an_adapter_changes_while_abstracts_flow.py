"""An adapter is released while abstracts flow: no restart, no gap, and every result names its adapter."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.schemas import ONCOLOGY, AdapterActivated, AdapterRejected, AdapterUpdated
from abstream.schemas.artifacts import Probe
from abstream.schemas.streams import from_fields, to_fields
from abstream.training.release import describe, release
from abstream.training.store import keep

from ..conftest import numbered, wait_until
from ..sealing import PROBES


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


async def answers(redis, streams) -> list[AdapterActivated | AdapterRejected]:
    """What the workers have answered to adapter updates."""
    return [from_fields(fields) for _, fields in await redis.xrange(streams.output("fleet"))]


async def are_answered(redis, streams, count: int) -> bool:
    return await redis.xlen(streams.output("fleet")) >= count


async def have_results(redis, streams, count: int) -> bool:
    return await redis.xlen(streams.predictions) >= count


async def publish(publisher, start: int, stop: int) -> None:
    await publisher.publish_many(numbered(*range(start, stop)))


async def digests(subscriber) -> dict[str, str | None]:
    """Map each abstract to the digest of the adapter that answered it; each has one result."""
    results = [result async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    assert set(Counter(result.causationid for result in results).values()) == {1}
    return {result.causationid: result.data.model.adapter_digest for result in results}


async def test_running_workers_switch_and_every_abstract_has_one_result(
    redis, streams, publisher, subscriber, workers, make_adapter, store
):
    """Once both workers have announced the new adapter, nothing is answered by the old model."""
    adapter = make_adapter()
    enough = asyncio.Event()

    async def keep_publishing() -> int:
        published = 0
        while not enough.is_set():
            await publish(publisher, published, published + 20)
            published += 20
        return published

    async with workers.following("one"), workers.following("two"):
        flow = asyncio.create_task(keep_publishing())
        await wait_until(lambda: have_results(redis, streams, 50))
        await release(redis, streams, adapter.path, store)
        await wait_until(lambda: are_answered(redis, streams, 2), "both workers' answers")
        enough.set()
        before = await flow
        await publish(publisher, before, before + 100)
        await wait_until(lambda: have_results(redis, streams, before + 100))

    said = await answers(redis, streams)
    assert [(type(event), event.data.digest) for event in said] == [(AdapterActivated, adapter.digest)] * 2
    assert {event.data.worker for event in said} == {"one", "two"}
    assert all(event.data.previous_digest is None and event.data.probes.n == 2 for event in said)
    answered = await digests(subscriber)
    assert set(answered) == {str(number) for number in range(before + 100)}
    assert set(answered.values()) == {None, adapter.digest}
    assert {answered[str(number)] for number in range(before, before + 100)} == {adapter.digest}
    assert await workers.pending() == 0


UNSURE = Probe(
    title=PROBES[0].title,
    abstract=PROBES[0].abstract,
    probabilities={
        question.name: dict.fromkeys(question.labels, 1 / len(question.labels)) for question in ONCOLOGY.questions
    },
)

BROKEN = {
    "a file was changed": ({}, "adapter_model.safetensors", "adapter_model.safetensors is not what was announced"),
    "made for another base": ({"base_model": {"id": "other", "revision": "7"}}, None, "was trained on other 7"),
    "answers other than when it was released": ({"probes": (UNSURE,)}, None, "answers to the golden probes differ"),
}


@pytest.mark.parametrize(("manifest", "changed", "reason"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_adapter_is_rejected_and_the_old_one_stays_in_service(
    manifest, changed, reason, redis, streams, publisher, subscriber, workers, make_adapter, store
):
    old, broken = make_adapter("1"), make_adapter("2", **manifest)
    await release(redis, streams, old.path, store)

    async with workers.following() as worker:
        kept = keep(broken, store)
        update = AdapterUpdated(id="2", source="test", data=describe(kept, None, "activate"))
        if changed:
            (kept.path / changed).write_text("9")
        await redis.xadd(streams.output("adapters"), to_fields(update))
        await wait_until(lambda: are_answered(redis, streams, 2))
        await publish(publisher, 0, 10)
        await wait_until(lambda: have_results(redis, streams, 10))

    _, rejected = await answers(redis, streams)
    assert isinstance(rejected, AdapterRejected)
    assert (rejected.data.digest, rejected.data.previous_digest) == (broken.digest, old.digest)
    assert reason in rejected.data.reason
    assert rejected.causationid == "2"
    assert set((await digests(subscriber)).values()) == {old.digest}
    value = worker.metrics.registry.get_sample_value
    assert value("abstream_adapter_switches_total", {"result": "rejected"}) == 1


async def test_a_worker_that_joins_late_starts_with_the_newest_adapter(
    redis, streams, publisher, subscriber, workers, make_adapter, store
):
    """None of its abstracts is answered by the base model, or by an earlier adapter."""
    first, newest = make_adapter("1"), make_adapter("2")
    for adapter in (first, newest):
        await release(redis, streams, adapter.path, store)
    await publish(publisher, 0, 10)

    async with workers.following():
        await wait_until(lambda: have_results(redis, streams, 10))

    assert [event.data.digest for event in await answers(redis, streams)] == [newest.digest]
    assert set((await digests(subscriber)).values()) == {newest.digest}


async def test_a_worker_that_joins_late_skips_what_the_others_rejected(
    redis, streams, publisher, subscriber, workers, make_adapter, store
):
    """So it serves the same adapter as the others."""
    sound, unsound = make_adapter("1"), make_adapter("2", probes=(UNSURE,))
    for adapter in (sound, unsound):
        await release(redis, streams, adapter.path, store)
    await publish(publisher, 0, 10)

    async with workers.following():
        await wait_until(lambda: have_results(redis, streams, 10))

    assert [type(event) for event in await answers(redis, streams)] == [AdapterRejected, AdapterActivated]
    assert set((await digests(subscriber)).values()) == {sound.digest}


async def test_the_base_model_answers_where_no_adapter_can_be_served(
    redis, streams, publisher, subscriber, workers, make_adapter, store
):
    await release(redis, streams, make_adapter(probes=(UNSURE,)).path, store)
    await publish(publisher, 0, 10)

    async with workers.following():
        await wait_until(lambda: have_results(redis, streams, 10))

    assert [type(event) for event in await answers(redis, streams)] == [AdapterRejected]
    assert set((await digests(subscriber)).values()) == {None}


async def test_a_rollback_is_one_more_announcement(redis, streams, publisher, subscriber, workers, make_adapter, store):
    older, newer = make_adapter("1"), make_adapter("2")

    async with workers.following() as worker:
        for count, (adapter, action) in enumerate([(older, "activate"), (newer, "activate"), (older, "rollback")], 1):
            await release(redis, streams, adapter.path, store, action=action)
            await wait_until(lambda count=count: are_answered(redis, streams, count))

    said = [(event.data.digest, event.data.previous_digest) for event in await answers(redis, streams)]
    assert said == [(older.digest, None), (newer.digest, older.digest), (older.digest, newer.digest)]
    assert worker.engine.model.receipt.adapter_digest == older.digest


async def test_the_real_model_switches_too(
    redis, streams, publisher, subscriber, workers, make_nano_adapter, phi3_nano, store
):
    """Uses phi3-nano with LoRA weights as PEFT saves them; the probes give the recorded answers."""
    adapter = make_nano_adapter()
    config = EngineConfig(model=str(phi3_nano), device="cpu")

    def load_engine(adapter):
        return Phi3Engine(config, adapter=adapter)

    async with workers.following(engine=Phi3Engine(config), load_engine=load_engine):
        await publish(publisher, 0, 3)
        await wait_until(lambda: have_results(redis, streams, 3))
        await release(redis, streams, adapter.path, store)
        await wait_until(lambda: are_answered(redis, streams, 1))
        await publish(publisher, 3, 6)
        await wait_until(lambda: have_results(redis, streams, 6))

    [activated] = await answers(redis, streams)
    assert isinstance(activated, AdapterActivated), activated.data.reason
    assert activated.data.probes.n == len(PROBES)
    assert activated.data.probes.max_abs_diff < 1e-3
    assert activated.data.load_ms > 0
    answered = await digests(subscriber)
    assert [answered[str(number)] for number in range(6)] == [None] * 3 + [adapter.digest] * 3
