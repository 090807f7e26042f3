"""Every metric of the contract exists and is true: the values are compared with the content of Redis."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from abstream import Abstract
from abstream.consumer.backlog import BacklogGauges
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.engine.memory import gpu_memory_bytes
from abstream.consumer.metrics import ABSTRACTS, SECONDS, TOKENS, GpuMemory, Metrics
from abstream.consumer.retrying import until_available
from abstream.consumer.worker import Worker
from abstream.ops.working import broker_at
from abstream.schemas import Question, Shards, Task
from abstream.schemas.streams import GROUP, from_fields
from prometheus_client import CollectorRegistry
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

CONTRACT = {
    *("abstracts_received", "predictions", "refusals", "redeliveries", "commits_lost"),
    *("queue_wait_seconds", "end_to_end_seconds", "tokenize_seconds", "inference_seconds", "commit_seconds"),
    *("batch_abstracts", "batch_tokens", "batch_fill_ratio"),
    *("stream_lag", "stream_pending", "oldest_unanswered_age_seconds"),
    *("adapter", "adapter_switches", "adapter_switch_seconds", "confidence", "review_required"),
    *("redis_reconnects", "gpu_memory_bytes", "build"),
}
"""As ``prometheus_client`` names metric families: without ``_total`` and ``_info``."""


async def test_every_metric_of_the_contract_is_there(server, streams, workers):
    worker, broker = workers.new(), broker_at(server, Shards(streams.namespace))
    await worker.source.create_groups()
    registry = worker.metrics.registry
    registry.register(BacklogGauges(broker))
    registry.register(GpuMemory(lambda: {"allocated": 1}))
    assert {family.name for family in registry.collect()} >= {f"abstream_{name}" for name in CONTRACT}
    broker.close()


class MetricValues:
    """The values of a worker's metrics."""

    def __init__(self, worker: Worker) -> None:
        self._registry = worker.metrics.registry

    def __call__(self, name: str, **labels: str) -> float:
        return self._registry.get_sample_value(f"abstream_{name}", labels) or 0

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """The non-zero values of the series with these labels, by the value of another label."""
        return {
            sample.labels[label]: sample.value
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == f"abstream_{name}" and labels.items() <= sample.labels.items() and sample.value
        }


@pytest.fixture
async def worked(redis, streams, publisher, workers, make_adapter):
    """The metrics and the content of Redis after work of every kind."""
    await publisher.publish_many(
        (f"id-{number}", Abstract(title="T", abstract="word " * (number % 7 + 1))) for number in range(40)
    )
    await publisher.publish_many((f"id-{number}", Abstract(title="T", abstract="x")) for number in range(3))
    await publisher.publish(Abstract(title="Bulk", abstract="x"), lane="bulk")
    await redis.xadd(streams.lane("bulk"), {"event": "no JSON"})
    await redis.xadd(streams.lane("bulk"), {"title": "", "abstract": ""})
    engine = FakeEngine(adapter=make_adapter(thresholds={"cancer": 0.9}))

    metric = MetricValues(await workers.burst(engine=engine, max_batch_tokens=64))

    predictions = [from_fields(fields).data for _, fields in await redis.xrange(streams.predictions)]
    refusals = [from_fields(fields).data for _, fields in await redis.xrange(streams.refusals)]
    assert (len(predictions), len(refusals)) == (41, 2)
    return metric, predictions, refusals


async def test_the_answers_to_the_questions_of_a_new_adapter_begin_at_zero(workers):
    """Otherwise Prometheus would miss the first increment of each."""
    worker, other = workers.new(), Question(name="species", text="Which?", labels=("mouse", "man"))
    worker.switch(FakeEngine(Task(name="other", questions=(other,))))
    for label in other.labels:
        sample = {"question": "species", "label": label}
        assert worker.metrics.registry.get_sample_value("abstream_predictions_total", sample) == 0


async def test_what_was_read_is_counted_by_lane(worked):
    metric, *_ = worked
    assert metric.by("lane", "abstracts_received_total") == {"interactive": 43, "bulk": 3}
    assert metric("redeliveries_total") == metric("commits_lost_total") == 0


async def test_answers_and_refusals_are_those_in_the_streams(worked):
    metric, predictions, refusals = worked
    for question in ("cancer", "cancer_type"):
        labels = Counter(one.answers[question].label for one in predictions if question in one.answers)
        assert labels
        assert metric.by("label", "predictions_total", question=question) == labels
    assert metric.by("reason", "refusals_total") == Counter(one.reason for one in refusals)
    assert metric("duplicates_total") == 3


async def test_confidence_and_review_are_those_of_the_answers(worked):
    metric, predictions, _ = worked
    confidences = [one.answers["cancer"].confidence for one in predictions]
    assert metric("confidence_count", question="cancer") == 41
    assert metric("confidence_sum", question="cancer") == pytest.approx(sum(confidences))
    below = sum(confidence <= 0.8 for confidence in confidences)
    assert metric("confidence_bucket", question="cancer", le="0.8") == below
    in_review = sum(one.review.required for one in predictions)
    assert 0 < in_review < 41
    assert metric.by("reason", "review_required_total") == {"low_confidence": in_review}


