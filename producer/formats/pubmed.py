"""What is true of a PubMed record in any of its formats."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .records import year_in

_NO_TITLE = "[Not Available]."
# Stands in the place of an abstract where PubMed may not show it.
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

    A title that is not translated gives way to the vernacular one; another abstract counts where there is none.
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
