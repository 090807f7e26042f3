"""What the streams of adapters and of the fleet's answers say, for people and for programs."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from redis.exceptions import ResponseError

from ..consumer.adapters.fleet_status import Answer, FleetStatus, fleet_status
from ..consumer.adapters.history import in_service
from ..producer.connection import Connections, Shard
from ..schemas import AdapterActivated, AdapterUpdated, Event, Malformed, Shards
from ..schemas.announced import Announced, Order
from ..schemas.streams import GROUP, LANES, Output, from_fields

Row = dict[str, Any]
"""One line of a table or one object of JSON."""

# One at work reads each second, or renews a lease three times within its 15 s.
ALIVE_SECONDS = 15.0
_DIGEST_CHARACTERS = len("sha256:") + 12  # for people


@dataclass(frozen=True)
class Known:
    """What the streams tell of adapters and workers.

    Attributes:
        history: every announcement that workers follow, oldest first.
        answers: of all workers, oldest first.
        alive: each worker at work, and for how many seconds it has been silent.
        newest_entry: the last of the stream of announcements, followed or not; "0-0" where there is none.
    """

    history: tuple[Announced, ...]
    answers: tuple[Answer, ...]
    alive: dict[str, float]
    newest_entry: str

    @property
    def live(self) -> Announced | None:
        """What all workers should serve."""
        served = in_service(self.history)
        return served[-1] if served else None

    @property
    def status(self) -> FleetStatus:
        """How the workers stand."""
        return fleet_status(self.live, self.history, self.answers, self.alive)

    @property
    def served(self) -> set[str]:
        """The digests that a worker has activated."""
        return {answer.data.digest for answer in self.answers if isinstance(answer, AdapterActivated)}


async def look(control: Shard, shards: Sequence[Shard]) -> Known:
    """Everything known about the adapters of a namespace, from ``control``, and about its workers, from all shards.

    Raises:
        redis.exceptions.ConnectionError: Redis is out of reach.
    """
    entries = await _entries(control, "adapters")
    announced = [
        Announced(entry_id, event) for entry_id, event in _events(entries) if isinstance(event, AdapterUpdated)
    ]
    said = _events(await _entries(control, "fleet"))
    answers = tuple(event for _, event in said if isinstance(event, Answer))
    order = Order()
    history = tuple(one for one in announced if order.objection(one) is None)
    newest = entries[-1][0].decode() if entries else "0-0"
    return Known(history, answers, await _alive(shards), newest)


def known(url: str, shards: Shards) -> Known:
    """As ``look``, over connections of its own."""

    async def ask() -> Known:
        async with Connections(url, shards) as connections:
            return await look(connections.control, connections.shards)

    return asyncio.run(ask())


async def _alive(shards: Sequence[Shard]) -> dict[str, float]:
    """Workers show signs of life when they read a lane or renew a lease."""
    idle: dict[str, float] = {}
    for (redis, streams), lane in product(shards, LANES):
        try:
            consumers: Any = await redis.xinfo_consumers(streams.lane(lane), GROUP)
        except ResponseError:
            continue  # no worker has ever been here
        for one in consumers:
            name, seconds = one["name"].decode(), one["idle"] / 1000
            idle[name] = min(seconds, idle.get(name, seconds))
    return {name: seconds for name, seconds in idle.items() if seconds < ALIVE_SECONDS}


def table(rows: list[Row], *columns: str) -> str:
    """Rows in aligned columns under their names; digests are shortened."""
    cells = [list(columns), *([_shown(row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


async def _entries(shard: Shard, output: Output) -> list[tuple[bytes, dict[bytes, bytes]]]:
    entries: Any = await shard.redis.xrange(shard.streams.output(output))
    return list(entries)


def _events(entries: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[tuple[str, Event]]:
    """Every event that this version can read, with its entry id."""
    for entry_id, fields in entries:
        try:
            yield entry_id.decode(), from_fields(fields)
        except Malformed:
            continue  # workers skip it too, and say so in their logs


def _shown(value: object) -> str:
    text = "-" if value is None else str(value)
    return text[:_DIGEST_CHARACTERS] if text.startswith("sha256:") else text
