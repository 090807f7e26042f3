"""What is not answered yet, asked of Redis at the moment somebody wants to know."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ..schemas import Lane, Streams
from ..schemas.streams import GROUP, LANES
from .scripts import source

# Whoever asks waits, and Redis answers within milliseconds or is as good as away.
ANSWER_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Backlog:
    """What of one lane is not answered.

    Attributes:
        lag: entries that nobody has read; on Redis 6.2 see ``scripts/backlog.lua``.
        pending: entries in a worker's hands.
        oldest_age_seconds: since the oldest of both was added, by the clock of Redis; 0 where there is none.
    """

    lag: int
    pending: int
    oldest_age_seconds: float


class Broker:
    """Asks Redis over a connection of its own, from any thread, while the worker's are busy or broken."""

    def __init__(self, url: str, streams: Streams) -> None:
        self._redis = Redis.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
        )
        self._streams = streams
        self._script = self._redis.register_script(source("backlog"))

    def backlogs(self) -> dict[Lane, Backlog | None]:
        """Of every lane; None where its group does not exist.

        Raises:
            redis.exceptions.RedisError: Redis is away, or refuses.
        """
        found = self._script(list(map(self._streams.lane, LANES)), [GROUP])
        return {lane: _backlog(*row) if row else None for lane, row in zip(LANES, found, strict=True)}

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


class BacklogGauges(Collector):
    """The backlog as metrics, read at every scrape; left out while Redis is away."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def describe(self) -> Iterable[Metric]:
        """The names alone: registering must not ask Redis."""
        return _gauges()

    def collect(self) -> Iterator[Metric]:
        try:
            backlogs = self._broker.backlogs()
        except RedisError:
            return  # ``redis_reconnects_total`` and ``/readyz`` say it; the other metrics are worth having
        lag, pending, age = gauges = _gauges()
        for lane, backlog in backlogs.items():
            if backlog:
                lag.add_metric([lane], backlog.lag)
                pending.add_metric([lane], backlog.pending)
                age.add_metric([lane], backlog.oldest_age_seconds)
        yield from gauges


def _backlog(lag: int, pending: int, oldest_age_milliseconds: int) -> Backlog:
    return Backlog(lag, pending, oldest_age_milliseconds / 1000)


def _gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("abstream_stream_lag", "Entries that no worker has read", labels=["lane"]),
        GaugeMetricFamily("abstream_stream_pending", "Entries in a worker's hands", labels=["lane"]),
        GaugeMetricFamily(
            "abstream_oldest_unanswered_age_seconds", "Since the oldest of both was added", labels=["lane"]
        ),
    )
