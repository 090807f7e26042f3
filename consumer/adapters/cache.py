"""Private copies of announced adapters on this disk, verified byte for byte.

A copy is written beside its final place and renamed when it is complete, so that what a crash or a broken connection
leaves behind is never taken for an adapter. It is verified after copying and again whenever it is used, and the store
is not needed any more. The last few copies are kept, so that a rollback needs no store.
"""

import hashlib
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import structlog

from ...schemas import AdapterRefused, Unavailable, VerifiedAdapter
from ...schemas.artifacts import ADAPTER_FILES, check_paths, digest_of, verify
from ...schemas.events import AdapterUpdate, ArtifactFile
from ...schemas.lora import read_lora
from ..config import WorkerConfig
from .signatures import TrustedKeys, check_signature, read_public_keys
from .store import Store, open_store, reaching

KEPT = 8  # adapters, those that were used last
PAUSES_SECONDS = (0.5, 2.0)  # before each retry
ABANDONED_SECONDS = 86_400  # an incomplete copy of this age belongs to no running process
_READ_BYTES = 1 << 20
_COPY = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}-[0-9a-f]+")  # complete, or incomplete

# Stated in both update and manifest. The digest covers the manifest; an update that differs from it is a mistake.
_SAID_TWICE = ("name", "version", "base_model", "task", "prompt_digest", "calibration", "thresholds", "metrics")

log = structlog.get_logger()


class Cache:
    """Owns the folder of private copies; several workers may share it."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        max_bytes: int,
        trusted: TrustedKeys | None = None,
        pauses_seconds: Sequence[float] = (),
    ) -> None:
        """
        Args:
            folder: for the copies; None for a temporary one that is deleted with this process.
            max_bytes: of one adapter.
            trusted: keys of which one must have signed; signatures are not required if None or empty.
            pauses_seconds: before each retry to reach a store.
        """
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="abstream-adapters-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = folder.absolute()
        self.max_bytes = max_bytes
        self.trusted = trusted or {}
        self.pauses_seconds = pauses_seconds

    @classmethod
    def of(cls, config: WorkerConfig) -> "Cache":
        """The cache of a worker.

        Raises:
            AdapterRefused: a public key cannot be read.
        """
        trusted = read_public_keys(config.adapter_public_key)
        return cls(
            config.adapter_cache,
            max_bytes=config.max_adapter_bytes,
            trusted=trusted,
            pauses_seconds=PAUSES_SECONDS,
        )

    def fetch(self, update: AdapterUpdate) -> VerifiedAdapter:
        """The announced adapter, verified; from the local copy if there is one.

        Raises:
            AdapterRefused: it is not what was announced, or may not be served.
            Unavailable: the store is out of reach, or this disk cannot be written.
        """
        self._check(update)
        try:
            adapter = self._kept(update) or self._copy(update)
        except OSError as error:
            raise Unavailable(f"the folder of local copies, {self.folder}, cannot be used: {error}") from error
        if differing := [name for name in _SAID_TWICE if getattr(update, name) != getattr(adapter.manifest, name)]:
            raise AdapterRefused(f"update and manifest differ in {', '.join(differing)}")
        if (shape := read_lora(adapter.path / ADAPTER_FILES[0]).shape) != update.lora:
            raise AdapterRefused(f"the update announces {update.lora!r}, the adapter's configuration says {shape!r}")
        return adapter

    def _check(self, update: AdapterUpdate) -> None:
        """Check everything that is known before any file is read."""
        check_signature(update, self.trusted)
        check_paths(update.files)
        if digest_of(update.files) != update.digest:
            raise AdapterRefused("the update contradicts itself: its digest is not that of its files")
        if (size := sum(file.size for file in update.files)) > self.max_bytes:
            raise AdapterRefused(f"the adapter is of {size} bytes: {self.max_bytes} at most (--max-adapter-bytes)")

    def _kept(self, update: AdapterUpdate) -> VerifiedAdapter | None:
        place = self._place(update)
        if not place.is_dir():
            return None
        try:
            adapter = _verified(place, update)
        except AdapterRefused as error:
            log.warning("adapter_copy_damaged", folder=str(place), reason=str(error))
            shutil.rmtree(place)
            return None
        with suppress(OSError):  # a disk that is read-only: nothing is deleted there either
            os.utime(place)
        return adapter

    def _copy(self, update: AdapterUpdate) -> VerifiedAdapter:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._delete_old()
        place = self._place(update)
        beside = self.folder / f".{place.name}-{uuid4().hex}"
        try:
            self._download(update, beside)
            adapter = _verified(beside, update)
            beside.rename(place)
            return adapter.model_copy(update={"path": place})
        except OSError:
            if place.is_dir():  # another worker was first
                return _verified(place, update)
            raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _download(self, update: AdapterUpdate, folder: Path) -> None:
        """Download all files, and retry if the store is out of reach; files that are not as announced are an error."""
        for pause_seconds in (*self.pauses_seconds, None):
            try:
                store = open_store(update.uri)
                for file in update.files:
                    _download(store, file, folder, update.uri)
            except Unavailable:
                if pause_seconds is None:
                    raise
                time.sleep(pause_seconds)
            else:
                return

    def _delete_old(self) -> None:
        """Delete abandoned incomplete copies, and all complete ones except those that were used last.

        Other files in the folder are never touched: it may be a home directory, or the store itself.
        """
        own = [path for path in self.folder.iterdir() if _COPY.fullmatch(path.name)]
        found = sorted(own, key=lambda path: path.stat().st_mtime, reverse=True)
        abandoned = time.time() - ABANDONED_SECONDS
        begun = [path for path in found if path.name.startswith(".")]
        whole = [path for path in found if not path.name.startswith(".")]
        for path in [path for path in begun if path.stat().st_mtime < abandoned] + whole[KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)

    def _place(self, update: AdapterUpdate) -> Path:
        return self.folder / update.digest.removeprefix("sha256:")


def _verified(folder: Path, update: AdapterUpdate) -> VerifiedAdapter:
    adapter = verify(folder)
    if adapter.digest != update.digest:
        raise AdapterRefused(f"{folder} holds another adapter, {adapter.digest}, than was announced, {update.digest}")
    return adapter


def _download(store: Store, file: ArtifactFile, folder: Path, uri: str) -> None:
    """Copy one file.

    Raises:
        AdapterRefused: its size or its bytes are not as announced.
        Unavailable: the store is out of reach.
    """
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with reaching(uri):
        source = store.open(file.path)
    with source, target.open("wb") as copy:
        size, digest = _copy_bytes(source, copy, file, uri)
        copy.flush()
        os.fsync(copy.fileno())
    if size < file.size:
        raise AdapterRefused(f"{file.path} was cut off: {size} bytes of {file.size} are in the store")
    if digest != file.sha256:
        raise AdapterRefused(f"{file.path} is not what was announced: its bytes are others, sha256 {digest}")


def _copy_bytes(source: BinaryIO, copy: BinaryIO, file: ArtifactFile, uri: str) -> tuple[int, str]:
    """Size and sha256 of what was copied. At most one byte more than announced is read, to detect a longer file."""
    size, digest = 0, hashlib.sha256()
    while True:
        with reaching(uri):
            chunk = source.read(min(_READ_BYTES, file.size - size + 1))
        if not chunk:
            return size, digest.hexdigest()
        size += len(chunk)
        if size > file.size:
            raise AdapterRefused(f"{file.path} is longer than the {file.size} bytes that were announced")
        digest.update(chunk)
        copy.write(chunk)
