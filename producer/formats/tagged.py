"""Files of tagged lines, as RIS and MEDLINE are: ``TI  - A title``, one field a line."""

from dataclasses import dataclass

from .records import MAX_RECORD_BYTES, Broken
from .text import Decoder


@dataclass(frozen=True, slots=True)
class Block:
    """The lines of one record, with their line ends, and its position."""

    position: str
    text: str


class Blocks:
    """Collects lines until a record is complete. A record that is too large or not text becomes a ``Broken``."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._lines: list[bytes] = []
        self._first = 0  # the number of its first line, from 1
        self._size = 0
        self._too_large = False

    @property
    def is_empty(self) -> bool:
        return not self._lines and not self._too_large

    def add(self, line: bytes | None, number: int) -> None:
        """Add a line; None stands for a line that is too long."""
        if self.is_empty:
            self._first = number
        self._size += len(line or b"")
        if line is None or self._size > MAX_RECORD_BYTES:
            self._too_large, self._lines = True, []
        elif not self._too_large:
            self._lines.append(line)

    def mark(self, number: int) -> None:
        """The record begins with this line; the lines before it precede it."""
        self._first = number

    def take(self) -> Block | Broken:
        """Return the collected lines, and start a new record."""
        position, raw, too_large = f"line {self._first}", b"".join(self._lines), self._too_large
        self._lines, self._size, self._too_large = [], 0, False
        if too_large:
            return Broken(position, f"is longer than {MAX_RECORD_BYTES} bytes")
        try:
            return Block(position, self._decoder.decode(raw))
        except UnicodeDecodeError as error:
            return Broken(position, self._decoder.reason_of(error))
