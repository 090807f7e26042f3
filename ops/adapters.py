"""``abstream adapters …``: what comes before an announcement, and the announcement; what follows is in ``live``."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .live import COMMANDS
from .settings import option

if TYPE_CHECKING:
    from ..schemas import VerifiedAdapter
    from ..schemas.events import Gate
    from .cli import Common


@click.group()
def adapters() -> None:
    """The adapters that were released, and which worker serves which."""


for _command in COMMANDS:
    adapters.add_command(_command)


@adapters.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@option(
    "store",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of released adapters; every worker must reach it under the same path.",
)
@click.pass_obj
def release(common: "Common", folder: Path, store: Path) -> None:
    """Copy the adapter in FOLDER into the store and announce it: running workers switch to it."""
    asyncio.run(announce(common.url, common.namespace, folder, store, None))


@adapters.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify(folder: Path) -> None:
    """Check every file of the adapter in FOLDER, and print what it is."""
    from ..schemas.artifacts import verify as verify_files

    adapter = verify_files(folder)
    manifest = adapter.manifest
    click.echo(f"{manifest.name} {manifest.version} {adapter.digest}")
    click.echo(f"{len(manifest.files) + 1} files are as released; for {manifest.base_model.id}", err=True)


async def announce(url: str, namespace: str, folder: Path, store: Path, gate: "Gate | None") -> None:
    """Release the adapter in ``folder`` and print, as JSON, what was announced; raises as ``training.release``."""
    from ..producer.connection import connect
    from ..schemas import Streams
    from ..training.release import release as release_adapter

    redis = connect(url)
    try:
        released = await release_adapter(redis, Streams(namespace), folder, store, gate)
    finally:
        await redis.aclose()
    update = released.event.data
    announced = update.model_dump(mode="json", include={"name", "version", "digest", "uri", "action"})
    click.echo(json.dumps(announced | {"entry_id": released.entry_id}))


def live_adapter(url: str, namespace: str) -> "VerifiedAdapter | None":
    """The adapter that was announced last, fetched; None where there was none.

    Raises:
        AdapterRefused: it is not in the store, or not as announced.
        redis.exceptions.ConnectionError: Redis is out of reach.
    """
    from ..consumer.adapters.store import fetch
    from .fleet import known

    live = known(url, namespace).live
    return fetch(live.update) if live else None
