"""``abstream adapters list|show|status|rollback``: the history, the fleet, and the way back."""

import asyncio
import json as json_format
from typing import TYPE_CHECKING, Any

import click

from .settings import option

if TYPE_CHECKING:
    from ..consumer.adapters.fleet_status import FleetStatus, WorkerStatus
    from ..schemas import Shards
    from ..schemas.announced import Announced
    from .cli import Common
    from .fleet import Row

SOURCE = "urn:abstream:operator"


@click.command("list")
@option("json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(common: "Common", json: bool) -> None:
    """List every adapter that was announced, oldest first."""
    from .fleet import known, table

    found = known(common.url, common.shards)
    rows = [_row(one) | {"live": "live" if one is found.live else None} for one in found.history]
    columns = ("time", "name", "version", "action", "digest", "live", "reason")
    click.echo(json_format.dumps(rows) if json else table(rows, *columns))


@click.command(short_help="Show what was announced of one adapter.")
@click.argument("adapter", metavar="[DIGEST|VERSION]", required=False)
@option("json", is_flag=True, help="Print JSON.")
@click.pass_obj
def show(common: "Common", adapter: str | None, json: bool) -> None:
    """Show everything that was announced of one adapter, the live one by default, and who serves it."""
    from ..consumer.adapters.history import find
    from ..schemas import AdapterRefused
    from .fleet import known

    found = known(common.url, common.shards)
    shown = find(found.history, adapter) if adapter else found.live
    if shown is None:
        raise AdapterRefused("no adapter has been announced yet: `abstream adapters release` announces one")
    workers = [one.worker for one in found.status.workers if one.serves == shown.update.digest]
    said = shown.update.model_dump(mode="json", exclude={"task", "files"})
    everything = _row(shown) | said | {"questions": [one.name for one in shown.update.task.questions]}
    everything |= {"live": shown is found.live, "workers": workers}
    click.echo(json_format.dumps(everything) if json else "\n".join(_lines(everything)))


@click.command(short_help="Show which workers serve the live adapter.")
@option("json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(common: "Common", json: bool) -> None:
    """Show how many of the workers that are at work serve the live adapter; who is late, since when, why."""
    from .fleet import known, table

    found = known(common.url, common.shards).status
    rows = [_worker_row(one) for one in found.workers]
    if json:
        live = _row(found.live) if found.live else None
        total = {"on_time": found.on_time, "at_work": len(rows), "live": live, "workers": rows}
        click.echo(json_format.dumps(total))
    else:
        click.echo(_summary(found))
        click.echo(table(rows, "worker", "version", "serves", "late_since", "why"))


@click.command(short_help="Announce an older adapter again.")
@option(
    "to", metavar="DIGEST|VERSION", help="One that was announced; by default the one in service before the live one."
)
@option("reason", help="For the history.")
@click.pass_obj
def rollback(common: "Common", to: str | None, reason: str | None) -> None:
    """Announce an older adapter again: workers take it from their own disk and switch back."""
    click.echo(json_format.dumps(_row(asyncio.run(_roll_back(common.url, common.shards, to, reason)))))


COMMANDS = (list_, show, status, rollback)


async def _roll_back(url: str, shards: "Shards", to: str | None, reason: str | None) -> "Announced":
    """Announce the rollback and return the announcement.

    Raises:
        AdapterRefused: there is nothing to roll back to, or it is live already.
        Unavailable: something else was announced in the same moment.
    """
    from ..consumer.adapters.history import find, one_before
    from ..consumer.adapters.rollback import announce
    from ..consumer.adapters.rollback import rollback as event_of
    from ..producer.connection import Connections
    from ..schemas import AdapterRefused, Unavailable
    from ..schemas.announced import Announced
    from .fleet import look

    async with Connections(url, shards) as connections:
        known = await look(connections.control, connections.shards)
        if known.live is None:
            raise AdapterRefused("no adapter has been announced yet, so there is nothing to roll back")
        target = find(known.history, to) if to else one_before(known.history, known.served)
        if target.update.digest == known.live.update.digest:
            raise AdapterRefused(f"{target.update.version} is the one announced last: there is nothing to roll back")
        event = event_of(target, known.live, reason or "asked for by an operator", SOURCE)
        if entry_id := await announce(*connections.control, event, known.newest_entry):
            return Announced(entry_id, event)
    raise Unavailable("another adapter was announced at the same time: see `abstream adapters list`, then try again")


def _row(announced: "Announced") -> "Row":
    from ..consumer.adapters.fleet_status import announced_at

    names = {"name", "version", "digest", "action", "uri", "reason"}
    said = announced.update.model_dump(mode="json", include=names)
    time = announced_at(announced).isoformat(timespec="seconds")
    return {**said, "time": time, "entry_id": announced.entry_id}


def _worker_row(one: "WorkerStatus") -> "Row":
    since = one.late_since.isoformat(timespec="seconds") if one.late_since else None
    return {"worker": one.worker, "version": one.version, "serves": one.serves, "late_since": since, "why": one.why}


def _summary(found: "FleetStatus") -> str:
    if found.live is None:
        return f"no adapter was announced; {len(found.workers)} workers are at work"
    live = found.live.update
    return f"{found.on_time} of {len(found.workers)} workers on {live.name} {live.version} {live.digest[:19]}"


def _lines(said: dict[str, Any]) -> list[str]:
    """One fact a line; what is nested as JSON."""
    width = max(map(len, said))
    texts = ((name, value if isinstance(value, str) else json_format.dumps(value)) for name, value in said.items())
    return [f"{name:{width}}  {text}" for name, text in texts]
