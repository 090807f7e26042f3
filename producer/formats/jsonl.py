"""JSON lines: one object a line, with ``title``, ``text`` or ``abstract``, and usually ``id``."""

import json
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from typing import Any, BinaryIO

from ...schemas import Question
from .records import MAX_RECORD_BYTES, Broken, Record, from_fields
from .text import lines


def read(file: BufferedReader) -> Iterator[Record | Broken]:
    """Yield a record or a ``Broken`` for every line that is not blank."""
    for number, line in enumerate(lines(file), start=1):
        position = f"line {number}"
        if line is None:
            yield Broken(position, f"is longer than {MAX_RECORD_BYTES} bytes")
        elif line.strip():
            yield _record(line, position)


def _record(line: bytes, position: str) -> Record | Broken:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Broken(position, f"is not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return Broken(position, f"is not JSON at character {error.pos + 1}: {error.msg}")
    except ValueError as error:  # a number of thousands of digits
        return Broken(position, f"is not JSON that can be read: {error}")
    except RecursionError:
        return Broken(position, "is not JSON that can be read: it is nested too deeply")
    if not isinstance(fields, dict):
        return Broken(position, "is not a JSON object: write one object on each line")
    if rb"\u" in line and not _is_unicode(fields):
        return Broken(position, "is not Unicode: it holds half a character, such as \\ud800 alone")
    return from_fields(fields, position)


def _is_unicode(value: Any) -> bool:
    """Whether there are no lone surrogates, which JSON can escape and UTF-8 cannot encode."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


class Writer:
    """Writes one JSON object a line: the record's id and its prediction."""

    def __init__(self, file: BinaryIO, questions: Sequence[Question]) -> None:  # noqa: ARG002 - others need them
        self._file = file

    def write(self, record: Record, prediction: Mapping[str, Any]) -> None:
        """Write one line. An id that was a number is written as one, so that it can be joined with the input."""
        own = record.fields.get("id")
        line = {"id": own if type(own) is int else record.id, **prediction}
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def finish(self) -> None:
        """Nothing is left to write."""
