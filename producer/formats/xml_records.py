"""Splits PubMed XML into records without parsing it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader

from .records import Broken

# The longest records list thousands of authors and have a few megabytes.
MAX_XML_BYTES = 16 << 20
_MAX_TAGS = 500_000  # an element takes about a hundred bytes of memory
_CHUNK_BYTES = 1 << 18
_BEGINNING = re.compile(rb"<(?:(PubmedArticle|PubmedBookArticle)(?=[\s>/])|!--)")
_SET = re.compile(rb"<((?:PubmedArticle|PubmedBookArticle)Set)[\s>]")
_RECORDS = (b"<PubmedArticle", b"<PubmedBookArticle")
_TOO_LARGE = f"is larger than {MAX_XML_BYTES} bytes or {_MAX_TAGS} tags, which no record of PubMed is"
_LONGEST_SIGN = len(b"</PubmedBookArticleSet>")
_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass(frozen=True, slots=True)
class RawRecord:
    """The bytes of one record, and its position."""

    position: str
    line: int
    body: bytes
    encoding: str


def raw_records(file: BufferedReader) -> Iterator[RawRecord | Broken]:
    """Yield the bytes of every record; a record without an end, or too large, becomes a ``Broken``."""
    cutter = _Cutter(file)
    while cutter.find_beginning():
        yield cutter.take()
    if missing := cutter.missing():
        yield missing


class _Cutter:
    """A window on the unread part of the file, and the line in which it begins."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._window = bytearray()
        self._line = 1
        self._number = 0
        self._set = b""  # the element around all records
        self._is_whole = False
        self._end = b""  # of the record at the beginning of the window
        self._more()
        declared = _ENCODING.match(self._window)
        encoding = declared[1].decode().lower() if declared else "utf-8"
        self._encoding = "utf-8" if encoding.startswith("utf") else encoding  # UTF-16 came here as UTF-8

    def find_beginning(self) -> bool:
        """Move to the next record; False at the end of the file."""
        while True:
            found = _BEGINNING.search(self._window)
            if found and found[1]:
                self._number += 1
                self._end = b"</" + bytes(found[1]) + b">"  # before the window moves, which invalidates the match
                self._pass(found.start())
                return True
            if found:
                self._pass(found.end())
                self._pass_comment()
                continue
            if len(self._window) > _LONGEST_SIGN:
                self._pass(len(self._window) - _LONGEST_SIGN)
            if not self._more():
                self._pass(len(self._window))
                return False

    def take(self) -> RawRecord | Broken:
        """The record that begins here."""
        position, line = f"record {self._number}, line {self._line}", self._line
        length = self._length()
        if another := self._another(length or len(self._window)):
            self._drop(another)
            return Broken(position, f"has no {self._end.decode()} before the next record: that is read all the same")
        if not length:
            is_too_long = len(self._window) > MAX_XML_BYTES
            self._is_whole = self._is_whole or not is_too_long  # do not report twice that the file is cut off
            self._drop(len(self._window))
            return Broken(position, _TOO_LARGE if is_too_long else "the file is cut off in it: download it again")
        body = bytes(self._window[:length])
        self._drop(length)
        if length > MAX_XML_BYTES or body.count(b"<") > _MAX_TAGS:
            return Broken(position, _TOO_LARGE)
        return RawRecord(position, line, body, self._encoding)

    def missing(self) -> Broken | None:
        """An error if the file has no proper end, or no records."""
        if self._set and not self._is_whole:
            return Broken(
                f"after record {self._number}", f"the file ends without </{self._set.decode()}>: download it again"
            )
        if not self._set and not self._number:
            return Broken("the file", "holds no PubmedArticle: it is not PubMed's XML")
        return None

    def _length(self) -> int:
        """The length of the record, including its end; 0 if its end is not within the limit."""
        looked_at = 0
        while (at := self._window.find(self._end, looked_at)) < 0:
            looked_at = max(0, len(self._window) - len(self._end))
            if len(self._window) > MAX_XML_BYTES or not self._more():
                return 0
        return at + len(self._end)

    def _another(self, length: int) -> int:
        """Where another record begins within ``length``; 0 if none does."""
        found = [at for sign in _RECORDS if (at := self._window.find(sign, 1, length)) > 0]
        return min(found, default=0)

    def _pass_comment(self) -> None:
        while (at := self._window.find(b"-->")) < 0:
            self._drop(max(0, len(self._window) - 2))
            if not self._more():
                return
        self._drop(at + 3)

    def _pass(self, length: int) -> None:
        """Drop what is between records, after looking for the tags of the enclosing set."""
        between = self._window[: length + _LONGEST_SIGN]  # a tag may begin in it and end later
        if not self._set and (found := _SET.search(between)):
            self._set = bytes(found[1])
        if self._set and b"</" + self._set + b">" in between:
            self._is_whole = True
        self._drop(length)

    def _drop(self, length: int) -> None:
        self._line += self._window.count(b"\n", 0, length)
        del self._window[:length]

    def _more(self) -> bool:
        chunk = self._file.read1(_CHUNK_BYTES)
        self._window += chunk
        return bool(chunk)
