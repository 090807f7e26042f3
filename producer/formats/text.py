"""Decoding of text files: UTF-8, or Windows-1252 in old exports."""

from collections.abc import Iterator
from io import BufferedReader

from .records import MAX_RECORD_BYTES


class Decoder:
    """Decodes a file piece by piece. The first piece that is not ASCII decides the encoding of the whole file."""

    def __init__(self) -> None:
        self._encoding = ""

    def decode(self, raw: bytes) -> str:
        """The text.

        Raises:
            UnicodeDecodeError: it is not in the encoding of the file; see ``reason_of``.
        """
        if raw.isascii():
            return raw.decode("ascii")
        self._encoding = self._encoding or ("utf-8" if _is_utf8(raw) else "cp1252")
        return raw.decode(self._encoding)

    def reason_of(self, error: UnicodeDecodeError) -> str:
        """The reason for a ``Broken``."""
        name = "UTF-8" if self._encoding == "utf-8" else "UTF-8, nor Windows-1252 as the text before it,"
        return f"is not {name} at byte {error.start}: save the file as UTF-8"


def lines(file: BufferedReader, max_bytes: int = MAX_RECORD_BYTES) -> Iterator[bytes | None]:
    """Every line with its line end; None for a line that is too long, which is skipped."""
    while line := file.readline(max_bytes + 1):
        if len(line) <= max_bytes:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(max_bytes)
        yield None


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
