"""Finds an adapter by whatever name a person gives it."""

from importlib.resources import files
from pathlib import Path

from ..consumer.adapters.cache import Cache
from ..consumer.adapters.history import find
from ..consumer.config import MAX_ADAPTER_BYTES
from ..schemas import AdapterRefused, Shards, VerifiedAdapter
from ..schemas.artifacts import verify
from .fleet import known
from .settings import SHIPPED_ADAPTERS, adapter_cache


def choose(url: str, shards: Shards, wanted: str) -> VerifiedAdapter | None:
    """An adapter by its folder, its digest or the beginning of one, its version, or ``live``; None for ``none``.

    Those that come with abstract are known by their digest too.

    Raises:
        AdapterRefused: there is none of that name, or it is not what was announced.
        Unavailable: its store is out of reach, and there is no local copy.
    """
    if wanted == "none":
        return None
    if Path(wanted).is_dir():
        return verify(Path(wanted))
    if shipped := _shipped(wanted):
        return shipped
    found = known(url, shards)
    announced = found.live if wanted == "live" else find(found.history, wanted)
    if announced is None:
        raise AdapterRefused("no adapter is live: none has been announced yet")
    return Cache(adapter_cache(), max_bytes=MAX_ADAPTER_BYTES).fetch(announced.update)


def _shipped(digest: str) -> VerifiedAdapter | None:
    if not digest.startswith("sha256:"):
        return None
    folders = (Path(str(files("abstream.ops.models") / name)) for name in SHIPPED_ADAPTERS.values())
    return next((adapter for adapter in map(verify, folders) if adapter.digest == digest), None)
