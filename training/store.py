"""The store of released adapters: ``store``/NAME/DIGEST in a folder or on S3. Every copy is read back and checked."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from ..schemas import AdapterRefused, Unavailable, VerifiedAdapter
from ..schemas.artifacts import list_files, verify
from .config import ADAPTER_NAME

# So that an S3 that cannot be reached fails within seconds.
_S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 3}}}


def put(adapter: VerifiedAdapter, store: str | Path) -> str:
    """Put the adapter into the store, and return the address at which every worker finds it.

    Args:
        adapter: the adapter to release.
        store: a folder, or ``s3://bucket/prefix``.

    Raises:
        AdapterRefused: its name cannot be that of a folder, or what is in the store is not this adapter.
        Unavailable: the store cannot be written.
    """
    if "://" not in str(store):
        return keep(adapter, Path(store)).path.as_uri()
    if not str(store).startswith("s3://"):
        raise AdapterRefused(f"{store} is no store to release into: give a folder or s3://bucket/prefix")
    return _upload(adapter, f"{str(store).rstrip('/')}/{_place(adapter)}")


def put_signature(uri: str, signature: bytes) -> None:
    """Write a detached signature beside a released adapter, at its address with ``.sig`` appended.

    Raises:
        Unavailable: the store cannot be written.
    """
    from fsspec.core import url_to_fs

    def write() -> None:
        system, path = url_to_fs(f"{uri}.sig", skip_instance_cache=True, **(_S3 if uri.startswith("s3://") else {}))
        system.pipe_file(path, signature)

    _reaching(uri, write)


def keep(adapter: VerifiedAdapter, store: Path) -> VerifiedAdapter:
    """Copy the adapter to ``store``/NAME/DIGEST, completely or not at all; an existing copy is only verified.

    Raises:
        AdapterRefused: its name cannot be that of a folder, or what is in the store is not this adapter.
        Unavailable: the store cannot be written.
    """
    target = store.absolute() / _place(adapter)
    try:
        if not target.exists():
            _copy(adapter, target)
        return _same(adapter, target)
    except OSError as error:
        raise Unavailable(f"the store {store} is out of reach: {error}") from error


def _place(adapter: VerifiedAdapter) -> str:
    name = adapter.manifest.name
    if not re.fullmatch(ADAPTER_NAME, name):
        raise AdapterRefused(
            f"an adapter named {name!r} cannot be kept: use A-Z a-z 0-9 . _ -, a letter or digit first"
        )
    return f"{name}/{adapter.digest.removeprefix('sha256:')}"


def _copy(adapter: VerifiedAdapter, target: Path) -> None:
    beside = target.with_name(f".{target.name}-{uuid4().hex}")
    try:
        for file in list_files(adapter.path):
            (beside / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(adapter.path / file.path, beside / file.path)
        _same(adapter, beside)
        beside.rename(target)
    except OSError:
        if not target.exists():  # otherwise another release of the same adapter was first
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


def _upload(adapter: VerifiedAdapter, uri: str) -> str:
    """Upload every file and read it back. No worker looks before the event, so a partial upload does no harm."""
    try:
        from fsspec.core import url_to_fs

        system, root = url_to_fs(uri, skip_instance_cache=True, use_listings_cache=False, **_S3)
    except ImportError as error:
        raise AdapterRefused(f"s3:// is written by pip install 'abstream[s3]': {error}") from error

    def upload() -> None:
        for file in list_files(adapter.path):
            system.put_file(str(adapter.path / file.path), f"{root}/{file.path}")
            with system.open(f"{root}/{file.path}", "rb") as copy:
                digest = hashlib.sha256()
                while chunk := copy.read(1 << 20):
                    digest.update(chunk)
            if digest.hexdigest() != file.sha256:
                raise AdapterRefused(f"the copy {uri}/{file.path} is not what was uploaded: release again")

    _reaching(uri, upload)
    return uri


def _reaching(uri: str, work: Callable[[], None]) -> None:
    """Report any error of a store's client as the store being out of reach."""
    try:
        work()
    except AdapterRefused:
        raise
    except Exception as error:
        raise Unavailable(f"{uri} is out of reach: {type(error).__name__}: {error}") from error
