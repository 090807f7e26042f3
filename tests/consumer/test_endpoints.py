"""Each HTTP endpoint tells the truth, whatever happens to the worker and to Redis."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection

from abstream import Abstract, Publisher
from abstream.consumer.backlog import BacklogGauges
from abstream.consumer.endpoints import Endpoints, readiness
from abstream.consumer.health import Health
from abstream.consumer.metrics import Metrics
from abstream.consumer.worker import Worker
from abstream.ops.working import broker_at
from abstream.producer.connection import connect
from abstream.schemas import Shards, Streams
from abstream.schemas.streams import GROUP
from prometheus_client.parser import text_string_to_metric_families

from ..conftest import wait_until

BACKLOG = {"abstream_stream_lag", "abstream_stream_pending", "abstream_oldest_unanswered_age_seconds"}


class Probe:
    """A client that asks the endpoints as Kubernetes and Prometheus do."""

    def __init__(self, port: int) -> None:
        self.port = port

    def _get(self, path: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    async def get(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(self._get, path)

    async def is_alive(self) -> bool:
        status, body = await self.get("/healthz")
        assert status == (200 if json.loads(body)["alive"] else 503)
        return status == 200

    async def failing(self) -> dict[str, str]:
        """The state of every check that fails."""
        status, body = await self.get("/readyz")
        said = json.loads(body)
        failed = {name: check["state"] for name, check in said["checks"].items() if not check["ok"]}
        assert said["ready"] is (not failed)
        assert status == (503 if failed else 200)
        return failed

    async def is_ready(self) -> bool:
        return not await self.failing()

    async def samples(self) -> dict[str, dict[str, float]]:
        """The values of every metric, by lane."""
        status, body = await self.get("/metrics")
        assert status == 200
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(body):
            for sample in family.samples:
                found.setdefault(sample.name, {})[sample.labels.get("lane", "")] = sample.value
        return found


@contextmanager
def endpoints(metrics: Metrics, url: str, streams: Streams) -> Iterator[Probe]:
    broker = broker_at(url, Shards(streams.namespace))
    metrics.registry.register(BacklogGauges(broker))
    checks = partial(readiness, metrics.health, broker)
    served = Endpoints(0, metrics.registry, metrics.health.wedged, checks)
    served.start()
    try:
        yield Probe(served.server_port)
    finally:
        served.close()
        broker.close()


def settle(worker: Worker) -> None:
    """Mark the worker as ready, as the service does once the engine has answered its probe and the adapter is live."""
    worker.metrics.serving(worker.engine.model)
    worker.metrics.health.ready()


async def test_a_working_worker_is_alive_and_ready_and_reports_the_backlog_of_redis(
    server, streams, redis, publisher, workers
):
    async with workers.running() as worker:
        settle(worker)
        with endpoints(worker.metrics, server, streams) as probe:
            await publisher.publish(Abstract(title="One", abstract=""))
            await wait_until(lambda: redis.xlen(streams.predictions), "a result")
            assert await probe.is_alive()
            assert await probe.failing() == {}
            samples = await probe.samples()

    assert samples["abstream_abstracts_received_total"] == {"interactive": 1, "bulk": 0}
    assert samples["abstream_stream_lag"] == samples["abstream_stream_pending"] == {"interactive": 0, "bulk": 0}


async def test_before_the_model_is_loaded_a_worker_is_alive_and_not_ready(server, streams, workers):
    worker = workers.new()
    await worker.source.create_groups()
    with endpoints(worker.metrics, server, streams) as probe:
        assert await probe.is_alive()
        assert await probe.failing() == {"engine": "not loaded", "adapter": "not verified"}


async def test_a_worker_without_its_group_is_not_ready(server, streams, redis, workers):
    worker = workers.new()
    settle(worker)
    with endpoints(worker.metrics, server, streams) as probe:
        assert await probe.failing() == {"group": "missing for interactive and bulk"}
        await worker.source.create_groups()
        assert await probe.failing() == {}
        await redis.xgroup_destroy(streams.lane("bulk"), GROUP)
        assert await probe.failing() == {"group": "missing for bulk"}


async def test_a_batch_that_does_not_end_fails_liveness_while_it_lasts(server, streams):
    seconds = 0.0
    metrics = Metrics("test", Health(300, clock=lambda: seconds))
    metrics.health.beat("interactive", {0})
    begun, over = threading.Event(), threading.Event()

    def compute() -> None:
        with metrics.health.computing():
            begun.set()
            over.wait()

    thread = threading.Thread(target=compute)
    with endpoints(metrics, server, streams) as probe:
        thread.start()
        begun.wait()
        assert await probe.is_alive()
        seconds = 301
        assert await probe.get("/healthz") == (
            503,
            json.dumps({"alive": False, "reason": "a batch has been computed for 301 s"}, indent=2),
        )
        over.set()
        thread.join()
        assert await probe.is_alive()


async def test_a_worker_that_drains_is_alive_and_not_ready(server, streams, workers):
    async with workers.running() as worker:
        settle(worker)
        with endpoints(worker.metrics, server, streams) as probe:
            worker.metrics.health.draining()
            assert await probe.is_alive()
            assert await probe.failing() == {"intake": "draining"}


async def test_while_redis_is_away_a_worker_lives_is_not_ready_and_is_still_scraped(private_redis, streams, workers):
    """Once Redis is back it becomes ready by itself."""
    workers.redis = connect(private_redis.url)
    try:
        async with workers.running() as worker, Publisher(private_redis.url, namespace=streams.namespace) as publisher:
            settle(worker)
            with endpoints(worker.metrics, private_redis.url, streams) as probe:
                assert await probe.failing() == {}

                private_redis.stop()
                await wait_until(lambda: worker_knows(probe), "the worker's own word that Redis is away")
                assert set(await probe.failing()) == {"redis", "group"}
                assert await probe.is_alive()
                samples = await probe.samples()
                assert not BACKLOG & set(samples)
                assert samples["abstream_redis_reconnects_total"][""] > 0

                private_redis.start()
                await wait_until(probe.is_ready, "being ready again")
                assert set(await probe.samples()) >= BACKLOG
                await publisher.publish(Abstract(title="After", abstract=""))
                await wait_until(lambda: workers.redis.xlen(streams.predictions), "a result")
    finally:
        await workers.redis.aclose()


async def worker_knows(probe: Probe) -> bool:
    return (await probe.samples())["abstream_redis_reconnects_total"][""] > 0


async def test_a_worker_that_cannot_write_results_is_not_ready_although_redis_answers(
    server, streams, redis, publisher, workers
):
    """It names the key to mend; once that is done, the result is published."""
    await redis.set(streams.predictions, "somebody else's")
    async with workers.running() as worker:
        settle(worker)
        with endpoints(worker.metrics, server, streams) as probe:
            await publisher.publish(Abstract(title="One", abstract=""))
            await wait_until(lambda: worker_knows(probe), "a commit that fails")
            failed = await probe.failing()
            assert set(failed) == {"redis"}
            assert streams.predictions in failed["redis"]
            await redis.delete(streams.predictions)
            await wait_until(probe.is_ready, "being ready again")
            assert await redis.xlen(streams.predictions) == 1


async def test_an_unknown_path_is_not_found(server, streams):
    with endpoints(Metrics("test"), server, streams) as probe:
        status, body = await probe.get("/")
        assert status == 404
        assert "/readyz" in body
        assert (await probe.get("/metrics?name[]=abstream_build_info"))[0] == 200
