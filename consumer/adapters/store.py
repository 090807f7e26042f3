"""From an update to its adapter on this disk, every byte of it as announced."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...schemas import AdapterRefused, VerifiedAdapter
from ...schemas.artifacts import digest_of, verify
from ...schemas.events import AdapterUpdate, ArtifactFile

# What update and manifest both say. The digest vouches for the manifest; an update that says otherwise is a mistake.
_SAID_TWICE = ("name", "version", "base_model", "task", "prompt_digest")


def fetch(update: AdapterUpdate) -> VerifiedAdapter:
    """The adapter that was announced, verified.

    Raises:
        AdapterRefused: it is not here, or not what was announced.
    """
    folder = _local(update.uri)
    if digest_of(update.files) != update.digest:
        raise AdapterRefused("the update contradicts itself: its digest is not that of its files")
    try:
        _stay_inside(folder, update.files)
        adapter = verify(folder)
    except OSError as error:
        raise AdapterRefused(f"{folder} cannot be read: {error}") from error
    if adapter.digest != update.digest:
        raise AdapterRefused(f"{folder} holds another adapter, {adapter.digest}, than was announced, {update.digest}")
    if differing := [name for name in _SAID_TWICE if getattr(update, name) != getattr(adapter.manifest, name)]:
        raise AdapterRefused(f"update and manifest differ in {', '.join(differing)}")
    return adapter


def _local(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise AdapterRefused(f"{uri} cannot be fetched: this version reads file:///… only")
    folder = Path(unquote(parts.path))
    if not folder.is_dir():
        raise AdapterRefused(f"there is no folder {folder} on this machine: is the store mounted here?")
    return folder


def _stay_inside(folder: Path, files: Iterable[ArtifactFile]) -> None:
    """No file is a link to somewhere else, where it could be changed from."""
    root = folder.resolve()
    if outside := [file.path for file in files if not (folder / file.path).resolve().is_relative_to(root)]:
        raise AdapterRefused(f"the adapter's files lead out of its folder: {', '.join(outside)}")
