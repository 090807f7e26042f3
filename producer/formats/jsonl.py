"""JSON lines: one object a line, with ``title``, ``text`` or ``abstract``, and usually ``id``."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from .records import Broken, Record, from_fields

# The longest line that is read: far above the largest abstract, far below what would hurt.
MAX_LINE_BYTES = 4 << 20


def read(file: BinaryIO) -> Iterator[Record | Broken]:
    """Yield a record or a broken place for every line that is not blank."""
    for number, line in enumerate(_lines(file), start=1):
        position = f"line {number}"
        if line is None:
            yield Broken(position, f"is longer than {MAX_LINE_BYTES} bytes")
        elif line.strip():
            yield _record(line, position)


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Every line; None for one that is too long, which is skipped without being held."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
        yield None


def _record(line: bytes, position: str) -> Record | Broken:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Broken(position, f"is not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return Broken(position, f"is not JSON at character {error.pos + 1}: {error.msg}")
    except RecursionError:
        return Broken(position, "is not JSON that can be read: it is nested too deeply")
    if not isinstance(fields, dict):
        return Broken(position, f"is a JSON {type(fields).__name__}, not an object")
    return from_fields(fields, position)


class Writer:
    """Writes one JSON object a line: the record's id and its prediction."""

    def __init__(self, file: BinaryIO, questions: Sequence[str]) -> None:  # noqa: ARG002 - CSV must know its columns
        self._file = file

    def write(self, record: Record, prediction: Mapping[str, Any]) -> None:
        """Write one line."""
        line = {"id": record.id, **prediction}
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
