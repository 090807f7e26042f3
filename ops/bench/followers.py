"""The load on a gateway: raw sockets, so that a thousand who follow cost less than the gateway that they measure.

Nothing of an event is parsed but its id, and that once where many are sent the same. What a follower was sent is
remembered as a count and a digest of the ids in their order, which are compared with those of the stream in Redis
afterwards.
"""

import asyncio
import hashlib
import re
import time
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ...producer.gateway.tail import BEGIN_PACKED
from ...schemas import AbstreamError

_ID = re.compile(rb"\nid: (\d+-\d+)\n")
_BUFFER_BYTES = 1 << 18
_CONNECTIONS_AT_A_TIME = 100


def digest_of(ids: Iterable[bytes]) -> bytes:
    """The digest of ids in their order."""
    digest = hashlib.blake2s()
    for entry_id in ids:
        digest.update(entry_id + b",")
    return digest.digest()


def _endpoint(address: SplitResult) -> tuple[str, int]:
    return address.hostname or "", address.port or 80


class Follower(asyncio.BufferedProtocol):
    """One client of the stream of predictions, which may be cut off and resume.

    Attributes:
        count: predictions that came whole.
        resumed: how often it was cut off and went on.
        delays: milliseconds from a prediction's entry in Redis until it is here, where they are looked at.
    """

    _received = bytearray(_BUFFER_BYTES)  # one for all: it is read before anybody else is given it

    def __init__(self, address: str, *, packed: bool, timed: bool) -> None:
        self._address = urlsplit(address)
        self._encoding = b"gzip" if packed else b"identity"
        self._timed = timed
        self._rest = b""
        self._last = b"0-0"  # from the beginning on
        self._digest = hashlib.blake2s()
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[bytes] | None = None
        self.count = 0
        self.resumed = 0
        self.delays: list[float] = []

    async def follow(self) -> None:
        """Connect, after the last event that came, and return when the answer begins."""
        self._rest = b""
        self._answered = asyncio.get_running_loop().create_future()
        await asyncio.get_running_loop().create_connection(lambda: self, *_endpoint(self._address))
        if not (await self._answered).startswith(b"HTTP/1.1 200 "):
            raise AbstreamError("the gateway lets nobody follow: look at its log")

    async def cut(self) -> None:
        """Break the connection wherever it stands, and resume after the last complete event."""
        if self._transport:
            self._transport.abort()
        await asyncio.sleep(0)
        await self.follow()
        self.resumed += 1

    def leave(self) -> None:
        """Go for good."""
        if self._transport:
            self._transport.abort()

    @property
    def digest(self) -> bytes:
        """The digest of all ids received, in order."""
        return self._digest.digest()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        head = b"GET /v1/predictions/stream HTTP/1.1\r\nHost: %s\r\nAccept-Encoding: %s\r\nLast-Event-ID: %s\r\n\r\n"
        transport.write(head % (self._address.netloc.encode(), self._encoding, self._last))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return memoryview(self._received)

    def buffer_updated(self, nbytes: int) -> None:
        data = self._rest + self._received[:nbytes]
        if self._answered and not self._answered.done():
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = head
                return
            self._answered.set_result(head)
        begin = 0
        while (end := data.find(b"\r\n", begin)) > 0:  # of the line before a chunk, which says how long it is
            after = end + 2 + int(data[begin:end], 16)
            if len(data) < after + 2:
                break
            self._came(data[end + 2 : after])
            begin = after + 2
        self._rest = data[begin:]

    def _came(self, chunk: bytes) -> None:
        ids = _ids_of(chunk, self._encoding == b"gzip")
        if not ids:
            return
        self._last = ids[-1]
        self.count += len(ids)
        self._digest.update(b",".join(ids) + b",")
        if self._timed:
            now = 1_000 * time.time()
            self.delays += [now - int(entry_id.partition(b"-")[0]) for entry_id in ids]


@lru_cache(maxsize=256)
def _ids_of(chunk: bytes, packed: bool) -> list[bytes]:
    """The ids of the events that a chunk of an answer holds; the gateway sends them whole."""
    plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(chunk.removeprefix(BEGIN_PACKED)) if packed else chunk
    return _ID.findall(b"\n" + plain)


async def connect_all(followers: list[Follower]) -> None:
    """Connect all followers, some at a time, as on a real network."""
    for begin in range(0, len(followers), _CONNECTIONS_AT_A_TIME):
        await asyncio.gather(*(one.follow() for one in followers[begin : begin + _CONNECTIONS_AT_A_TIME]))


class Submitter:
    """One client that submits, over a connection that it keeps.

    Attributes:
        taken: abstracts that were.
        waits: milliseconds from when each was due until it was taken.
    """

    def __init__(self, address: str) -> None:
        self._address = urlsplit(address)
        self.taken = 0
        self.waits: list[float] = []

    async def submit(self, bodies: Iterable[tuple[float, bytes]]) -> None:
        """Send each body when it is due, or as soon as the one before it is answered."""
        reader, writer = await asyncio.open_connection(*_endpoint(self._address))
        head = f"POST /v1/abstracts HTTP/1.1\r\nHost: {self._address.netloc}\r\nContent-Type: application/json\r\n"
        for due, body in bodies:
            await asyncio.sleep(due - time.perf_counter())
            writer.write(b"%sContent-Length: %d\r\n\r\n%s" % (head.encode(), len(body), body))
            answer = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", answer)
            await reader.readexactly(int(found[1]) if found else 0)
            self.taken += answer.startswith(b"HTTP/1.1 202 ")
            self.waits.append(1_000 * (time.perf_counter() - due))
        writer.close()
