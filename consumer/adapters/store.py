"""Where released adapters are stored.

file:///folder               a folder that every worker reaches under the same path
s3://bucket/prefix           the extra ``s3``; credentials and endpoint as any AWS client finds them
hf://owner/name@revision     the Hugging Face hub, the extra ``hf``
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from ...schemas import AdapterRefused, Unavailable

# Options of the clients: short timeouts and no retries of their own, because the cache retries for all of them.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 1}}},
    "hf": {},
}


class Store(Protocol):
    """The files of one released adapter."""

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading; ``path`` has passed ``artifacts.check_paths``.

        Raises:
            AdapterRefused: there is no such file, or it is a link out of the store.
            Unavailable: the store is out of reach. Reading may raise this too.
        """


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Any error of a store's client means that the store is out of reach."""
    try:
        yield
    except (AdapterRefused, Unavailable):
        raise
    except Exception as error:
        raise Unavailable(f"{uri} is out of reach: {type(error).__name__}: {error}") from error


def open_store(uri: str) -> Store:
    """The store that an update names.

    Raises:
        AdapterRefused: this installation cannot read such a store.
        Unavailable: it is out of reach.
    """
    parts = urlsplit(uri)
    if parts.scheme in _OPTIONS:
        return _Remote(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise AdapterRefused(f"{uri} cannot be fetched: file:///…, s3://… and hf://… are read")
    return _Folder(Path(unquote(parts.path)))


class _Folder:
    def __init__(self, folder: Path) -> None:
        if folder.is_symlink():
            raise AdapterRefused(
                f"{folder} is a link, and may lead somewhere else tomorrow: announce the folder itself"
            )
        if not folder.is_dir():
            raise Unavailable(f"there is no folder {folder} on this machine: is the store mounted here?")
        self._folder = folder

    def open(self, path: str) -> BinaryIO:
        file = self._folder / path
        if any(part.is_symlink() for part in (file, *file.parents) if part.is_relative_to(self._folder)):
            raise AdapterRefused(f"{path} is a link out of the adapter's folder")
        try:
            # Without O_NONBLOCK, opening a pipe in the file's place would hang.
            handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise AdapterRefused(f"the store lacks {path}") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise AdapterRefused(f"{path} is no regular file")
        return os.fdopen(handle, "rb")


class _Remote:
    """Through fsspec: s3fs, or the file system of huggingface_hub."""

    def __init__(self, uri: str) -> None:
        scheme = urlsplit(uri).scheme
        try:
            from fsspec.core import url_to_fs

            with reaching(uri):
                self._system, self._root = url_to_fs(
                    uri, skip_instance_cache=True, use_listings_cache=False, **_OPTIONS[scheme]
                )
        except ImportError as error:
            raise AdapterRefused(f"{scheme}:// is read by pip install 'abstream[{scheme}]': {error}") from error

    def open(self, path: str) -> BinaryIO:
        try:
            file: BinaryIO = self._system.open(f"{self._root}/{path}", "rb")
        except FileNotFoundError:
            raise AdapterRefused(f"the store lacks {path}") from None
        return file
