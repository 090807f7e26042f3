"""MEDLINE's tagged format, as PubMed and PubMed Central save it: ``.nbib``, or ``.txt``."""

import re
from collections import defaultdict
from collections.abc import Iterator
from io import BufferedReader

from .pubmed import abstract_values
from .records import Broken, Record, from_values
from .tagged import Block, Blocks
from .text import lines

_TAGGED = re.compile(r"([A-Z][A-Z0-9]{1,3}) *-(?: (.*))?")
_IDENTIFIED = re.compile(r"(\S+) \[(doi|pmc)\]")


def read(file: BufferedReader) -> Iterator[Record | Broken]:
    """Yield a record or a ``Broken`` for every record; a blank line or a new PMID separates them."""
    for block in _blocks(file):
        yield _record(block) if isinstance(block, Block) else block


def _blocks(file: BufferedReader) -> Iterator[Block | Broken]:
    blocks, has_pmid = Blocks(), False
    for number, line in enumerate(lines(file), start=1):
        is_pmid = line is not None and line.startswith(b"PMID-")
        ends = (has_pmid and is_pmid) or (line is not None and not line.strip())
        if ends and not blocks.is_empty:
            yield blocks.take()
            has_pmid = False
        if line is None or line.strip():
            blocks.add(line, number)
            has_pmid = has_pmid or is_pmid
    if not blocks.is_empty:
        yield blocks.take()


def _record(block: Block) -> Record | Broken:
    fields: dict[str, list[str]] = defaultdict(list)
    tag = ""
    # Not splitlines, which also splits at line ends of Unicode within a text.
    for offset, line in enumerate(block.text.rstrip("\r\n").split("\n")):
        if line[:1].isspace() and tag:
            fields[tag][-1] = f"{fields[tag][-1]} {line.strip()}".lstrip()
        elif found := _TAGGED.match(line):
            tag = found[1]
            fields[tag].append((found[2] or "").strip())
        else:
            return Broken(block.position, f"its line {offset + 1} has neither a tag nor belongs to the line before it")
    return _from_tags(fields, block.position)


def _from_tags(fields: dict[str, list[str]], position: str) -> Record | Broken:
    found = (_IDENTIFIED.fullmatch(value) for tag in ("LID", "AID") for value in fields[tag])
    identified = {match[2]: match[1] for match in found if match}
    identifiers = {"pmid": _first(fields, "PMID"), "pmcid": _first(fields, "PMC"), "doi": identified.get("doi")}
    values = abstract_values(
        title=_first(fields, "TI") or _first(fields, "BTI"),
        vernacular_title=_first(fields, "TT"),
        abstract=_first(fields, "AB"),
        other_abstracts=[text.partition(": ")[2] for text in fields["OAB"]],
        identifiers=identifiers,
        journal=_first(fields, "JT") or _first(fields, "TA"),
        date=_first(fields, "DP"),
        languages=fields["LA"],
        publication_types=fields["PT"],
        mesh=[heading.lstrip("*").partition("/")[0].rstrip("*") for heading in fields["MH"]],
    )
    return from_values(values, position, identifiers["pmid"] or identifiers["pmcid"] or identifiers["doi"])


def _first(fields: dict[str, list[str]], tag: str) -> str | None:
    return next((value for value in fields[tag] if value), None)
