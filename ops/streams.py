"""``abstream streams …``: make the groups, see what waits, trim by hand."""

import asyncio
import json as json_format
from typing import TYPE_CHECKING, Any

import click

from .settings import option, retention_options

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from ..consumer.backlog import Backlog
    from ..schemas import Shards
    from .cli import Common
    from .fleet import Row

_OPERATOR = "operator"  # where a worker would give its name


@click.group()
def streams() -> None:
    """Create, inspect and trim the streams."""


@streams.command(short_help="Create both lanes and the workers' group.")
@click.pass_obj
def init(common: "Common") -> None:
    """Create both lanes of every shard with the workers' group; existing ones are left alone."""
    asyncio.run(_create(common.url, common.shards))


@streams.command(short_help="Show how much waits, and who reads.")
@option("json", is_flag=True, help="Print JSON.")
@click.pass_obj
def info(common: "Common", json: bool) -> None:
    """Show each stream's length, unread and unacknowledged entries, oldest entry, and readers."""
    found = asyncio.run(_info(common.url, common.shards))
    click.echo(json_format.dumps(found) if json else _tables(found))


@streams.command(short_help="Remove what nobody needs any more.")
@retention_options
@option("json", is_flag=True, help="Print JSON.")
@click.pass_obj
def trim(common: "Common", /, json: bool, **keep: Any) -> None:
    """Remove what every group has acknowledged, and expired results; workers do this regularly too."""
    from .fleet import table

    removed = asyncio.run(_trim(common.url, common.shards, keep))
    rows: list[Row] = [{"stream": stream, "removed": entries} for stream, entries in removed.items()]
    click.echo(json_format.dumps(removed) if json else table(rows, "stream", "removed"))


async def _create(url: str, shards: "Shards") -> None:
    from ..consumer.shards import Shard, inlets
    from ..producer.connection import Connections

    async with Connections(url, shards) as connections:
        for inlet in inlets([Shard(*shard) for shard in connections.shards], _OPERATOR):
            await inlet.create_group()


async def _trim(url: str, shards: "Shards", keep: dict[str, Any]) -> dict[str, int]:
    from ..consumer.config import WorkerConfig
    from ..consumer.metrics import Metrics
    from ..consumer.upkeep import Upkeep
    from ..producer.connection import Connections

    config, removed = WorkerConfig(name=_OPERATOR, **keep), dict[str, int]()
    async with Connections(url, shards) as connections:
        for shard in connections.shards:
            removed |= await Upkeep(*shard, config, Metrics("")).trim()
    return removed


async def _info(url: str, shards: "Shards") -> "list[Row]":
    """Each stream with its groups and their consumers; of the lanes also what is not answered."""
    from ..producer.connection import Connections
    from ..schemas.streams import CONTROL, LANES
    from .working import broker_at

    broker = broker_at(url, shards)
    try:
        backlogs = broker.backlogs_of_shards()
    finally:
        broker.close()
    found: list[Row] = []
    async with Connections(url, shards) as connections:
        for (redis, names), backlog in zip(connections.shards, backlogs, strict=True):
            found += [await _stream(redis, names.lane(lane)) | _waiting(backlog[lane]) for lane in LANES]
            found += [await _stream(redis, key) for key in (names.predictions, names.refusals)]
        redis, names = connections.control
        found += [await _stream(redis, names.output(output)) for output in CONTROL]
    return found


def _waiting(backlog: "Backlog | None") -> "Row":
    if backlog is None:
        return {}
    seconds = round(backlog.oldest_age_seconds, 3)
    return {"lag": backlog.lag, "pending": backlog.pending, "oldest_unanswered_seconds": seconds}


async def _stream(redis: "Redis", key: str) -> "Row":
    groups: Any = await redis.xinfo_groups(key) if await redis.exists(key) else []
    return {
        "stream": key,
        "length": await redis.xlen(key),
        "lag": None,
        "pending": None,
        "oldest_unanswered_seconds": None,
        "groups": [await _group(redis, key, group) for group in groups],
    }


async def _group(redis: "Redis", key: str, group: dict[str, Any]) -> "Row":
    consumers: Any = await redis.xinfo_consumers(key, group["name"])
    return {
        "group": group["name"].decode(),
        "lag": group.get("lag"),  # unknown to Redis 6.2
        "pending": group["pending"],
        "last_delivered": group["last-delivered-id"].decode(),
        "consumers": [
            {
                "consumer": consumer["name"].decode(),
                "pending": consumer["pending"],
                "idle_seconds": consumer["idle"] / 1000,
            }
            for consumer in consumers
        ],
    }


def _tables(found: "list[Row]") -> str:
    """For people: the streams, then the groups, then the consumers, each where there are any."""
    from .fleet import table

    groups = [{"stream": row["stream"]} | group for row in found for group in row["groups"]]
    consumers = [
        {"stream": group["stream"], "group": group["group"]} | consumer
        for group in groups
        for consumer in group["consumers"]
    ]
    parts = [
        table(found, "stream", "length", "lag", "pending", "oldest_unanswered_seconds"),
        table(groups, "stream", "group", "lag", "pending", "last_delivered") if groups else "",
        table(consumers, "stream", "group", "consumer", "pending", "idle_seconds") if consumers else "",
    ]
    return "\n\n".join(filter(None, parts))
