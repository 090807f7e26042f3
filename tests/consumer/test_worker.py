"""What a worker does when its engine or its Redis misbehaves."""

import asyncio
import math
import subprocess
from collections.abc import Sequence

import pytest
from abstream import Abstract, Publisher
from abstream.consumer.engine import Classified, Tokens
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.stages import Delivery
from abstream.ops.embedded import find_server
from abstream.producer.connection import connect
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from ..conftest import PATIENCE_SECONDS, has_length, wait_until

POISON = "poison"


class Allergic(FakeEngine):
    """Fails on abstracts that contain one word."""

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        [poison] = self.encode(Abstract(title=POISON, abstract="")).ids
        if any(poison in tokens.ids for tokens in batch):
            raise RuntimeError("cannot stand this")
        return super().classify(batch)


class Broken(FakeEngine):
    """Fails on every abstract."""

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        raise RuntimeError("CUDA error: device-side assert triggered")


class Numberless(FakeEngine):
    def classify(self, batch: Sequence[Tokens]) -> Classified:
        nothing = tuple((math.nan,) * len(question.labels) for question in self.model.task.questions)
        return Classified(self.model, [nothing] * len(batch))


async def publish(publisher, *titles: str) -> None:
    await publisher.publish_many((title, Abstract(title=title, abstract="")) for title in titles)


async def test_an_abstract_that_the_model_fails_on_does_not_fail_its_batch(publisher, subscriber, workers):
    await publish(publisher, "one", POISON, "two", "three")

    await workers.burst(engine=Allergic())

    answered = {result.causationid async for _, result in subscriber.predictions(since="0", until_idle=0.1)}
    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert answered == {"one", "two", "three"}
    assert (refusal.causationid, refusal.data.reason) == (POISON, "inference_error")
    assert refusal.data.retryable


async def test_a_broken_engine_ends_the_worker_and_refuses_nothing(redis, streams, publisher, workers):
    """The abstracts are not at fault, so they wait for a worker whose engine works."""
    await publish(publisher, "one", "two")

    with pytest.raises(RuntimeError, match="CUDA error"):
        await workers.burst(engine=Broken())

    assert await redis.xlen(streams.refusals) == 0
    assert await workers.pending() == 2


async def test_a_worker_without_the_right_to_renew_leases_ends(publisher, workers):
    """It would lose its entries to other workers again and again, until they are refused for too many deliveries."""
    await publish(publisher, "one")
    worker = workers.new(burst=False)
    await worker.source.create_groups()

    async def forbidden() -> None:
        raise NoPermissionError("this user has no permissions to run the 'xclaim' command")

    worker.source.renew_leases = forbidden

    with pytest.raises(NoPermissionError):
        await asyncio.wait_for(worker.run(), PATIENCE_SECONDS)


async def test_an_answer_that_is_not_a_number_is_refused(publisher, subscriber, workers):
    await publish(publisher, "one")

    await workers.burst(engine=Numberless())

    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert refusal.data.reason == "inference_error"
    assert "not a finite number" in refusal.data.message


async def test_a_long_text_is_truncated_and_marked(publisher, subscriber, workers):
    await publisher.publish(Abstract(title="T", abstract="word " * 500))

    await workers.burst(engine=FakeEngine(max_prompt_tokens=100))

    [(_, prediction)] = [result async for result in subscriber.predictions(since="0", until_idle=0.1)]
    assert prediction.data.input.truncated
    assert prediction.data.input.tokens == 100


def test_an_abstract_is_answered_by_the_engine_that_tokenized_it(workers, make_adapter):
    """Another adapter may have another task, for which these tokens are meaningless."""
    worker = workers.new()
    before, after = worker.engine, FakeEngine(adapter=make_adapter())
    delivery = Delivery("interactive", "1-0", {b"title": b"One"}, 1, ("worker",))

    prepared, _ = worker.admit([delivery])
    worker.switch(after)
    [inferred] = worker.classify(prepared)
    [later], _ = worker.admit([delivery])

    assert inferred.classified.model is before.model
    assert later.engine is after


async def test_a_worker_waits_for_a_redis_that_restarts(tmp_path, workers, streams):
    """Redis is killed and restarted with its append-only file; nothing is lost or repeated."""
    socket = tmp_path / "r.sock"

    def start() -> "subprocess.Popen[bytes]":
        where = ["--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
        durable = ["--appendonly", "yes", "--appendfsync", "always"]
        return subprocess.Popen([find_server(), *where, *durable], stdout=subprocess.DEVNULL)

    async def answers(to: str) -> bool:
        try:
            return bool(await getattr(workers.redis, to)())
        except RedisConnectionError:
            return False

    server = start()
    url = f"unix://{socket}"
    workers.redis = connect(url)
    try:
        await wait_until(lambda: answers("ping"), "the server")
        async with Publisher(url, namespace=streams.namespace) as publisher, workers.running() as worker:
            await publish(publisher, "before")
            await wait_until(lambda: workers.redis.xlen(streams.predictions))
            server.kill()
            server.wait()
            await wait_until(lambda: worker.metrics.registry.get_sample_value("abstream_redis_reconnects_total"))
            server = start()
            await wait_until(lambda: answers("ping"), "the server")
            await publish(publisher, "after")
            await wait_until(lambda: has_length(workers.redis, streams.predictions, 2))
        assert await workers.pending() == 0
    finally:
        await workers.redis.aclose()
        server.kill()
        server.wait()
