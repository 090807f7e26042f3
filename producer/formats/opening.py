"""A file as plain bytes: gzip is unpacked and UTF-16 becomes UTF-8; both are recognized by the first bytes."""

import codecs
import gzip
import io
import re
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

STDIN = "-"

_CHUNK_BYTES = 1 << 18
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# PubMed's files compress to a tenth; gzip can compress to a thousandth at most.
_MAX_RATIO, _MAX_RATIO_FROM_BYTES = 200, 64 << 20
_MAX_SPOOLED_BYTES = 1 << 30
_CR_ENDS_FIRST_LINE = re.compile(rb"[^\r\n]*\r(?!\n)")


class Damaged(Exception):
    """The rest of the file cannot be read, because it is not in the format that it claims."""


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The bytes of a file, or of standard input (``-``).

    Raises:
        OSError: the file cannot be read.
    """
    if path == STDIN:
        yield sys.stdin.buffer
    else:
        with Path(path).open("rb") as file:
            yield file


def plain(file: BinaryIO) -> io.BufferedReader:
    """The plain content of ``file``; reading it may raise ``Damaged``."""
    chunks = _chunks(file)
    head = _head(chunks)
    if head.startswith(_GZIP):
        chunks = _unpacked(chain([head], chunks))
        head = _head(chunks)
    if head.startswith(_UTF16):
        return _reader(_as_utf8(chain([head], chunks)))
    return _reader(chain([head.removeprefix(codecs.BOM_UTF8)], chunks))


def with_newlines(file: io.BufferedReader) -> io.BufferedReader:
    """The same with ``\\n`` at the end of every line, if the first line ends with ``\\r`` alone, as on old Macs."""
    return _reader(_with_newlines(_chunks(file))) if _CR_ENDS_FIRST_LINE.match(file.peek()) else file


@contextmanager
def seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    """A copy on disk, of limited size."""
    with tempfile.TemporaryFile() as copy:
        size = 0
        for chunk in _chunks(file):
            size += copy.write(chunk)
            if size > _MAX_SPOOLED_BYTES:
                raise Damaged(f"is larger than {_MAX_SPOOLED_BYTES >> 20} MB: save it as CSV")
        copy.seek(0)
        yield copy


class _Chunks(io.RawIOBase):
    """Chunks of bytes as a raw file; empty chunks are skipped, because they would mean its end."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def _reader(chunks: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Chunks(chunks), _CHUNK_BYTES)


def _head(chunks: Iterator[bytes]) -> bytes:
    """The first chunk, or as many as the marks need: a pipe may return single bytes."""
    head = b""
    while len(head) < len(codecs.BOM_UTF8) and (chunk := next(chunks, b"")):
        head += chunk
    return head


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    # Read from a pipe what is available, so that the first lines are not held back.
    read = getattr(file, "read1", file.read)
    return iter(lambda: read(_CHUNK_BYTES), b"")


def _unpacked(packed: Iterator[bytes]) -> Iterator[bytes]:
    taken = given = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for chunk in packed:
            taken += len(chunk)
            yield chunk

    try:
        with gzip.GzipFile(fileobj=_reader(counted())) as file:
            while chunk := file.read1(_CHUNK_BYTES):
                given += len(chunk)
                if given > _MAX_RATIO_FROM_BYTES and given > _MAX_RATIO * taken:
                    raise Damaged(f"unpacks to more than {_MAX_RATIO} times its size: no file of abstracts does")
                yield chunk
    except (EOFError, OSError, zlib.error) as error:
        raise Damaged(f"cannot be unpacked further ({error}): download it again") from error


def _with_newlines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    decoder = io.IncrementalNewlineDecoder(None, translate=True)  # a chunk may end between CR and LF
    for chunk in chunks:
        yield decoder.decode(chunk.decode("latin-1")).encode("latin-1")
    yield decoder.decode("", final=True).encode("latin-1")


def _as_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-16")()
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise Damaged(f"is not the UTF-16 that it begins as ({error}): save it as UTF-8") from error