async def test_the_waiting_times_are_those_of_the_results(worked):
    metric, predictions, _ = worked
    for name, milliseconds in (("queue_wait", "queued_ms"), ("end_to_end", "total_ms")):
        seconds = [getattr(one.timing, milliseconds) / 1000 for one in predictions]
        assert metric(f"{name}_seconds_count") == 41
        assert metric(f"{name}_seconds_sum") == pytest.approx(sum(seconds), abs=0.001)


async def test_batches_are_counted_with_their_abstracts_and_tokens(worked):
    """The three repeated abstracts are computed too, but not published."""
    metric, predictions, _ = worked
    batches = metric("inference_seconds_count")
    assert 1 < batches < 44
    assert (
        batches == metric("batch_abstracts_count") == metric("batch_tokens_count") == metric("batch_fill_ratio_count")
    )
    assert metric("batch_abstracts_sum") == 44
    repeated = 3 * len(FakeEngine().encode(Abstract(title="T", abstract="x")).ids)
    assert metric("batch_tokens_sum") == sum(one.input.tokens for one in predictions) + repeated
    assert metric("batch_tokens_bucket", le="64.0") == batches
    assert 0 < metric("batch_fill_ratio_sum") <= batches
    assert metric("inference_seconds_sum") > 0


async def test_each_read_and_each_commit_is_timed(worked):
    metric, *_ = worked
    assert metric("tokenize_seconds_count") >= 2
    assert metric("commit_seconds_count") >= metric("inference_seconds_count")
    assert metric("tokenize_seconds_sum") > 0
    assert metric("commit_seconds_sum") > 0


@pytest.mark.parametrize(
    ("bounds", "first", "last"), [(SECONDS, 0.005, 1800), (TOKENS, 64, 131_072), (ABSTRACTS, 1, 512)]
)
def test_the_buckets_cover_the_expected_range(bounds, first, last):
    assert (bounds[0], bounds[-1]) == (first, last)
    assert list(bounds) == sorted(bounds)
    if bounds is not SECONDS:
        assert all(after == 2 * before for before, after in pairwise(bounds))


def test_build_info_names_the_version():
    """The adapter in service is tested in ``adapters/test_registry.py``."""
    assert Metrics("1.2").registry.get_sample_value("abstream_build_info", {"version": "1.2"}) == 1


async def test_entries_of_a_lost_worker_are_counted_as_redelivered(redis, streams, publisher, workers):
    lane = streams.lane("interactive")
    await workers.new().source.create_groups()
    await publisher.publish(Abstract(title="One", abstract=""))
    await publisher.publish(Abstract(title="Two", abstract=""))
    [(_, [(entry_id, _)])] = await redis.xreadgroup(GROUP, "gone", {lane: ">"}, count=1)
    await redis.xclaim(lane, GROUP, "gone", 0, [entry_id], idle=3_600_000, justid=True)

    metric = MetricValues(await workers.burst())

    assert metric("redeliveries_total") == 1
    assert metric("abstracts_received_total", lane="interactive") == 1


class Overtaken(FakeEngine):
    """While it computes, another worker commits the same entries."""

    def __init__(self, server: str, lane: str) -> None:
        super().__init__()
        self._server, self._lane = server, lane

    def classify(self, batch):
        with Redis.from_url(self._server, protocol=2) as other:
            held = other.xpending_range(self._lane, GROUP, "-", "+", 10)
            other.xack(self._lane, GROUP, *[entry["message_id"] for entry in held])
        return super().classify(batch)


async def test_an_answer_that_came_second_is_counted_only_as_a_lost_commit(server, streams, publisher, workers):
    await publisher.publish(Abstract(title="One", abstract=""))
    metric = MetricValues(await workers.burst(engine=Overtaken(server, streams.lane("interactive"))))
    assert metric("commits_lost_total") == 1
    assert metric.by("label", "predictions_total") == {}
    assert metric("end_to_end_seconds_count") == 0


async def test_every_repeated_call_is_counted():
    metrics, failures = Metrics("test"), [RedisConnectionError(), RedisConnectionError()]

    async def call() -> None:
        if failures:
            raise failures.pop()

    await until_available(call, metrics)
    assert metrics.registry.get_sample_value("abstream_redis_reconnects_total") == 2


def test_gpu_memory_is_exposed_by_kind_and_left_out_without_a_gpu():
    memory: dict[str, int] = {}
    registry = CollectorRegistry()
    registry.register(GpuMemory(lambda: memory))
    assert list(registry.collect()) == []
    memory["allocated"] = 5
    assert registry.get_sample_value("abstream_gpu_memory_bytes", {"kind": "allocated"}) == 5


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="a GPU is in use")
def test_a_worker_without_a_gpu_reports_no_gpu_memory():
    assert gpu_memory_bytes() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_memory_includes_the_tensors_allocated():
    held = torch.ones(1 << 20, device="cuda")
    memory = gpu_memory_bytes()
    assert memory["allocated"] >= held.numel() * 4
    assert memory["allocated"] <= memory["reserved"] <= memory["total"]
    assert memory["free"] < memory["total"]


def test_a_shard_that_answers_again_is_no_longer_away_and_no_other():
    metrics = Metrics("test")
    for shard in (0, 1):
        metrics.of_shard(shard).redis_away(RedisConnectionError("connection refused"))
    metrics.of_shard(1).redis_back()
    assert metrics.health.away() == {0}
