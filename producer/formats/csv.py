"""CSV with a header: ``title`` and ``abstract`` (or ``text``), and usually ``id`` or ``pmid``."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from .records import Broken, Record, from_fields

csv.field_size_limit(4 << 20)


def read(file: BinaryIO) -> Iterator[Record | Broken]:
    """Yield a record or a broken place for every row; a quoted field may span lines."""
    # What is not UTF-8 comes through as surrogates, so that one bad row does not end the file.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.DictReader(text)
    try:
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield Broken(f"line {rows.line_num}", f"is not CSV: {error}")
                continue
            if row is None:
                return
            yield _record(row, f"line {rows.line_num}")
    finally:
        text.detach()  # the file is its opener's to close


def _record(row: dict[Any, Any], position: str) -> Record | Broken:
    if None in row:
        return Broken(position, "has more fields than the header")
    if any("\udc80" <= character <= "\udcff" for value in row.values() for character in value or ""):
        return Broken(position, "is not UTF-8")
    return from_fields(row, position)


class Writer:
    """Writes the columns of the first record, then a label and a confidence for each question."""

    def __init__(self, file: BinaryIO, questions: Sequence[str]) -> None:
        self._file = file
        self._text = io.StringIO(newline="")
        self._answers = [f"abstream_{question}{end}" for question in questions for end in ("", "_confidence")]
        self._csv: csv.DictWriter[str] | None = None

    def write(self, record: Record, prediction: Mapping[str, Any]) -> None:
        """Write one row; a question that was not asked leaves its columns empty."""
        row = {"id": record.id, **record.fields}
        if self._csv is None:
            columns = list(dict.fromkeys([*row, *self._answers, "abstream_review"]))
            self._csv = csv.DictWriter(self._text, columns, restval="", extrasaction="ignore")
            self._csv.writeheader()
        for question, answer in prediction["answers"].items():
            row[f"abstream_{question}"] = answer["label"]
            row[f"abstream_{question}_confidence"] = f"{answer['confidence']:.6f}"
        row["abstream_review"] = str(prediction["review"]["required"]).lower()
        self._csv.writerow(row)
        self._file.write(self._text.getvalue().encode())
        self._text.seek(0)
        self._text.truncate()
