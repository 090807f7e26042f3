"""What a file holds: records, and the places where it is broken."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...schemas import Abstract, AbstreamError, Malformed

# No record that is read is larger: far above the largest abstract, far below what would hurt.
MAX_RECORD_BYTES = 4 << 20

# Column and field names in use, in lower case: our own, PubMed's exports', ASReview's and rispy's, Zotero's, Scopus'.
TITLE_COLUMNS = ("title", "primary_title", "article title")
TEXT_COLUMNS = ("abstract", "notes_abstract", "abstract note", "text")
# What ASReview calls record_id is but the number of the row, so it comes last.
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
        id: its own, or one made of its text: the same wherever it stands.
        fields: the named fields it came with; none where its format has no names.
        original: RIS as it stands in the file, with all that is between it and the record before.
    """

    id: str
    abstract: Abstract
    fields: dict[str, Any] = field(default_factory=dict)
    original: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that cannot be used: where it stands, and why."""

    position: str
    reason: str

    def __str__(self) -> str:
        return f"{self.position}: {self.reason}"


def from_fields(fields: Mapping[str, Any], position: str, original: str = "") -> Record | Broken:
    """The record in named fields; names are matched without regard to case, unknown ones are kept and ignored."""
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
    """The record of an abstract's own values, which are checked here."""
    try:
        abstract = Abstract.parse(values)
    except Malformed as problem:
        return Broken(position, problem.message)
    if not isinstance(id, str | int | float | None):
        return Broken(position, f"the id is a {type(id).__name__}: give text or a number")
    named = str(id).strip() if id is not None else ""
    return Record(named or _id_of_text(abstract), abstract, fields or {}, original)


def year_in(written: object) -> int | None:
    """The year in a date as it is written: 2018, ``2018/04//``, ``1998 Dec-1999 Jan``; None where there is none."""
    found = re.search(r"(?<!\d)[12]\d{3}(?!\d)", str(written), re.ASCII)
    return int(found[0]) if found else None


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _first(known: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((known[name] for name in names if name in known), None)


def _texts(value: object) -> dict[str, str]:
    """The texts of a JSON object that is of the contract."""
    return {name: text for name, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}


def _id_of_text(abstract: Abstract) -> str:
    """The same for the same text in any file, and no other: under one source two rows 3 would be one abstract."""
    text = f"{abstract.title or ''}\n{abstract.abstract}"
    return f"text-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
