"""RIS, the format of reference managers: records are written as they were read, with the answer added."""

import re
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from typing import Any, BinaryIO

from ...schemas import Question
from .labels import included, note_of
from .records import Broken, MissingLibrary, Record, from_fields
from .tagged import Block, Blocks
from .text import lines

_BEGINNING = b"TY  -"
_END = b"ER  -"
_IRRELEVANT, _RELEVANT = "ASReview_irrelevant", "ASReview_relevant"
_JUDGED = re.compile(f"{_IRRELEVANT}|{_RELEVANT}")
_COLUMNS = {"primary_title": "title", "notes_abstract": "abstract"}
_OWN = re.compile(r"^(?:KW|N1)  - abstream: .*\r?\n", re.MULTILINE)
_FIRST_LINE = re.compile(r"^TY  -.*?(\r?\n|\Z)", re.MULTILINE)


def read(file: BufferedReader) -> Iterator[Record | Broken]:
    """Yield a record or a ``Broken`` for every reference, from its TY line to its ER line.

    Raises:
        MissingLibrary: rispy is not installed.
    """
    try:
        from rispy import RisParser
    except ImportError as error:
        raise MissingLibrary("reading RIS", "rispy") from error
    parser = RisParser()
    for block in _blocks(file):
        if isinstance(block, Broken):
            yield block
        else:
            [reference] = parser.parse(block.text[_beginning(block.text).start() :])
            yield from_fields(_fields(reference), block.position, block.text)


def _blocks(file: BufferedReader) -> Iterator[Block | Broken]:
    blocks, inside = Blocks(), False
    for number, line in enumerate(lines(file), start=1):
        if line is not None and line.startswith(_BEGINNING):
            if inside:
                yield _unended(blocks.take())
            inside = True
            blocks.mark(number)
        blocks.add(line, number)
        if inside and line is not None and line.startswith(_END):
            yield blocks.take()
            inside = False
    rest = None if blocks.is_empty else blocks.take()
    if inside and rest:
        yield _unended(rest)
    elif isinstance(rest, Broken):
        yield rest
    elif rest and rest.text.strip():
        yield Broken(rest.position, "is not RIS: a reference begins with a line 'TY  - '")


def _beginning(text: str) -> re.Match[str]:
    """The first line of a reference, which other lines may precede."""
    first = _FIRST_LINE.search(text)
    assert first, "every block has such a line"
    return first


def _unended(block: Block | Broken) -> Broken:
    return Broken(block.position, "has no line 'ER  - ' at its end: is the file cut off?")


def _fields(reference: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by rispy's names, which are the columns of ASReview; unknown tags keep their own names."""
    named = {_COLUMNS.get(name, name): value for name, value in reference.items() if name != "unknown_tag"}
    named |= {name: reference[name] for name in _COLUMNS.values() if name in reference}  # these take precedence
    # rispy stores a first line without a tag under an empty name.
    named |= {tag: values for tag, values in reference.get("unknown_tag", {}).items() if tag}
    fields = {name: "; ".join(value) if isinstance(value, list) else value for name, value in named.items()}
    if judged := _JUDGED.search(fields.get("notes", "")):
        fields["included"] = int(judged[0] == _RELEVANT)
    return fields


class Writer:
    """Writes references as they were read, plus the label for ASReview and tags for Zotero."""

    def __init__(self, file: BinaryIO, questions: Sequence[Question]) -> None:
        self._file = file
        self._questions = questions

    def write(self, record: Record, prediction: Mapping[str, Any]) -> None:
        """Write one reference; an existing label is kept."""
        original = _OWN.sub("", record.original) or _reference(record)
        first = _beginning(original)
        end = first[1] or "\n"
        said = [f"KW  - abstream: {answer['label']}" for answer in prediction["answers"].values()]
        said += ["KW  - abstream: review"] if prediction["review"]["required"] else []
        said += [f"N1  - abstream: {note_of(prediction)}"]
        if not _JUDGED.search(original):
            # Before all other notes, because ASReview takes the first, which may be ASReview_not_seen.
            said.append(f"N1  - {_RELEVANT if included(prediction, self._questions) else _IRRELEVANT}")
        added = "".join(f"{line}{end}" for line in said)
        rest = original[first.end() :]
        rest += "" if rest.endswith("\n") else end  # another may follow
        self._file.write(f"{original[: first.end()]}{added}{rest}".encode())

    def finish(self) -> None:
        """Nothing is left to write."""


def _reference(record: Record) -> str:
    """A reference for a record from another format."""
    abstract, identifiers = record.abstract, record.abstract.identifiers
    tags: list[tuple[str, object]] = [
        *(("TY", "JOUR"), ("ID", record.id), ("TI", abstract.title), ("AB", abstract.abstract)),
        *(("JO", abstract.journal), ("PY", abstract.year), ("LA", abstract.language), ("DO", identifiers.doi)),
        *(("AN", identifiers.pmid), ("C2", identifiers.pmcid)),
        *(("KW", heading) for heading in abstract.mesh),
    ]
    lines = [f"{tag}  - {' '.join(str(value).split())}" for tag, value in tags if value not in (None, "")]
    return "\n".join([*lines, "ER  - ", "", ""])
