"""Files of abstracts: a streaming reader and a writer for each format. A broken record does not end the reading."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, get_args

from ...schemas import AbstreamError, Question
from . import csv, jsonl, nbib, pubmed_xml, ris, xlsx
from .opening import STDIN, Damaged, opened, plain
from .records import Broken, MissingLibrary, Record

Format = Literal["auto", "jsonl", "csv", "tsv", "xlsx", "ris", "nbib", "pubmed-xml"]
FORMATS: tuple[Format, ...] = get_args(Format)


class Writer(Protocol):
    """Writes records with their predictions to a file."""

    def write(self, record: Record, prediction: Mapping[str, Any]) -> None:
        """Write one record, now or in ``finish``."""

    def finish(self) -> None:
        """Write what has not been written yet."""


_READERS: dict[str, Callable[[BufferedReader], Iterator[Record | Broken]]] = {
    "jsonl": jsonl.read,
    "csv": csv.read,
    "tsv": csv.read_tsv,
    "xlsx": xlsx.read,
    "ris": ris.read,
    "nbib": nbib.read,
    "pubmed-xml": pubmed_xml.read,
}
_WRITERS: dict[str, Callable[[BinaryIO, Sequence[Question]], Writer]] = {
    "jsonl": jsonl.Writer,
    "csv": csv.Writer,
    "tsv": csv.TsvWriter,
    "ris": ris.Writer,
}
_SUFFIXES = {
    **{".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".xlsx": "xlsx"},
    **{".ris": "ris", ".nbib": "nbib", ".xml": "pubmed-xml"},
}
# The first bytes of each format, tried in this order if the name does not tell the format.
_SIGNS = (
    ("xlsx", re.compile(rb"PK\x03\x04")),
    ("pubmed-xml", re.compile(rb"\s*<")),
    ("jsonl", re.compile(rb"\s*\{")),
    ("ris", re.compile(rb"(?:[^\n]*\n){0,9}?TY  - ")),
    ("nbib", re.compile(rb"\s*(?:PMID|PMC |OWN |STAT)- ")),
)


class UnknownFormat(AbstreamError):
    """Neither the name of the file nor its beginning tells the format."""


def read(path: str, wanted: Format = "auto") -> Iterator[Record | Broken]:
    """Yield every record of a file, or of standard input (``-``); a broken one as ``Broken`` with its position.

    Raises:
        OSError: the file cannot be read.
        UnknownFormat: neither its name nor its beginning tells its format.
        MissingLibrary: the format needs one that is not installed.
    """
    with opened(path) as file:
        yield from read_from(file, path, wanted)


def check(path: str, wanted: Format = "auto") -> None:
    """Raise what ``read`` would raise at its beginning. Pipes and terminals are left alone: they are read only once."""
    if path == STDIN or Path(path).is_fifo() or Path(path).is_char_device():
        return
    with opened(path) as file, suppress(Damaged):  # what is damaged is a broken record
        _kind(plain(file), path, wanted)


def read_from(file: BinaryIO, name: str, wanted: Format = "auto") -> Iterator[Record | Broken]:
    """As ``read``, from an open file, which may be gzipped.

    Args:
        name: may tell the format.
    """
    done = 0
    try:
        content = plain(file)
        for record in _READERS[_kind(content, name, wanted)](content):
            yield record
            done += 1
    except Damaged as damage:
        yield Broken(f"after record {done}" if done else "the file", str(damage))


def writer_of(path: str) -> Callable[[BinaryIO, Sequence[Question]], Writer]:
    """The writer for a file of this name; standard output is JSON lines.

    Raises:
        UnknownFormat: the name tells no format, or one that is only read.
    """
    kind = "jsonl" if path == STDIN else _SUFFIXES.get(Path(path.lower()).suffix)  # output is never compressed
    if kind not in _WRITERS:
        known = ", ".join(suffix for suffix, one in _SUFFIXES.items() if one in _WRITERS)
        raise UnknownFormat(f"{path}: no format can be written for this name; known endings: {known}")
    return _WRITERS[kind]


def format_of(path: str) -> str | None:
    """The format that the name of a file tells, if any."""
    return _SUFFIXES.get(Path(path.lower().removesuffix(".gz")).suffix)


def _kind(content: BufferedReader, name: str, wanted: Format) -> str:
    return wanted if wanted != "auto" else format_of(name) or _format_in(content.peek(), name)


def _format_in(head: bytes, name: str) -> str:
    found = next((kind for kind, sign in _SIGNS if sign.match(head)), None) or csv.kind_of(head)
    if found:
        return found
    if head.lstrip().startswith(b"["):
        raise UnknownFormat(f"{name}: is a JSON list: write one object on each line, as `jq -c '.[]'` does")
    if name == STDIN or not head:
        return "jsonl"
    raise UnknownFormat(
        f"{name}: the format is clear neither from name nor content; give --format, or use a known ending: "
        f"{', '.join(_SUFFIXES)}. Reference managers can export RIS"
    )


__all__ = [
    "FORMATS",
    "Broken",
    "Format",
    "MissingLibrary",
    "Record",
    "UnknownFormat",
    "Writer",
    "check",
    "format_of",
    "read",
    "read_from",
    "writer_of",
]
