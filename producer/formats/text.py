"""Bytes of text files as text: UTF-8, or Windows-1252, which old exports are in."""

from collections.abc import Iterator
from io import BufferedReader

from .records import MAX_RECORD_BYTES


class Decoder:
    """Decodes a file piece by piece; its first piece that is not ASCII decides in what encoding all of it is."""

    def __init__(self) -> None:
        self._encoding = ""

    def decode(self, raw: bytes) -> str:
        """The text.

        Raises:
            UnicodeDecodeError: it is not in the encoding of the file; say ``reason_of`` it.
        """
        if raw.isascii():
            return raw.decode("ascii")
        self._encoding = self._encoding or ("utf-8" if _is_utf8(raw) else "cp1252")
        return raw.decode(self._encoding)

    def reason_of(self, error: UnicodeDecodeError) -> str:
        """What a broken record is told."""
        name = "UTF-8" if self._encoding == "utf-8" else "UTF-8, nor Windows-1252 as the text before it,"
        return f"is not {name} at byte {error.start}: save the file as UTF-8"


def lines(file: BufferedReader, max_bytes: int = MAX_RECORD_BYTES) -> Iterator[bytes | None]:
    """Every line with its end; None for one that is too long, which is skipped without being held."""
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
