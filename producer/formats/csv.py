"""CSV and TSV with a header: ``title`` and ``abstract`` (or ``text``), and usually ``id`` or ``pmid``."""

import csv
import io
import json
import re
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from typing import Any, BinaryIO

from ...schemas import Question
from .labels import included, label_column, said_of
from .opening import with_newlines
from .records import Broken, Record
from .tables import Row, can_hold_abstracts, columns_of, records
from .text import Decoder, lines

_MAX_ROW_CHARACTERS = 1 << 20
_MAX_READ_AGAIN_CHARACTERS = 64 << 20
_DELIMITERS = ",\t;|"

csv.field_size_limit(_MAX_ROW_CHARACTERS)


def read(file: BufferedReader) -> Iterator[Record | Broken]:
    """Yield a record or a ``Broken`` for every row; a quoted field may span lines.

    Whether commas, tabs, semicolons or bars separate the fields is told from the header.
    """
    text = _Lines(file)
    return records(_rows(text, _delimiter_of(text.first())))


def read_tsv(file: BufferedReader) -> Iterator[Record | Broken]:
    """As ``read``, with tabs as separators."""
    return records(_rows(_Lines(file), "\t"))


def kind_of(head: bytes) -> str | None:
    """``csv`` or ``tsv`` if the first line of a file is the header of such a table."""
    header = re.split(rb"[\r\n]", head.lstrip(), maxsplit=1)[0].decode("latin-1")
    delimiter = _delimiter_of(header)
    if not can_hold_abstracts(_names(header, delimiter)):
        return None
    return "tsv" if delimiter == "\t" else "csv"


class _Lines:
    """The lines of a file as text. All lines of a row but the first can be put back."""

    def __init__(self, file: BufferedReader) -> None:
        self._lines = self._decoded(file)
        self._again: deque[str | None] = deque()
        self._budget = _MAX_READ_AGAIN_CHARACTERS
        self._row: list[str | None] = []
        self._size = 0  # of the row, in characters
        self.number = 0  # of the last line that was taken
        self.at_end = False

    def first(self) -> str:
        """The first line, which is still to be taken."""
        self._again.extend([next(self._lines, "")])
        return self._again[0] or ""

    def begin_row(self) -> None:
        self._row, self._size, self.at_end = [], 0, False

    def take_back(self) -> None:
        """Put lines back, so that a stray quote does not swallow the following rows; up to a budget for the file."""
        self._budget -= self._size
        if self._budget > 0:
            self._again.extendleft(reversed(self._row[1:]))
            self.number -= len(self._row[1:])

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = self._again.popleft() if self._again else next(self._lines)
        except StopIteration:
            self.at_end = True
            raise
        self._row.append(line)
        self.number += 1
        self._size += len(line or "")
        if line is None:
            raise csv.Error(f"a line is longer than {_MAX_ROW_CHARACTERS} bytes")
        if self._size > _MAX_ROW_CHARACTERS:
            raise csv.Error(f"goes on for more than {_MAX_ROW_CHARACTERS} characters: a quote is not closed")
        return line

    @staticmethod
    def _decoded(file: BufferedReader) -> Iterator[str | None]:
        """Invalid bytes become surrogates, so that one bad row does not end the file."""
        decoder = Decoder()
        for line in lines(with_newlines(file), _MAX_ROW_CHARACTERS):
            try:
                yield decoder.decode(line) if line is not None else None
            except UnicodeDecodeError as error:
                yield error.object.decode("utf-8", "surrogateescape")


def _rows(text: _Lines, delimiter: str) -> Iterator[Row]:
    rows = csv.reader(text, delimiter=delimiter)
    while True:
        text.begin_row()
        position = f"line {text.number + 1}"
        try:
            cells = next(rows, None)
        except csv.Error as error:
            yield position, f"is not CSV: {error}"
            text.take_back()
            continue
        if cells is None:
            return
        if text.at_end:  # a complete row never reads to the end of the file
            yield position, "is not CSV: a quote is not closed"
            text.take_back()
        elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            yield position, "is neither UTF-8 nor, as the text before it, Windows-1252: save the file as UTF-8"
        else:
            yield position, cells


def _delimiter_of(header: str) -> str:
    """The separator that splits the header into columns for abstracts, and into the most columns."""

    def columns(delimiter: str) -> tuple[bool, int]:
        names = _names(header, delimiter)
        return can_hold_abstracts(names), len(names)

    return max(_DELIMITERS, key=columns)


def _names(header: str, delimiter: str) -> list[str]:
    return [name.strip().strip('"') for name in header.split(delimiter)]


class Writer:
    """Writes the original columns of the records and the answers; at the end, when all columns are known."""

    def __init__(self, file: BinaryIO, questions: Sequence[Question], delimiter: str = ",") -> None:
        self._file = file
        self._questions = questions
        self._delimiter = delimiter
        self._columns: dict[str, None] = {}
        self._rows = tempfile.TemporaryFile("w+", encoding="utf-8", newline="")  # noqa: SIM115 - closed by finish

    def write(self, record: Record, prediction: Mapping[str, Any]) -> None:
        """Store one row; the columns of questions that were not asked stay empty."""
        row = {_cell(name): _cell(value) for name, value in columns_of(record).items()}
        column = label_column(row)
        if row.get(column) in (None, ""):  # an existing label is kept
            row[column] = included(prediction, self._questions)
        self._columns |= dict.fromkeys(row)
        self._rows.write(json.dumps(row | said_of(prediction)) + "\n")

    def finish(self) -> None:
        """Write the header and all rows."""
        answered = [f"abstream_{question.name}{end}" for question in self._questions for end in ("", "_confidence")]
        names = list(dict.fromkeys([*self._columns, *answered, "abstream_review"]))
        text = io.TextIOWrapper(self._file, encoding="utf-8", errors="replace", newline="")
        writer = csv.DictWriter(text, names, restval="", delimiter=self._delimiter)
        writer.writeheader()
        with self._rows as rows:
            rows.seek(0)
            writer.writerows(map(json.loads, rows))
        text.detach()  # the caller closes the file


class TsvWriter(Writer):
    """The same with tabs as separators."""

    def __init__(self, file: BinaryIO, questions: Sequence[Question]) -> None:
        super().__init__(file, questions, "\t")


def _cell(value: Any) -> Any:
    """What is written for a value: JSON for a list or object, and U+FFFD for NUL, which Python 3.10 cannot write."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
