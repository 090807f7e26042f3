"""All metrics of the worker. Alerts and dashboards depend on the names, so they are an interface."""

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ..schemas import Lane
from ..schemas.errors import RefusalReason
from ..schemas.streams import LANES
from .distribution import Distribution
from .engine import ServedModel
from .engine.scoring import Scored
from .health import Health, HealthGauges
from .stages import Answered, Outcome, Predicted, Refused

# 5 ms to 30 min: from one batch on a GPU to a backlog of a night.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
ABSTRACTS = tuple(2**power for power in range(10))
TOKENS = tuple(2**power for power in range(6, 18))
SwitchResult = Literal["activated", "unchanged", "rejected"]
SwitchPhase = Literal["fetch", "load", "probe", "switch"]
_PUBLISHED = Outcome.PUBLISHED  # looking up a member of an enumeration takes longer than comparing it
SHARES = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics:
    """The worker's metrics, in a registry of their own, so that two workers in one process do not collide.

    What concerns liveness and readiness is passed on to ``health``.
    """

    def __init__(self, version: str, health: Health | None = None) -> None:
        self.registry = CollectorRegistry()
        self.health = health or Health()
        self.registry.register(HealthGauges(self.health))

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"abstream_{name}", what, labels, registry=self.registry)

        def histogram(
            name: str, what: str, buckets: tuple[float, ...] = SECONDS, labels: tuple[str, ...] = ()
        ) -> Histogram:
            return Histogram(f"abstream_{name}", what, labels, buckets=buckets, registry=self.registry)

        def distribution(
            name: str, what: str, bounds: tuple[float, ...] = SECONDS, label: str | None = None
        ) -> Distribution:
            return Distribution(f"abstream_{name}", what, bounds, self.registry, label=label)

        received = counter("abstracts_received", "Entries read for the first time", "lane")
        self._received = {lane: received.labels(lane) for lane in LANES}
        self._predictions = counter("predictions", "Answers published", "question", "label")
        self._refusals = counter("refusals", "Entries refused", "reason")
        self._redeliveries = counter("redeliveries", "Entries taken over from a worker that let them go")
        self._commits_lost = counter("commits_lost", "Answers dropped because another worker was first")
        self._duplicates = counter("duplicates", "Submissions not answered again")
        self._trimmed_undelivered = counter("trimmed_undelivered", "Entries removed before a worker read them", "lane")
        self._reconnects = counter("redis_reconnects", "Calls repeated because Redis was away")
        self._review = counter("review_required", "Predictions for a person to look at", "reason")
        self._queue_wait_seconds = distribution("queue_wait_seconds", "From submission to a worker's hands")
        self._end_to_end_seconds = distribution("end_to_end_seconds", "From submission to the published answer")
        self.tokenize_seconds = histogram("tokenize_seconds", "Validating and tokenizing one read")
        self._inference_seconds = histogram("inference_seconds", "One forward pass")
        self.commit_seconds = histogram("commit_seconds", "One commit")
        self._batch_abstracts = histogram("batch_abstracts", "Abstracts in a forward pass", ABSTRACTS)
        self._batch_tokens = histogram("batch_tokens", "Tokens in a forward pass, without padding", TOKENS)
        self._batch_fill_ratio = histogram("batch_fill_ratio", "Share of a forward pass that is no padding", SHARES)
        self._confidence = distribution("confidence", "Confidence of the answers", SHARES, "question")
        self._switches = counter("adapter_switches", "Adapter updates answered", "result")
        self._switch_seconds = histogram("adapter_switch_seconds", "A step to another adapter", SECONDS, ("phase",))
        self._begin_at_zero()
        self._adapter = Info("abstream_adapter", "The adapter in service", registry=self.registry)
        Info("abstream_build", "This program", registry=self.registry).info({"version": version})

    def _begin_at_zero(self) -> None:
        """Create all series with the value 0. Otherwise Prometheus would miss the first event of each."""
        for reason in get_args(RefusalReason):
            self._refusals.labels(reason)
        for lane in LANES:
            self._trimmed_undelivered.labels(lane)
        self._review.labels("low_confidence")
        for result in get_args(SwitchResult):
            self._switches.labels(result)
        for phase in get_args(SwitchPhase):
            self._switch_seconds.labels(phase)

    def received(self, lane: Lane, first_time: int, again: int) -> None:
        self._received[lane].inc(first_time)
        self._redeliveries.inc(again)

    def inferred(self, lengths: list[int], seconds: float) -> None:
        self._inference_seconds.observe(seconds)
        self._batch_abstracts.observe(len(lengths))
        self._batch_tokens.observe(sum(lengths))
        self._batch_fill_ratio.observe(sum(lengths) / (len(lengths) * max(lengths)))

    def committed(self, answered: Sequence[Answered], outcomes: Sequence[Outcome]) -> None:
        self._commits_lost.inc(outcomes.count(Outcome.LOST))
        self._duplicates.inc(outcomes.count(Outcome.DUPLICATE))
        published = [entry for entry, outcome in zip(answered, outcomes, strict=True) if outcome is _PUBLISHED]
        for reason, number in Tally(entry.reason for entry in published if isinstance(entry, Refused)).items():
            self._refusals.labels(reason).inc(number)
        self._predicted([entry for entry in published if isinstance(entry, Predicted)])

    def lost(self, lane: Lane, entries: int) -> None:
        """Entries were removed before any worker read them; one refusal reports it."""
        self._trimmed_undelivered.labels(lane).inc(entries)
        self._refusals.labels("trimmed").inc()

    def _predicted(self, predictions: Sequence[Predicted]) -> None:
        """Count a whole batch at once: a call for each value would cost as much as validating the abstracts."""
        given: dict[str, list[Scored]] = defaultdict(list)
        for prediction in predictions:
            for question, answer in prediction.answers.items():
                given[question].append(answer)
        for question, answers in given.items():
            for label, number in Tally([answer["label"] for answer in answers]).items():
                self._predictions.labels(question, label).inc(number)
            self._confidence.observe([answer["confidence"] for answer in answers], question)
        self._review.labels("low_confidence").inc(sum([prediction.review.required for prediction in predictions]))
        self._queue_wait_seconds.observe([prediction.queued_ms / 1000 for prediction in predictions])
        self._end_to_end_seconds.observe([prediction.total_ms / 1000 for prediction in predictions])

    def redis_away(self, error: Exception, shard: int | None = None) -> None:
        """A call to Redis failed; ``shard`` is None for the control streams."""
        self._reconnects.inc()
        self.health.redis_away(error, shard)

    def redis_back(self, shard: int | None = None) -> None:
        self.health.redis_back(shard)

    def of_shard(self, number: int) -> "ShardMetrics":
        """An observer for calls to the Redis of a shard."""
        return ShardMetrics(self, number)

    def switched(self, result: SwitchResult) -> None:
        self._switches.labels(result).inc()

    def switching(self, phase: SwitchPhase) -> AbstractContextManager[object]:
        """Time a phase of an adapter switch, even if it fails."""
        return self._switch_seconds.labels(phase).time()

    def serving(self, model: ServedModel) -> None:
        """A model is live; the counters of all its possible answers begin at zero."""
        receipt = model.receipt
        self.health.serving(receipt)
        for question in model.task.questions:
            for label in question.labels:
                self._predictions.labels(question.name, label)
        self._adapter.info(
            {
                "name": receipt.adapter or "",
                "version": receipt.adapter_version or "",
                "digest": receipt.adapter_digest or "",
            }
        )


class ShardMetrics(NamedTuple):
    """Passes on whether the Redis of one shard answers."""

    metrics: Metrics
    shard: int

    def redis_away(self, error: Exception) -> None:
        self.metrics.redis_away(error, self.shard)

    def redis_back(self) -> None:
        self.metrics.redis_back(self.shard)


class GpuMemory(Collector):
    """The memory of the GPU, read at every scrape; left out if there is none."""

    def __init__(self, read: Callable[[], Mapping[str, int]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """The name only."""
        return [_gpu_memory()]

    def collect(self) -> Iterator[Metric]:
        """Collect the values for a scrape."""
        if memory := self._read():
            gauge = _gpu_memory()
            for kind, size in memory.items():
                gauge.add_metric([kind], size)
            yield gauge


def _gpu_memory() -> GaugeMetricFamily:
    return GaugeMetricFamily("abstream_gpu_memory_bytes", "Memory of the GPU", labels=["kind"])
