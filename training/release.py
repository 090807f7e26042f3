"""Releases a sealed adapter: copies it into the store, then announces it in one event that every worker sees.

The event is sent last, and only if the copy in the store was read back and is identical.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ..schemas import AdapterRefused, AdapterUpdated, Streams, Unavailable, VerifiedAdapter
from ..schemas.artifacts import ADAPTER_FILES, list_files, verify
from ..schemas.events import AdapterUpdate, Gate
from ..schemas.lora import read_lora
from ..schemas.streams import to_fields
from ..schemas.wording import first
from .signing import sign
from .store import put, put_signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SOURCE = "urn:abstream:release"


@dataclass(frozen=True)
class Released:
    """The event that was announced, and its entry in the adapter stream."""

    event: AdapterUpdated
    entry_id: str


async def release(
    redis: Redis,
    streams: Streams,
    folder: Path,
    store: Path | str,
    gate: Gate | None = None,
    action: Literal["activate", "shadow", "rollback"] = "activate",
    key: "Ed25519PrivateKey | None" = None,
) -> Released:
    """Copy an adapter into the store and announce it; nothing is announced if anything is wrong.

    Args:
        redis: a client that repeats no command by itself.
        streams: those of the namespace in which to announce it.
        folder: the sealed adapter.
        store: the folder where every worker finds released adapters, or ``s3://bucket/prefix``.
        gate: the verdict on the adapter, if there was a gate.
        action: what the workers are asked to do with it.
        key: signs the adapter; the signature is in the event, and beside the adapter as ``DIGEST.sig``.

    Raises:
        AdapterRefused: the adapter, or its copy in the store, is not sound, or did not pass its gate.
        Unavailable: the store or Redis is out of reach. Release again: an adapter announced twice is loaded once.
    """
    if gate and not gate.passed:
        raise AdapterRefused(f"the gate was not passed ({'; '.join(gate.rules)}): the adapter is not released")
    update = await asyncio.to_thread(_prepare, verify(folder), store, gate, action, key)
    event = AdapterUpdated(
        id=str(uuid4()),
        source=SOURCE,
        subject=f"adapter:{update.name}",
        time=datetime.now(timezone.utc),
        data=update,
    )
    try:
        entry_id: Any = await redis.xadd(streams.output("adapters"), dict(to_fields(event).items()))
    except RedisError as error:
        raise Unavailable(f"the adapter is in the store, but Redis did not take the event ({error})") from error
    return Released(event, entry_id.decode())


def _prepare(
    adapter: VerifiedAdapter, store: Path | str, gate: Gate | None, action: str, key: "Ed25519PrivateKey | None"
) -> AdapterUpdate:
    """Put the adapter into the store, signed if there is a key, and return the update to announce."""
    described = describe(adapter, gate, action)  # first, so that nothing goes into the store that cannot be announced
    update = described.model_copy(update={"uri": put(adapter, store)})
    if not key:
        return update
    update = sign(update, key)
    put_signature(update.uri, f"{update.signature}\n".encode())
    return update


def describe(adapter: VerifiedAdapter, gate: Gate | None, action: str) -> AdapterUpdate:
    """The update that announces an adapter at its present path.

    Raises:
        AdapterRefused: its manifest or its ``adapter_config.json`` has a value that no event may have.
    """
    manifest = adapter.manifest
    try:
        return AdapterUpdate.model_validate(
            {
                "name": manifest.name,
                "version": manifest.version,
                "digest": adapter.digest,
                "uri": adapter.path.absolute().as_uri(),
                "files": list_files(adapter.path),
                "base_model": manifest.base_model,
                "task": manifest.task,
                "prompt_digest": manifest.prompt_digest,
                "lora": read_lora(adapter.path / ADAPTER_FILES[0]).shape,
                "calibration": manifest.calibration,
                "thresholds": manifest.thresholds,
                "metrics": manifest.metrics,
                "gate": gate,
                "action": action,
            }
        )
    except ValidationError as error:
        raise AdapterRefused(f"the adapter cannot be announced: {first(error)}") from None
