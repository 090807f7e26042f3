"""``abstream streams …``: make the groups, see what waits, trim by hand."""

import asyncio
import json as json_format
from typing import TYPE_CHECKING, Any

import click

from .settings import option, retention_options

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from .cli import Common
    from .fleet import Row

_OPERATOR = "operator"  # where a worker would give its name


@click.group()
def streams() -> None:
    """The streams: what waits in them, and what they hold in vain."""


@streams.command()
@click.pass_obj
def init(common: "Common") -> None:
    """Create both lanes with the workers' group; nothing happens to what exists."""
    asyncio.run(_create(common.url, common.namespace))


@streams.command()
@option("json", is_flag=True, help="For programs.")
@click.pass_obj
def info(common: "Common", json: bool) -> None:
    """Of each stream: length, unread and unacknowledged entries, age of the oldest; and who reads it."""
    found = asyncio.run(_info(common.url, common.namespace))
    click.echo(json_format.dumps(found) if json else _tables(found))


@streams.command()
@retention_options
@option("json", is_flag=True, help="For programs.")
@click.pass_obj
def trim(common: "Common", /, json: bool, **keep: Any) -> None:
    """Remove what every group has acknowledged, and results past their time; workers do the same now and then."""
    from .fleet import table

    removed = asyncio.run(_trim(common.url, common.namespace, keep))
    rows: list[Row] = [{"stream": stream, "removed": entries} for stream, entries in removed.items()]
    click.echo(json_format.dumps(removed) if json else table(rows, "stream", "removed"))


async def _create(url: str, namespace: str) -> None:
    from ..consumer.config import WorkerConfig
    from ..consumer.metrics import Metrics
    from ..consumer.source import Source
    from ..producer.connection import connect
    from ..schemas import Streams

    async with connect(url) as redis:
        await Source(redis, Streams(namespace), WorkerConfig(name=_OPERATOR), Metrics("")).create_groups()


async def _trim(url: str, namespace: str, keep: dict[str, Any]) -> dict[str, int]:
    from ..consumer.config import WorkerConfig
    from ..consumer.metrics import Metrics
    from ..consumer.upkeep import Upkeep
    from ..producer.connection import connect
    from ..schemas import Streams

    async with connect(url) as redis:
        return await Upkeep(redis, Streams(namespace), WorkerConfig(name=_OPERATOR, **keep), Metrics("")).trim()


async def _info(url: str, namespace: str) -> "list[Row]":
    """Each stream with its groups and their consumers; of the lanes also what is not answered."""
    from ..consumer.backlog import Broker
    from ..producer.connection import connect
    from ..schemas import Streams
    from ..schemas.streams import LANES, OUTPUTS

    names, broker = Streams(namespace), Broker(url, Streams(namespace))
    try:
        backlogs = {names.lane(lane): backlog for lane, backlog in broker.backlogs().items()}
    finally:
        broker.close()
    keys = [*map(names.lane, LANES), *map(names.output, OUTPUTS)]
    async with connect(url) as redis:
        found = [await _stream(redis, key) for key in keys]
    for row in found:
        if backlog := backlogs.get(row["stream"]):
            row |= {
                "lag": backlog.lag,
                "pending": backlog.pending,
                "oldest_unanswered_seconds": round(backlog.oldest_age_seconds, 3),
            }
    return found


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
