"""``abstream adapters list|show|status|rollback|diff``: the history, the fleet, and the way back."""

import asyncio
import json as json_format
from typing import TYPE_CHECKING

import click

from .settings import option

if TYPE_CHECKING:
    from .cli import Common


@click.command("list")
@option("json", is_flag=True, help="For programs.")
@click.pass_obj
def list_(common: "Common", json: bool) -> None:
    """Every adapter that was announced, oldest first."""
    from .fleet import history, table

    found = asyncio.run(history(common.url, common.namespace))
    click.echo(json_format.dumps(found) if json else table(found, "time", "name", "version", "action", "digest"))


@click.command()
@option("json", is_flag=True, help="For programs.")
@click.pass_obj
def status(common: "Common", json: bool) -> None:
    """Each worker's last answer to an announcement, and what it has served since."""
    from .fleet import fleet, table

    found = asyncio.run(fleet(common.url, common.namespace))
    columns = ("worker", "result", "name", "version", "digest", "serves", "time", "reason")
    click.echo(json_format.dumps(found) if json else table(found, *columns))


COMMANDS = (list_, status)
