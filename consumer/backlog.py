"""What is not answered yet, read from Redis on demand."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from ..schemas import Lane, Streams
from ..schemas.streams import GROUP, LANES, Output
from .scripts import source

# The caller waits; a Redis that does not answer within milliseconds is as good as away.
ANSWER_SECONDS = 0.5

READ_BY_GROUPS: tuple[Output, ...] = ("predictions", "refusals")


@dataclass(frozen=True, slots=True)
class Backlog:
    """The unanswered entries of one lane.

    Attributes:
        lag: entries that nobody has read; on Redis 6.2 see ``scripts/backlog.lua``.
        pending: entries that a worker holds.
        oldest_age_seconds: since the oldest of both was added, by the clock of Redis; 0 if there is none.
    """

    lag: int
    pending: int
    oldest_age_seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the Redis server: bytes in use, bytes allowed (0: no limit), keys evicted since its start."""

    used_bytes: int
    most_bytes: int
    evicted_keys: int

    def fullness(self) -> tuple[float, int]:
        """A sort key: how near it is to its limit, and its size."""
        return self.used_bytes / self.most_bytes if self.most_bytes else 0.0, self.used_bytes


class Broker:
    """Asks Redis over connections of its own, from any thread, even while the worker's are busy or broken."""

    def __init__(self, shards: Sequence[tuple[Redis, Streams]]) -> None:
        """``shards`` are all shards of the namespace; their clients should time out after ``ANSWER_SECONDS``."""
        self._shards = [(redis, streams, redis.register_script(source("backlog"))) for redis, streams in shards]

    def backlogs(self) -> dict[Lane, Backlog | None]:
        """The backlog of every lane, over all shards; None if its group does not exist in one of them.

        Raises:
            redis.exceptions.RedisError: Redis is away, or refuses.
        """
        shards = self.backlogs_of_shards()
        return {lane: _together([shard[lane] for shard in shards]) for lane in LANES}

    def backlogs_of_shards(self) -> list[dict[Lane, Backlog | None]]:
        """The same for each shard."""
        found = [script(list(map(streams.lane, LANES)), [GROUP]) for _, streams, script in self._shards]
        return [
            {lane: _backlog(*row) if row else None for lane, row in zip(LANES, rows, strict=True)} for rows in found
        ]

    def memory(self) -> Memory:
        """Memory of the server; if there are several, of the one with the least room left.

        Raises:
            redis.exceptions.RedisError: as ``backlogs``.
        """
        return max((_memory(redis) for redis, _, _ in self._shards), key=Memory.fullness)

    def behind(self) -> dict[tuple[Output, str], float]:
        """(output stream, subscriber group) -> seconds between the newest entry and the last that the group read.

        Trimmed entries do not count: a group that has read nothing is as far behind as the oldest entry.

        Raises:
            redis.exceptions.RedisError: as ``backlogs``.
        """
        found: dict[tuple[Output, str], float] = {}
        for (redis, streams, _), output in product(self._shards, READ_BY_GROUPS):
            for group, seconds in _behind(redis, streams.output(output)):
                found[output, group] = max(seconds, found.get((output, group), 0.0))
        return found

    def close(self) -> None:
        """Close the connections."""
        for redis, _, _ in self._shards:
            redis.close()


class BacklogGauges(Collector):
    """The backlog as metrics, read at every scrape and left out while Redis is away."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def describe(self) -> Iterable[Metric]:
        """The names only, because registering must not ask Redis."""
        return _gauges()

    def collect(self) -> Iterator[Metric]:
        try:
            backlogs = self._broker.backlogs()
        except RedisError:
            return  # ``redis_reconnects_total`` and ``/readyz`` report it; the other metrics are still useful
        lag, pending, age = gauges = _gauges()
        for lane, backlog in backlogs.items():
            if backlog:
                lag.add_metric([lane], backlog.lag)
                pending.add_metric([lane], backlog.pending)
                age.add_metric([lane], backlog.oldest_age_seconds)
        yield from gauges


class RedisGauges(Collector):
    """The server's memory, and how far behind subscriber groups are; each left out if Redis does not tell.

    If a worker lacks the rights to ask, only these metrics are missing.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def describe(self) -> Iterable[Metric]:
        """The names only, because registering must not ask Redis."""
        return _redis_gauges()

    def collect(self) -> Iterator[Metric]:
        """Collect the values for a scrape."""
        size, evicted, behind = _redis_gauges()
        with suppress(RedisError):
            memory = self._broker.memory()
            size.add_metric(["used"], memory.used_bytes)
            size.add_metric(["max"], memory.most_bytes)
            evicted.add_metric([], memory.evicted_keys)
            yield size
            yield evicted
        with suppress(RedisError):
            for (stream, group), seconds in self._broker.behind().items():
                behind.add_metric([stream, group], seconds)
            yield behind


def _memory(redis: Redis) -> Memory:
    # redis-py types INFO as the string that it was before parsing.
    memory: Any = redis.info("memory")
    stats: Any = redis.info("stats")
    return Memory(memory["used_memory"], memory["maxmemory"], stats["evicted_keys"])


def _behind(redis: Redis, key: str) -> Iterator[tuple[str, float]]:
    """Each group of an output stream, and how many seconds it is behind."""
    if redis.type(key) != b"stream":
        return
    stream: Any = redis.xinfo_stream(key)
    groups: Any = redis.xinfo_groups(key)
    oldest = _milliseconds(stream["first-entry"][0]) if stream["length"] else None
    for group in groups:
        given = _milliseconds(group["last-delivered-id"])
        gap = _milliseconds(stream["last-generated-id"]) - max(given, oldest or given)
        yield group["name"].decode(), gap / 1000


def _together(backlogs: Sequence[Backlog | None]) -> Backlog | None:
    known = [backlog for backlog in backlogs if backlog]
    if len(known) < len(backlogs):
        return None
    oldest = max(backlog.oldest_age_seconds for backlog in known)
    return Backlog(sum(one.lag for one in known), sum(one.pending for one in known), oldest)


def _milliseconds(entry_id: bytes) -> int:
    return int(entry_id.split(b"-")[0])


def _redis_gauges() -> tuple[GaugeMetricFamily, CounterMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("abstream_redis_memory_bytes", "Memory of the Redis server; max 0: any", labels=["kind"]),
        CounterMetricFamily("abstream_redis_evicted_keys", "Keys that Redis threw away for want of memory"),
        GaugeMetricFamily(
            "abstream_subscriber_behind_seconds",
            "Between the newest entry and the last a group was given",
            labels=["stream", "group"],
        ),
    )


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
