"""The outcome of an update: live, unchanged or rejected, and what the worker announces of it."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from abstream.consumer.adapters import registry as registry_module
from abstream.consumer.adapters.background import Courtesy
from abstream.consumer.engine.breaks import take_a_break
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.worker import PROBE
from abstream.ops.embedded import find_server
from abstream.producer.connection import connect
from abstream.schemas import AdapterActivated, AdapterRejected
from abstream.schemas.streams import to_fields
from abstream.training.release import release
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from ...conftest import wait_until
from .conftest import fleet_events


async def test_the_answer_names_the_update_it_answers(redis, streams, workers, make_adapter, store):
    released = await release(redis, streams, make_adapter().path, store)
    await workers.registry(workers.new("one")).catch_up()

    [answer] = await fleet_events(redis, streams)
    assert isinstance(answer, AdapterActivated)
    assert (answer.causationid, answer.causationsource) == (released.event.id, released.event.source)
    assert (answer.sequence, answer.subject) == (released.entry_id, "adapter:oncology")
    assert answer.source == "urn:abstream:worker:one"


async def test_a_live_adapter_is_not_loaded_again(redis, streams, workers, make_adapter, store):
    adapter = make_adapter()
    loads = []

    def load_engine(adapter):
        loads.append(adapter.digest)
        return FakeEngine(adapter=adapter)

    worker = workers.new()
    registry = workers.registry(worker, load_engine)
    for _ in range(2):
        await release(redis, streams, adapter.path, store)
        await registry.catch_up()

    assert loads == [adapter.digest]
    [_, again] = await fleet_events(redis, streams)
    assert isinstance(again, AdapterActivated)
    assert (again.data.previous_digest, again.data.load_ms) == (adapter.digest, 0)
    value = worker.metrics.registry.get_sample_value
    assert value("abstream_adapter_switches_total", {"result": "activated"}) == 1
    assert value("abstream_adapter_switches_total", {"result": "unchanged"}) == 1


async def test_a_storm_of_updates_is_one_switch(redis, streams, workers, make_adapter, store):
    adapters = [make_adapter(str(number)) for number in range(10)]
    for adapter in adapters:
        await release(redis, streams, adapter.path, store)
    worker = workers.new()

    await workers.registry(worker).catch_up()

    assert worker.engine.model.receipt.adapter_digest == adapters[-1].digest
    assert len(await fleet_events(redis, streams)) == 1


async def test_an_event_that_comes_twice_or_late_is_rejected_and_the_newest_stays_in_service(
    redis, streams, workers, make_adapter, store
):
    """Also for a worker that joins later and sees all updates at once."""
    older, newer = make_adapter("1"), make_adapter("2")
    first = await release(redis, streams, older.path, store)
    worker = workers.new()
    registry = workers.registry(worker)
    await registry.catch_up()
    await release(redis, streams, newer.path, store)
    for id_ in (first.event.id, "delayed"):
        await redis.xadd(streams.output("adapters"), to_fields(first.event.model_copy(update={"id": id_})))
    late_joiner = workers.new("late")
    for one in (registry, workers.registry(late_joiner)):
        await one.catch_up()

    assert [one.engine.model.receipt.adapter_digest for one in (worker, late_joiner)] == [newer.digest] * 2
    reasons = [answer.data.reason for answer in await fleet_events(redis, streams, AdapterRejected)]
    assert ["announced before, and" in reason for reason in reasons] == [True, False] * 2
    assert all("older than one" in reason for reason in reasons[1::2])


async def test_the_event_of_the_live_adapter_may_come_again(redis, streams, workers, make_adapter, store):
    """Nobody is told that the adapter in service was rejected."""
    released = await release(redis, streams, make_adapter().path, store)
    registry = workers.registry(workers.new())
    await registry.catch_up()
    await redis.xadd(streams.output("adapters"), to_fields(released.event))
    await registry.catch_up()

    assert not await fleet_events(redis, streams, AdapterRejected)


async def test_a_worker_that_joins_late_never_serves_what_was_rolled_back(redis, streams, workers, make_adapter, store):
    """Not even when the adapter to serve is gone."""
    first, bad = make_adapter("1"), make_adapter("2")
    for adapter, action in [(first, "activate"), (bad, "activate"), (first, "rollback")]:
        await release(redis, streams, adapter.path, store, action=action)
    shutil.rmtree(store / "oncology" / first.digest.removeprefix("sha256:"))
    worker = workers.new()

    await workers.registry(worker).catch_up()

    assert worker.engine.model.receipt.adapter_digest is None


async def test_an_engine_that_cannot_be_loaded_is_rejected_whatever_the_error(
    redis, streams, workers, make_adapter, store
):
    """For instance CUDA out of memory: the old engine keeps its memory and stays in service."""

    def load_engine(adapter):
        raise RuntimeError("CUDA out of memory")

    worker = workers.new()
    before = worker.engine
    await release(redis, streams, make_adapter().path, store)
    await workers.registry(worker, load_engine).catch_up()

    [answer] = await fleet_events(redis, streams)
    assert isinstance(answer, AdapterRejected)
    assert answer.data.reason == "RuntimeError: CUDA out of memory"
    assert worker.engine is before


async def test_an_engine_that_cannot_answer_is_rejected(redis, streams, workers, make_adapter, store):
    class Broken(FakeEngine):
        def classify(self, batch):
            raise RuntimeError("no")

    await release(redis, streams, make_adapter(probes=()).path, store)
    await workers.registry(workers.new(), lambda adapter: Broken(adapter=adapter)).catch_up()

    assert isinstance((await fleet_events(redis, streams))[0], AdapterRejected)


async def test_loading_pauses_while_a_batch_is_computed(
    redis, streams, publisher, workers, make_adapter, store, monkeypatch
):
    """An abstract that arrives meanwhile waits for one step of the loading, not for all of it."""
    loading, computing, may_compute, asked = (threading.Event() for _ in range(4))

    def patient(busy):
        def ask() -> bool:
            asked.set()
            return busy()

        return Courtesy(ask, seconds=60)

    monkeypatch.setattr(registry_module, "Courtesy", patient)

    class Slow(FakeEngine):
        def classify(self, batch):
            computing.set()
            may_compute.wait(30)
            return super().classify(batch)

    def load_engine(adapter):
        loading.set()
        computing.wait(30)
        take_a_break()
        assert may_compute.is_set()
        return FakeEngine(adapter=adapter)

    async with workers.following(load_engine=load_engine) as worker:
        worker.switch(Slow())
        await release(redis, streams, make_adapter(probes=()).path, store)
        await wait_until(loading.is_set)
        await publisher.publish_many([("1", PROBE)])
        await wait_until(asked.is_set, "the loading to ask whether it is in the way")
        may_compute.set()
        await wait_until(lambda: redis.xlen(streams.output("fleet")))
    assert isinstance((await fleet_events(redis, streams))[0], AdapterActivated)


async def test_the_workers_of_a_machine_load_in_turn_and_fetch_at_the_same_time(
    redis, streams, workers, make_adapter, store, monkeypatch
):
    turns, steps = [], []

    @contextmanager
    def turn() -> Iterator[None]:
        turns.append("taken")
        yield
        turns.clear()

    class Probed(FakeEngine):
        def classify(self, batch):
            steps.append(("probe", *turns))
            return super().classify(batch)

    def load_engine(adapter):
        steps.append(("load", *turns))
        return Probed(adapter=adapter)

    monkeypatch.setattr(registry_module, "in_turn", turn)
    registry = workers.registry(workers.new(), load_engine)
    fetch = registry.cache.fetch
    monkeypatch.setattr(registry.cache, "fetch", lambda update: (steps.append(("fetch", *turns)), fetch(update))[1])
    await release(redis, streams, make_adapter(probes=()).path, store)
    await registry.catch_up()

    assert steps == [("fetch",), ("load", "taken"), ("probe", "taken")]


async def test_the_old_engine_serves_while_the_new_one_is_loaded(
    redis, streams, publisher, workers, make_adapter, store
):
    loading, may_load = threading.Event(), threading.Event()

    def load_engine(adapter):
        loading.set()
        may_load.wait(30)
        return FakeEngine(adapter=adapter)

    async with workers.following(load_engine=load_engine):
        await release(redis, streams, make_adapter().path, store)
        await wait_until(loading.is_set)
        await publisher.publish_many([("1", PROBE)])
        await wait_until(lambda: redis.xlen(streams.predictions), "a result of the old engine")
        assert await fleet_events(redis, streams) == []
        may_load.set()
        await wait_until(lambda: redis.xlen(streams.output("fleet")))


async def test_the_metrics_name_the_adapter_and_time_each_step(redis, streams, workers, make_adapter, store):
    adapter = make_adapter("7")
    await release(redis, streams, adapter.path, store)
    worker = workers.new()
    await workers.registry(worker).catch_up()

    value = worker.metrics.registry.get_sample_value
    live = {"name": "oncology", "version": "7", "digest": adapter.digest}
    assert value("abstream_adapter_info", live) == 1
    for phase in ("fetch", "load", "probe", "switch"):
        assert value("abstream_adapter_switch_seconds_count", {"phase": phase}) == 1


async def test_the_log_names_version_digest_and_reason(redis, streams, workers, make_adapter, store):
    good, bad = make_adapter("1"), make_adapter("2", base_model={"id": "other", "revision": "7"})
    registry = workers.registry(workers.new())
    with capture_logs() as logs:
        for adapter in (good, bad):
            await release(redis, streams, adapter.path, store)
            await registry.catch_up()

    [activated, rejected] = [line for line in logs if line["event"].startswith("adapter_")]
    assert (activated["event"], activated["version"]) == ("adapter_activated", "1")
    assert activated["digest"] == good.digest[7:19]
    assert (rejected["event"], rejected["version"]) == ("adapter_rejected", "2")
    assert "was trained on other" in rejected["reason"]


async def test_a_worker_continues_to_follow_after_redis_was_away(tmp_path, streams, workers, make_adapter, store):
    socket = tmp_path / "r.sock"

    def start() -> "subprocess.Popen[bytes]":
        where = ["--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
        durable = ["--appendonly", "yes", "--appendfsync", "always"]
        return subprocess.Popen([find_server(), *where, *durable], stdout=subprocess.DEVNULL)

    async def answers() -> bool:
        try:
            return bool(await workers.redis.ping())
        except RedisConnectionError:
            return False

    server = start()
    workers.redis = connect(f"unix://{socket}")
    adapter = make_adapter()
    try:
        await wait_until(answers, "the server")
        async with workers.following() as worker:
            server.kill()
            server.wait()
            await wait_until(lambda: worker.metrics.registry.get_sample_value("abstream_redis_reconnects_total"))
            server = start()
            await wait_until(answers, "the server")
            await release(workers.redis, streams, adapter.path, store)
            await wait_until(lambda: worker.engine.model.receipt.adapter_digest == adapter.digest, "the switch")
    finally:
        await workers.redis.aclose()
        server.kill()
        server.wait()
