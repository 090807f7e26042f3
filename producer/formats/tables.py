"""Rows with a header, as in CSV, TSV and spreadsheets."""

from collections.abc import Iterator, Sequence
from typing import Any

from .records import TEXT_COLUMNS, TITLE_COLUMNS, Broken, Record, from_fields

Row = tuple[str, Sequence[str] | str]
"""The position of a row, and its cells or what is wrong with it."""


def records(rows: Iterator[Row]) -> Iterator[Record | Broken]:
    """Yield a record or a ``Broken`` for every row after the header."""
    header: list[str] | None = None
    for position, cells in rows:
        if isinstance(cells, str):
            yield Broken(position, cells)
        elif not any(cells):
            continue
        elif header is None:
            header = _distinct(cells)
            if not can_hold_abstracts(header):
                named = ", ".join(filter(None, cells))[:200]
                columns = "no column 'title', 'abstract' or 'text'"
                yield Broken(position, f"the header has {columns}, but {named}: rename its columns so")
                return
        elif any(cells[len(header) :]):
            yield Broken(position, f"has {len(cells)} fields, and the header {len(header)}")
        else:
            yield from_fields(dict(zip(header, cells, strict=False)), position)


def can_hold_abstracts(names: Sequence[str]) -> bool:
    """Whether a table with these columns can contain abstracts."""
    return not {*TITLE_COLUMNS, *TEXT_COLUMNS}.isdisjoint(name.strip().lower() for name in names)


def columns_of(record: Record) -> dict[str, Any]:
    """The record as a row: its id and its original fields, or the fields of its abstract."""
    if record.fields:
        return {"id": record.id} | record.fields
    abstract = record.abstract
    row: dict[str, Any] = {"id": record.id, "title": abstract.title, "abstract": abstract.abstract}
    row |= abstract.identifiers.model_dump()
    row |= abstract.model_dump(include={"journal", "year", "language"})
    row |= {name: "; ".join(getattr(abstract, name)) for name in ("publication_types", "mesh")}
    return row | abstract.metadata


def _distinct(names: Sequence[str]) -> list[str]:
    """The names of the columns, with numbers added to repeated ones, so that no column is lost."""
    counts: dict[str, int] = {}
    distinct = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        distinct.append(name if counts[name] == 1 else f"{name}.{counts[name]}")
    return distinct
