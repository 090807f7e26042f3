"""``abstream adapters …``: what comes before an announcement, and the announcement; what follows is in ``live``."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from .live import COMMANDS
from .settings import STORE_HELP, adapter_cache, model_options, option, sign_key_option

if TYPE_CHECKING:
    from ..schemas import Shards, VerifiedAdapter
    from ..schemas.events import Gate
    from .cli import Common


@click.group()
def adapters() -> None:
    """Release adapters, and see which worker serves which."""


for _command in COMMANDS:
    adapters.add_command(_command)


@adapters.command(short_help="Copy an adapter into the store, and announce it.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@option("store", required=True, help=STORE_HELP)
@sign_key_option
@option("shadow", is_flag=True, help="Only score beside the live adapter, in idle time; publish no answers.")
@click.pass_obj
def release(common: "Common", folder: Path, store: str, sign_key: Path | None, shadow: bool) -> None:
    """Copy the adapter in FOLDER into the store and announce it: running workers switch to it."""
    asyncio.run(announce(common.url, common.shards, folder, store, None, sign_key, shadow=shadow))


@adapters.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@option(
    "public-key",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also check that FOLDER.sig is a signature by this key, or by one of several.",
)
def verify(folder: Path, public_key: tuple[Path, ...]) -> None:
    """Check every file of the adapter in FOLDER, and print what it is."""
    from ..schemas.artifacts import verify as verify_files

    adapter = verify_files(folder)
    manifest = adapter.manifest
    if public_key:
        _verify_signature(adapter, public_key)
    click.echo(f"{manifest.name} {manifest.version} {adapter.digest}")
    click.echo(f"{len(manifest.files) + 1} files are as released; for {manifest.base_model.id}", err=True)


@adapters.command(short_help="Make a key pair for signing releases.")
@click.argument("file", type=click.Path(path_type=Path))
def keygen(file: Path) -> None:
    """Make a key pair: the private key in FILE signs releases, the public key in FILE.pub is for workers."""
    from ..training.signing import generate

    click.echo(generate(file))


@adapters.command(short_help="Show which answers would change.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@option("data", multiple=True, metavar="FILE", help="Abstracts to ask both about; repeatable.")
@option("since", help="Ask about everything A answered since an entry id or a time (ISO 8601).")
@option("publish", is_flag=True, help="With --since: publish B's answer in place of each that changes, once.")
@option("json", is_flag=True, help="Print JSON.")
@model_options
@click.pass_obj
def diff(
    common: "Common", /, first: str, second: str, data: tuple[str, ...], since: str | None, publish: bool, **flags: Any
) -> None:
    """Show which answers would change if B were live instead of A.

    Each is a folder, a digest, a version, live, or none for the bare base.
    """
    if bool(data) == bool(since) or (publish and not since):
        raise click.UsageError("give --data or --since; --publish goes with --since, whose results it replaces")
    from .diffing import run
    from .files import Tally

    common.open_log()
    tally = Tally()
    click.echo(run(common.url, common.shards, (first, second), data, since, flags, tally, publishing=publish))
    sys.exit(tally.exit_code)


async def announce(
    url: str,
    shards: "Shards",
    folder: Path,
    store: str,
    gate: "Gate | None",
    sign_key: Path | None = None,
    *,
    shadow: bool = False,
) -> None:
    """Release the adapter in ``folder`` and print, as JSON, what was announced; raises as ``training.release``."""
    from ..producer.connection import connect
    from ..training.release import release as release_adapter
    from ..training.signing import read_private_key

    key = read_private_key(sign_key) if sign_key else None
    async with connect(url, shards.control) as redis:
        action: Literal["activate", "shadow"] = "shadow" if shadow else "activate"
        released = await release_adapter(redis, shards.control, folder, store, gate, action, key)
    update = released.event.data
    announced = update.model_dump(mode="json", include={"name", "version", "digest", "uri", "action"})
    click.echo(json.dumps(announced | {"entry_id": released.entry_id}))


def live_adapter(url: str, shards: "Shards") -> "VerifiedAdapter | None":
    """The adapter that was announced last, fetched; None where there was none.

    Raises:
        AdapterRefused: it is not as announced.
        Unavailable: its store is out of reach.
        redis.exceptions.ConnectionError: Redis is out of reach.
    """
    from ..consumer.adapters.cache import Cache
    from ..consumer.config import MAX_ADAPTER_BYTES
    from .fleet import known

    live = known(url, shards).live
    return Cache(adapter_cache(), max_bytes=MAX_ADAPTER_BYTES).fetch(live.update) if live else None


def _verify_signature(adapter: "VerifiedAdapter", public_keys: tuple[Path, ...]) -> None:
    """Hold the signature beside an adapter's folder against the keys; raises AdapterRefused."""
    from ..consumer.adapters.signatures import check_signature, read_public_keys
    from ..schemas import AdapterRefused
    from ..training.release import describe

    beside = adapter.path.absolute().with_name(f"{adapter.path.absolute().name}.sig")
    if not beside.exists():
        raise AdapterRefused(f"the adapter is not signed: there is no {beside}")
    signature = beside.read_text(encoding="utf-8", errors="replace").strip()
    update = describe(adapter, None, "activate").model_copy(update={"signature": signature})
    check_signature(update, read_public_keys(public_keys))
