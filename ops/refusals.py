"""``abstream refusals …``: look at what was set aside, and send it again."""

import asyncio
import json as json_format
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from ..schemas.errors import RefusalReason
from .exits import DONE, SOME_REFUSED
from .settings import option

if TYPE_CHECKING:
    from ..producer.replaying import Refusals, Refused, Replay
    from .cli import Common
    from .fleet import Row

T = TypeVar("T")

_reason = option(
    "reason", multiple=True, type=click.Choice(get_args(RefusalReason)), help="Only with this reason; repeatable."
)


@click.group(short_help="See what was refused and why, and replay it.")
def refusals() -> None:
    """List, show and replay what was refused, with the reason and the whole original."""


@refusals.command("list")
@_reason
@option("since", default="0", help="Only after an entry id or a time (ISO 8601); 0 is the beginning.")
@option("json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(common: "Common", reason: tuple[str, ...], since: str, json: bool) -> None:
    """List every refusal, oldest first, and what became of it."""
    from .fleet import table
    from .following import moment

    async def rows(stored: "Refusals") -> "list[Row]":
        return [_row(refused) async for refused in stored.all(moment(since), reason)]

    found = _with_refusals(common, rows)
    columns = ("time", "id", "reason", "abstract", "retryable", "replay_of", "replayed_as", "message")
    click.echo(json_format.dumps(found) if json else table(found, *columns))


@refusals.command(short_help="Show one refusal with its whole original.")
@click.argument("id")
@click.pass_obj
def show(common: "Common", id: str) -> None:
    """Show one refusal with its whole original, as JSON; ID is that of the event or of the entry."""
    [refused] = _with_refusals(common, lambda stored: stored.named([id]))
    click.echo(json_format.dumps(json_format.loads(refused.event.to_json()), indent=2, ensure_ascii=False))


@refusals.command(short_help="Send originals to their lane again.")
@click.argument("ids", nargs=-1)
@_reason
@option("all", is_flag=True, help="Every refusal.")
@option("dry-run", is_flag=True, help="Only print what would be done.")
@option("json", is_flag=True, help="Print JSON.")
@click.pass_obj
def replay(
    common: "Common", ids: tuple[str, ...], reason: tuple[str, ...], all: bool, dry_run: bool, json: bool
) -> None:
    """Send originals to their lane again, chosen by IDS, --reason or --all; each refusal once.

    Exit code 3 if some cannot be sent.
    """
    if sum(map(bool, (ids, reason, all))) != 1:
        raise click.UsageError("choose refusals by their ids, by --reason, or all with --all")

    async def send(stored: "Refusals") -> "list[Replay]":
        chosen = await stored.named(ids) if ids else [refused async for refused in stored.all("0", reason)]
        return [await stored.replay(refused, dry_run=dry_run) for refused in chosen]

    from .fleet import table

    sent = _with_refusals(common, send)
    rows = [asdict(one) for one in sent]
    click.echo(json_format.dumps(rows) if json else table(rows, "id", "result", "entry_id", "problem"))
    counts = Counter(one.result for one in sent)
    click.echo(", ".join(f"{count} {result}" for result, count in counts.items()) or "nothing to replay", err=True)
    sys.exit(SOME_REFUSED if counts["cannot be replayed"] else DONE)


def _with_refusals(common: "Common", work: "Callable[[Refusals], Awaitable[T]]") -> T:
    async def connected() -> T:
        from ..producer.connection import Connections
        from ..producer.replaying import Refusals

        async with Connections(common.url, common.shards) as connections:
            return await work(Refusals(connections.shards))

    return asyncio.run(connected())


def _row(refused: "Refused") -> dict[str, Any]:
    event, milliseconds = refused.event, int(refused.entry_id.partition("-")[0])
    said = event.data.model_dump(mode="json", include={"reason", "message", "deliveries", "retryable", "replay_of"})
    return said | {
        "time": datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat(timespec="seconds"),
        "id": event.id,
        "entry_id": refused.entry_id,
        "abstract": event.causationid,
        "source": event.causationsource,
        "replayed_as": refused.replayed_as,
    }
