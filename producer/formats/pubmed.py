"""Rules for PubMed records in all of their formats."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .records import year_in

_NO_TITLE = "[Not Available]."
# PubMed's placeholder for an abstract that it may not show.
_NO_ABSTRACT = "Abstract available from the publisher."


def abstract_values(
    *,
    title: str | None,
    vernacular_title: str | None,
    abstract: str | None,
    other_abstracts: Iterable[str],
    identifiers: Mapping[str, str | None],
    journal: str | None,
    date: str | None,
    languages: Sequence[str],
    publication_types: Sequence[str],
    mesh: Sequence[str],
) -> dict[str, Any]:
    """The values of an ``Abstract``.

    If the title is not translated, the vernacular one is used; if there is no abstract, another one is used.
    """
    has_title = bool(title) and title != _NO_TITLE
    abstracts = (text for text in (abstract, *other_abstracts) if text and text != _NO_ABSTRACT)
    return {
        "title": title if has_title else vernacular_title,
        "abstract": next(abstracts, ""),
        "identifiers": identifiers,
        "journal": journal,
        "year": year_in(date),
        "language": ";".join(languages) or None,
        "publication_types": tuple(publication_types),
        "mesh": tuple(mesh),
        "metadata": {"vernacular_title": vernacular_title} if has_title and vernacular_title else {},
    }
