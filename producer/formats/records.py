"""The content of a file: records, and the places where it is broken."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...schemas import Abstract, AbstreamError, Malformed

# The largest record that is read: much larger than any abstract, and small enough for memory.
MAX_RECORD_BYTES = 4 << 20

# Names of columns and fields, in lower case: our own, and those of PubMed, ASReview, rispy, Zotero and Scopus.
TITLE_COLUMNS = ("title", "primary_title", "article title")
TEXT_COLUMNS = ("abstract", "notes_abstract", "abstract note", "text")
# ASReview's record_id is only the number of the row, so it comes last.
_ID = ("id", "pmid", "doi", "record_id")
_IDENTIFIERS = {"pmid": ("pmid",), "pmcid": ("pmcid",), "doi": ("doi",)}
_JOURNAL = ("journal", "journal_name", "journal/book", "source title", "publication title", "secondary_title")
_LANGUAGE = ("language",)
_YEAR = ("year", "publication_year", "publication year")
_LISTS = ("publication_types", "mesh")


class MissingLibrary(AbstreamError):
    """A format needs a library that is not installed: install the extra."""

    def __init__(self, what: str, library: str) -> None:
        super().__init__(f"{what} needs {library}, which is not installed: pip install 'abstream[formats]'")


@dataclass(frozen=True, slots=True)
class Record:
    """One abstract of a file.

    Attributes:
        id: its own, or one derived from its text.
        fields: the named fields of the record; empty for formats without names.
        original: of RIS, the text in the file, including everything between this record and the previous one.
        position: in the file, such as ``line 7``.
    """

    id: str
    abstract: Abstract
    fields: dict[str, Any] = field(default_factory=dict)
    original: str = ""
    position: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that cannot be used: its position, and why."""

    position: str
    reason: str

    def __str__(self) -> str:
        return f"{self.position}: {self.reason}"


def from_fields(fields: Mapping[str, Any], position: str, original: str = "") -> Record | Broken:
    """The record with these fields. Names are case-insensitive; unknown ones are kept and ignored."""
    known = {name.strip().lower(): value for name, value in fields.items() if not _is_empty(value)}
    if _first(known, (*TITLE_COLUMNS, *TEXT_COLUMNS)) is None:
        return Broken(position, "has neither title nor abstract: fill a field 'title', 'abstract' or 'text'")
    identifiers = {name: str(value) for name, names in _IDENTIFIERS.items() if (value := _first(known, names))}
    values: dict[str, Any] = {
        "title": _first(known, TITLE_COLUMNS),
        "abstract": _first(known, TEXT_COLUMNS) or "",
        "identifiers": _texts(known.get("identifiers")) | identifiers,
        "journal": _first(known, _JOURNAL),
        "language": _first(known, _LANGUAGE),
        "year": year_in(_first(known, _YEAR)),
        "metadata": _texts(known.get("metadata")),
    }
    values |= {name: known[name] for name in _LISTS if isinstance(known.get(name), list)}
    return from_values(values, position, _first(known, _ID), dict(fields), original)


def from_values(
    values: Mapping[str, Any],
    position: str,
    id: object = None,
    fields: dict[str, Any] | None = None,
    original: str = "",
) -> Record | Broken:
    """The record with these values of an ``Abstract``, which are validated."""
    try:
        abstract = Abstract.parse(values)
    except Malformed as problem:
        return Broken(position, problem.message)
    if not isinstance(id, str | int | float | None):
        return Broken(position, f"the id is a {type(id).__name__}: give text or a number")
    named = str(id).strip() if id is not None else ""
    return Record(named or _id_of_text(abstract), abstract, fields or {}, original, position)


def year_in(written: object) -> int | None:
    """The year in a date such as 2018, ``2018/04//`` or ``1998 Dec-1999 Jan``, if there is one."""
    found = re.search(r"(?<!\d)[12]\d{3}(?!\d)", str(written), re.ASCII)
    return int(found[0]) if found else None


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _first(known: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((known[name] for name in names if name in known), None)


def _texts(value: object) -> dict[str, str]:
    """The text values of a JSON object."""
    return {name: text for name, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}


def _id_of_text(abstract: Abstract) -> str:
    """An id derived from the text. With row numbers as ids, row 3 of two files would be one abstract."""
    text = f"{abstract.title or ''}\n{abstract.abstract}"
    return f"text-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
