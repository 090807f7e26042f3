"""Files of abstracts: one reader and one writer for each format, streamed, a broken record never ending the rest."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from ...schemas import AbstreamError
from . import csv, jsonl
from .records import Broken, Record, Writer

Format = Literal["auto", "jsonl", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)
STDIN = "-"

_READERS = {"jsonl": jsonl.read, "csv": csv.read}
WRITERS: dict[str, Callable[[BinaryIO, Sequence[str]], Writer]] = {"jsonl": jsonl.Writer, "csv": csv.Writer}
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


class UnknownFormat(AbstreamError):
    """The file's name does not say what it holds."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path}: the name does not tell the format; known endings: {', '.join(_SUFFIXES)}")


def format_of(path: str, wanted: Format = "auto") -> str:
    """The format to read or write ``path`` in; standard input is JSON lines unless said otherwise.

    Raises:
        UnknownFormat: the name does not tell.
    """
    if wanted != "auto":
        return wanted
    if path == STDIN:
        return "jsonl"
    try:
        return _SUFFIXES[Path(path).suffix.lower()]
    except KeyError:
        raise UnknownFormat(path) from None


def read(path: str, wanted: Format = "auto") -> Iterator[Record | Broken]:
    """Yield every record of a file, or of standard input (``-``); a broken one as ``Broken`` with its position.

    Raises:
        OSError: the file cannot be read.
        UnknownFormat: the name does not tell its format.
    """
    reader = _READERS[format_of(path, wanted)]
    with _open(path) as file:
        yield from reader(file)


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    if path == STDIN:
        yield sys.stdin.buffer
    else:
        with Path(path).open("rb") as file:
            yield file


__all__ = ["FORMATS", "WRITERS", "Broken", "Format", "Record", "UnknownFormat", "format_of", "read"]
