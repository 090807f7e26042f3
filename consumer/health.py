"""Whether a worker is alive and ready, as reported by its loop.

A worker is alive as long as it makes progress: every step of the loop reports within ``STALL_SECONDS``, and every batch
ends. Waiting for a Redis that is away counts as progress, because a new process would have to wait as well, but only
for the steps that use this Redis.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import ResponseError

from ..schemas.events import ModelReceipt

# Thirty blocking reads, or six that run into the client's timeout.
STALL_SECONDS = 30

BRING_BACK = "bring Redis back, or the way to it; the worker waits and goes on by itself"


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of readiness; if it is not met, ``mend`` tells people what to do."""

    ok: bool
    state: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class _Beat:
    """When a step last reported, and the shards whose Redis it may be waiting for since."""

    at: float
    shards: Collection[int]


@dataclass(frozen=True, slots=True)
class _Away:
    """A Redis that does not answer, or that refuses commands."""

    since: float
    error: Exception

    def state(self, now: float) -> str:
        seconds = now - self.since
        if self.is_refusal:
            return f"refuses for {seconds:.0f} s: {self.error}"
        return f"away for {seconds:.0f} s: {type(self.error).__name__}"

    @property
    def is_refusal(self) -> bool:
        """Messages of a server are about keys and settings, and may be shown; those of a connection name addresses."""
        return isinstance(self.error, ResponseError)


class Health:
    """Owns the known state of one worker. Every method may be called from any thread."""

    def __init__(self, batch_deadline_seconds: float = 300, clock: Callable[[], float] = time.monotonic) -> None:
        self._batch_deadline_seconds = batch_deadline_seconds
        self._clock = clock
        self._lock = Lock()
        self._beats: dict[str, _Beat] = {}  # of each step
        self._computing_since: float | None = None
        self._away: dict[int | None, _Away] = {}  # by shard
        self._model: ModelReceipt | None = None
        self._adapter_settled = False
        self._draining = False

    def beat(self, step: str, shards: Collection[int]) -> None:
        """A step of the loop makes progress, and may now wait for the Redis of these shards."""
        with self._lock:
            self._beats[step] = _Beat(self._clock(), shards)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A batch is being computed within the block, and the steps before it may wait for that."""
        with self._lock:
            self._computing_since = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._computing_since = None
                self._came_round(self._beats)

    def redis_away(self, error: Exception, shard: int | None) -> None:
        """A call to the Redis of a shard, or of the control streams if None, failed and will be repeated."""
        with self._lock:
            now = self._clock()
            self._away[shard] = _Away(self._away[shard].since if shard in self._away else now, error)
            self._came_round([step for step, beat in self._beats.items() if shard in beat.shards])

    def redis_back(self, shard: int | None) -> None:
        """A call that had failed was answered at last."""
        with self._lock:
            self._away.pop(shard, None)

    def away(self) -> frozenset[int | None]:
        """The shards whose Redis does not answer or refuses; None stands for the control streams."""
        with self._lock:
            return frozenset(self._away)

    def serving(self, model: ModelReceipt) -> None:
        """An engine has answered its probe and is live."""
        with self._lock:
            self._model = model

    def ready(self) -> None:
        """The initial adapter is verified and live, and reading begins."""
        with self._lock:
            self._adapter_settled = True

    def draining(self) -> None:
        """Reading has ended. The drain has a deadline of its own."""
        with self._lock:
            self._draining = True

    def wedged(self) -> str | None:
        """Why the loop counts as stuck; None while it makes progress, and before it begins."""
        with self._lock:
            now = self._clock()
            if self._draining or not self._beats:
                return None
            if self._computing_since is not None:
                took = now - self._computing_since
                return f"a batch has been computed for {took:.0f} s" if took > self._batch_deadline_seconds else None
            step, silent = max(((step, now - beat.at) for step, beat in self._beats.items()), key=lambda one: one[1])
            return f"{step} has not come round for {silent:.0f} s" if silent > STALL_SECONDS else None

    def checks(self) -> dict[str, Check]:
        """The conditions of readiness that the worker knows itself."""
        with self._lock:
            return {
                "redis": self._redis(),
                "engine": self._engine(),
                "adapter": self._adapter(),
                "intake": self._intake(),
            }

    def _came_round(self, steps: Iterable[str]) -> None:
        now = self._clock()
        self._beats |= {step: replace(self._beats[step], at=now) for step in steps}

    def _redis(self) -> Check:
        if not self._away:
            return Check(True, "answers")
        now = self._clock()
        states = {self._place(shard): away.state(now) for shard, away in self._away.items()}
        refused = any(away.is_refusal for away in self._away.values())
        mend = "mend what it says; the worker waits and goes on by itself" if refused else BRING_BACK
        return Check(False, "; ".join(f"{place}{state}" for place, state in sorted(states.items())), mend)

    def _place(self, shard: int | None) -> str:
        """The name of a shard for people; empty if there is only one."""
        if len({shard for beat in self._beats.values() for shard in beat.shards}) < 2:
            return ""
        return "control streams " if shard is None else f"shard {shard} "

    def _engine(self) -> Check:
        if self._model is None:
            return Check(False, "not loaded", "wait for the model; if it does not come, see the worker's log")
        return Check(True, f"{self._model.engine} with {self._model.base} answered its probe")

    def _adapter(self) -> Check:
        if self._model is None or not self._adapter_settled:
            return Check(False, "not verified", "wait for it; if it does not come, see the worker's log")
        name, digest = self._model.adapter, self._model.adapter_digest
        return Check(
            True, f"{name} {self._model.adapter_version} {digest} is live" if name else "the bare base is live"
        )

    def _intake(self) -> Check:
        if self._draining:
            return Check(False, "draining", "leave it: the worker finishes what it holds and ends")
        return Check(True, "open")


class HealthGauges(Collector):
    """Liveness and readiness as metrics. A scrape has a thread of its own, so it works even if the loop is stuck."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def describe(self) -> Iterable[Metric]:
        """The names only."""
        return _gauges()

    def collect(self) -> Iterator[Metric]:
        """Collect the values for a scrape."""
        alive, ready = gauges = _gauges()
        alive.add_metric([], self._health.wedged() is None)
        for name, check in self._health.checks().items():
            ready.add_metric([name], check.ok)
        yield from gauges


def _gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("abstream_alive", "1 while the loop makes progress"),
        GaugeMetricFamily("abstream_ready", "1 for each check that a worker must pass to be ready", labels=["check"]),
    )
