"""A shard as a worker sees it: its streams, and a client of the server that holds them."""

from collections.abc import Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from ..schemas import Streams
from ..schemas.streams import LANES
from .inlet import Inlet


class Shard(NamedTuple):
    """``redis`` is a client that never repeats a command by itself."""

    redis: Redis
    streams: Streams


def inlets(shards: Sequence[Shard], worker: str) -> list[Inlet]:
    """Both lanes of every shard, to be read by one worker."""
    return [
        Inlet(shard.redis, shard.streams, lane, worker, number, len(shards))
        for number, shard in enumerate(shards)
        for lane in LANES
    ]
