"""What the worker does when its engine, or its Redis, misbehaves."""

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

from ..conftest import PATIENCE_SECONDS, wait_until

POISON = "poison"


class Allergic(FakeEngine):
    """Fails on one word."""

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        [poison] = self.encode(Abstract(title=POISON, abstract="")).ids
        if any(poison in tokens.ids for tokens in batch):
            raise RuntimeError("cannot stand this")
        return super().classify(batch)


class Broken(FakeEngine):
    """Fails on everything."""

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        raise RuntimeError("CUDA error: device-side assert triggered")


class Numberless(FakeEngine):
    def classify(self, batch: Sequence[Tokens]) -> Classified:
        nothing = tuple((math.nan,) * len(question.labels) for question in self.model.task.questions)
        return Classified(self.model, [nothing] * len(batch))


async def publish(publisher, *titles: str) -> None:
    await publisher.publish_many((title, Abstract(title=title, abstract="")) for title in titles)


async def test_one_abstract_the_model_fails_on_does_not_take_its_batch_with_it(publisher, subscriber, workers):
    await publish(publisher, "one", POISON, "two", "three")

    await workers.burst(engine=Allergic())

    answered = {result.causationid async for _, result in subscriber.predictions(since="0", until_idle=0.1)}
    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert answered == {"one", "two", "three"}
    assert (refusal.causationid, refusal.data.reason) == (POISON, "inference_error")
    assert refusal.data.retryable


async def test_a_broken_engine_takes_the_worker_down_and_refuses_nothing(redis, streams, publisher, workers):
    """The abstracts are not at fault: they wait for a worker that works."""
    await publish(publisher, "one", "two")

    with pytest.raises(RuntimeError, match="CUDA error"):
        await workers.burst(engine=Broken())

    assert await redis.xlen(streams.refusals) == 0
    assert await workers.pending() == 2


async def test_a_worker_that_may_renew_no_lease_ends_with_a_word_of_it(publisher, workers):
    """It would lose what it works on to others again and again, until somebody is said to have been lost with it."""
    await publish(publisher, "one")
    worker = workers.new(burst=False)
    await worker.source.create_groups()

    async def forbidden() -> None:
        raise NoPermissionError("this user has no permissions to run the 'xclaim' command")

    worker.source.renew_leases = forbidden

    with pytest.raises(NoPermissionError):
        await asyncio.wait_for(worker.run(), PATIENCE_SECONDS)


async def test_an_answer_that_is_no_number_is_refused(publisher, subscriber, workers):
    await publish(publisher, "one")

    await workers.burst(engine=Numberless())

    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert refusal.data.reason == "inference_error"
    assert "not a finite number" in refusal.data.message


async def test_a_long_text_is_cut_and_marked(publisher, subscriber, workers):
    await publisher.publish(Abstract(title="T", abstract="word " * 500))

    await workers.burst(engine=FakeEngine(max_prompt_tokens=100))

    [(_, prediction)] = [result async for result in subscriber.predictions(since="0", until_idle=0.1)]
    assert prediction.data.input.truncated
    assert prediction.data.input.tokens == 100


def test_what_one_engine_tokenized_it_also_answers_whatever_is_live_by_then(workers, make_adapter):
    """Another adapter may bring another task, for which these tokens would mean nothing."""
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
    """Killed and started again with its append-only file: nothing is lost, nothing is repeated."""
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


async def has_length(redis, stream: str, length: int) -> bool:
    return await redis.xlen(stream) == length
