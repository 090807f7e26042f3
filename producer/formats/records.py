"""What a file holds: records, and the places where it is broken."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...schemas import Abstract, Malformed

# Column and field names in use: our own, PubMed's exports', ASReview's.
_TITLE = ("title", "primary_title")
_TEXT = ("abstract", "text", "abstract note")
_ID = ("id", "pmid", "record_id", "doi")
_IDENTIFIERS = ("pmid", "pmcid", "doi")
_ECHOED = ("journal", "language", "year")


@dataclass(frozen=True, slots=True)
class Record:
    """One abstract of a file, with the id it is known by and the fields it came with."""

    id: str
    abstract: Abstract
    fields: dict[str, Any] = field(default_factory=dict)


class Writer(Protocol):
    """Writes records with their predictions in one format."""

    def write(self, record: "Record", prediction: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that cannot be used: where it stands, and why."""

    position: str
    reason: str

    def __str__(self) -> str:
        return f"{self.position}: {self.reason}"


def from_fields(fields: Mapping[str, Any], position: str) -> Record | Broken:
    """The record in named fields; names are matched without regard to case, unknown ones are kept and ignored."""
    known = {name.strip().lower(): value for name, value in fields.items() if value not in (None, "")}
    values: dict[str, Any] = {
        "title": _first(known, _TITLE),
        "abstract": _first(known, _TEXT) or "",
        "identifiers": {name: str(known[name]) for name in _IDENTIFIERS if name in known},
    }
    values |= {name: known[name] for name in _ECHOED if name in known}
    if not any(name in known for name in (*_TITLE, *_TEXT)):
        return Broken(position, f"has no field {' or '.join(map(repr, _TEXT))} nor 'title'")
    try:
        return Record(str(_first(known, _ID) or position), Abstract.parse(values), dict(fields))
    except Malformed as problem:
        return Broken(position, problem.message)


def _first(known: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((known[name] for name in names if name in known), None)
