"""Which shards each worker serves: the workers of a namespace send heartbeats and divide the shards among themselves.

This only saves connections and reads. Any worker may read any shard at any time, because the group gives each entry to
one worker and the commit publishes it once. While workers disagree about who is alive, nothing is lost or doubled.
"""

import asyncio
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ..schemas import Streams
from .metrics import Metrics
from .retrying import until_available
from .scripts import script
from .source import Source

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 5.0  # after which a worker counts as gone; shards that it served alone wait for so long
_LEAVING_SECONDS = 0.5

log = structlog.get_logger()


def share(place: int, workers: int, shards: int) -> range:
    """The shards that one of ``workers`` serves.

    The row of shards is cut into as many equal pieces as there are workers, and each worker serves every shard that its
    piece touches. So each shard has a worker and each worker a shard. If a cut falls within a shard, two neighbours
    share it, and whoever is free reads it: no shard has less than its part of the fleet.

    Args:
        place: of the worker in the order of names, from 0.
        workers: how many there are.
        shards: how many there are.
    """
    begin, end = place * shards, (place + 1) * shards  # in parts of a shard, ``workers`` of which are one
    return range(begin // workers, (end - 1) // workers + 1)


class Membership:
    """Keeps track of one worker's place among the others, and tells its source which shards to serve."""

    def __init__(self, redis: Redis, streams: Streams, name: str, source: Source, metrics: Metrics) -> None:
        """
        Args:
            redis: client for the namespace's control streams.
            streams: the control streams.
            name: of the worker.
            source: is told which shards to serve.
            metrics: of the worker.
        """
        self._redis = redis
        self._streams = streams
        self._name = name
        self._source = source
        self._shards = len({inlet.shard for inlet in source.inlets})
        self._metrics = metrics
        self._served: range | None = None
        self._beat_script = script(redis, "beat")

    async def join(self) -> None:
        """Join the workers of the namespace."""
        self._serve(await self._beat())

    async def run(self) -> None:
        """Send heartbeats until cancelled, then sign off. While Redis is away, the shards stay as they were."""
        try:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                self._serve(await until_available(self._beat, self._metrics))
        finally:
            await self.sign_off()

    async def sign_off(self) -> None:
        """Leave, so that the others take over at once. If Redis is away, they do so after ``SILENCE_SECONDS``."""
        try:
            await asyncio.wait_for(self._redis.zrem(self._streams.workers, self._name), _LEAVING_SECONDS)
        except (RedisError, asyncio.TimeoutError) as error:
            log.warning("not_signed_off", error=type(error).__name__)

    async def _beat(self) -> list[str]:
        """Send a heartbeat; the names of all living workers, including this one."""
        found: Any = await self._beat_script([self._streams.workers], [self._name, int(SILENCE_SECONDS * 1000)])
        return sorted(name.decode() for name in found)

    def _serve(self, workers: list[str]) -> None:
        served = share(workers.index(self._name), len(workers), self._shards)
        self._source.serve(served)
        if served != self._served:
            self._served = served
            log.info("shards_served", shards=list(served), workers=len(workers))
