"""From a sealed adapter to an announced one: into the store, then one event that every worker sees.

The event goes out last, and only if the copy in the store was read back and is the same to the byte.
"""

import asyncio
import json
import re
import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ..schemas import AdapterRefused, AdapterUpdated, Streams, Unavailable, VerifiedAdapter
from ..schemas.artifacts import ADAPTER_FILES, list_files, verify
from ..schemas.events import AdapterUpdate, Gate, LoraShape
from ..schemas.streams import to_fields

SOURCE = "urn:abstream:release"


@dataclass(frozen=True)
class Released:
    """What was announced, and the entry of the adapter stream that says so."""

    event: AdapterUpdated
    entry_id: str


async def release(
    redis: Redis,
    streams: Streams,
    folder: Path,
    store: Path,
    gate: Gate | None = None,
    action: Literal["activate", "shadow", "rollback"] = "activate",
) -> Released:
    """Copy an adapter into the store and announce it; nothing is announced if anything is wrong.

    Args:
        redis: a client that repeats no command by itself.
        streams: of the namespace whose workers are told.
        folder: the sealed adapter.
        store: the folder where every worker finds released adapters; see ``keep``.
        gate: what the adapter had to pass.
        action: what the workers are asked to do with it.

    Raises:
        AdapterRefused: the adapter, or its copy in the store, is not sound, or did not pass its gate.
        Unavailable: the store or Redis is out of reach. Release again: what was announced twice is loaded once.
    """
    if gate and not gate.passed:
        raise AdapterRefused(f"the gate was not passed ({'; '.join(gate.rules)}): the adapter is not released")
    kept = await asyncio.to_thread(lambda: keep(verify(folder), store))
    update = describe(kept, gate, action)
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


def keep(adapter: VerifiedAdapter, store: Path) -> VerifiedAdapter:
    """The adapter as ``store``/NAME/DIGEST, whole or not at all; one that is there already is only verified.

    Raises:
        AdapterRefused: the name is no folder's name, or what is in the store is not this adapter.
        Unavailable: the store cannot be written.
    """
    name = adapter.manifest.name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise AdapterRefused(
            f"an adapter named {name!r} cannot be kept: use A-Z a-z 0-9 . _ -, a letter or digit first"
        )
    target = store.absolute() / name / adapter.digest.removeprefix("sha256:")
    try:
        if not target.exists():
            _copy(adapter, target)
        return _same(adapter, target)
    except OSError as error:
        raise Unavailable(f"the store {store} is out of reach: {error}") from error


def _copy(adapter: VerifiedAdapter, target: Path) -> None:
    beside = target.with_name(f".{target.name}-{uuid4().hex}")
    try:
        for file in list_files(adapter.path):
            (beside / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(adapter.path / file.path, beside / file.path)
        _same(adapter, beside)
        beside.rename(target)
    except OSError:
        if not target.exists():  # or another release of the same adapter was first
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _same(adapter: VerifiedAdapter, copy: Path) -> VerifiedAdapter:
    try:
        found = verify(copy)
    except AdapterRefused as error:
        raise AdapterRefused(f"the copy {copy} is not sound: {error}; delete it and release again") from error
    if found.digest != adapter.digest:
        raise AdapterRefused(f"the copy {copy} is another adapter, {found.digest}: delete it and release again")
    return found


def describe(adapter: VerifiedAdapter, gate: Gate | None, action: str) -> AdapterUpdate:
    """Everything that the event says about an adapter, which stands where the event will point.

    Raises:
        AdapterRefused: its manifest or its ``adapter_config.json`` says what no event may say.
    """
    manifest = adapter.manifest
    try:
        return AdapterUpdate.model_validate(
            {
                "name": manifest.name,
                "version": manifest.version,
                "digest": adapter.digest,
                "uri": adapter.path.as_uri(),
                "files": list_files(adapter.path),
                "base_model": manifest.base_model,
                "task": manifest.task,
                "prompt_digest": manifest.prompt_digest,
                "lora": _lora(adapter.path / ADAPTER_FILES[0]),
                "calibration": manifest.calibration,
                "thresholds": manifest.thresholds,
                "metrics": manifest.metrics,
                "gate": gate,
                "action": action,
            }
        )
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise AdapterRefused(f"the adapter cannot be announced: {where}: {problem['msg']}") from None


def _lora(path: Path) -> LoraShape:
    """The shape of the LoRA as PEFT wrote it; ``target_modules`` is a list of names or one pattern."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        targets = config["target_modules"]
        names = [targets] if isinstance(targets, str) else sorted(targets)
        return LoraShape(r=config["r"], alpha=config["lora_alpha"], target_modules=tuple(names))
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterRefused(f"{path} is no LoRA configuration of PEFT: {error!r}") from error
