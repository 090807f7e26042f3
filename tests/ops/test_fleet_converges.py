"""Whatever happens to a worker while the fleet switches, it ends on the same adapter as the others."""

import os
from contextlib import ExitStack
from random import Random

from abstream import Abstract, Publisher
from abstream.consumer.adapters.background import in_turn
from abstream.ops.chaos.workers import Workers
from abstream.ops.embedded import embedded_redis
from abstream.ops.fleet import look
from abstream.producer.connection import Shard, connect
from abstream.schemas import Streams
from abstream.schemas.streams import from_fields
from abstream.training.release import release

from ..conftest import wait_until

LOADED = "abstream_adapter_switch_seconds_count"


async def test_a_frozen_a_restarted_and_an_undisturbed_worker_end_on_the_same_adapter(
    make_adapter, tmp_path, monkeypatch
):
    """The test holds the worker processes' turns to load, so that the switch lasts as long as it needs."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where workers take turns
    old, new = make_adapter("1"), make_adapter("2")
    streams, store, flags = Streams(), tmp_path / "store", {"adapter-cache": tmp_path / "copies"}
    with embedded_redis() as url:
        redis = connect(url)
        await release(redis, streams, old.path, store)
        async with Workers(url, 3, flags, tmp_path / "logs", Random(1)) as workers, Publisher(url) as publisher:
            frozen, killed, plain = workers.ready()
            frozen.freeze()
            with ExitStack() as turns:
                for _ in range(max(1, (os.cpu_count() or 1) // 2)):
                    turns.enter_context(in_turn(tmp_path))
                loaded = await killed.metric(LOADED)
                await release(redis, streams, new.path, store)
                await wait_until(lambda: _more(killed, loaded), "the new adapter to be fetched")
                killed.kill()
                await wait_until((tmp_path / "logs/worker-2.2.log").exists, "another in its place")
                assert (await look(Shard(redis, streams), [Shard(redis, streams)])).served == {old.digest}
            frozen.thaw()
            names = {plain.name, frozen.name, "worker-2.2"}
            await wait_until(lambda: _serving(redis, streams, new.digest, names), "all three on the new adapter")
            await publisher.publish_many((str(n), Abstract(title=f"Abstract {n}", abstract="")) for n in range(60))
            await wait_until(lambda: _has(redis, streams.predictions, 60))
        results = [from_fields(fields) for _, fields in await redis.xrange(streams.predictions)]
        said = [from_fields(fields) for _, fields in await redis.xrange(streams.output("fleet"))]
        await redis.aclose()
    assert {result.data.model.adapter_digest for result in results} == {new.digest}
    assert killed.name not in {event.data.worker for event in said if event.data.digest == new.digest}


async def _more(worker, than: float) -> bool:
    return await worker.metric(LOADED) > than


async def _serving(redis, streams, digest: str, names: set[str]) -> bool:
    """Whether the last announcement of each of these workers is that it serves the adapter."""
    last = {
        answer.data.worker: answer for answer in (await look(Shard(redis, streams), [Shard(redis, streams)])).answers
    }
    return all(name in last and last[name].data.digest == digest for name in names)


async def _has(redis, stream: str, count: int) -> bool:
    return await redis.xlen(stream) >= count
