"""The newest predictions, kept once for all subscribers, as the bytes that are sent.

A subscriber is a place in the stream, and nothing is queued for it: it takes from the tail what follows its place, and
reads from Redis what the tail no longer holds. So a slow subscriber costs no memory except for what is being sent, and
a fast one causes no reads. Chunks are joined and compressed once for all subscribers at the same place.
"""

import zlib
from asyncio import Event, TimerHandle, get_running_loop
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager

from ..cursor import Place, moved, parse_id, write
from .entries import Entry

_MAX_BYTES = 16 << 20
_CHUNK_BYTES = 128 << 10  # sent at a time, plus at most one event
_LEVEL = 3  # of zlib: compresses to a fifth, in half a millisecond for each chunk
_CHUNKS = 64  # kept for subscribers at the same place
# A pause for each subscriber after a send, which takes about half as long. So half of the time is left for other work,
# and many events share a send.
_REST_SECONDS = 100e-6
SIGN_OF_LIFE = b": still here\n\n"
BEGIN_PACKED = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # the header of gzip


def as_sent(place: str, entry: Entry) -> bytes:
    """A prediction as a server-sent event, with the place after it as its id.

    JSON may contain line ends between its tokens, which would end the line.
    """
    data = b"\ndata: ".join(entry.body.splitlines())
    return b"id: %s\nevent: prediction\ndata: %s\n\n" % (place.encode(), data)


def packed(chunk: bytes) -> bytes:
    """A part of a gzip stream that does not depend on earlier parts, so that it is the same for all subscribers.

    The checksum at the end of the stream would differ for each subscriber. It is left out, because a stream of events
    ends only when the client has to reconnect.
    """
    packer = zlib.compressobj(_LEVEL, wbits=-zlib.MAX_WBITS)
    return packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH)


class Subscriber:
    """One stream of predictions, which is woken when there is something to send or when it has to end."""

    def __init__(self) -> None:
        self.news = Event()
        self.sign_of_life_due = False
        self.ended = False


class Tail:
    """The newest predictions, in the order in which they arrived from the shards, and the subscribers.

    Other gateways may have them in another order. So with several shards, a place belongs to this tail only if the tail
    has been at exactly this place.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._places: list[Place] = []  # after each prediction
        self._sent: list[bytes] = []
        self._bytes = 0
        self._floor: Place | None = None  # everything after it is held
        self._chunks: dict[tuple[int, bool], tuple[bytes, Place]] = {}  # by their beginning; until the next prediction
        self._subscribers: set[Subscriber] = set()
        self._waking: TimerHandle | None = None
        self._rests_until = 0.0

    @property
    def newest(self) -> Place | None:
        """The place after the last prediction, or where the tail begins; None before ``begin``."""
        return self._places[-1] if self._places else self._floor

    def begin(self, after: Place) -> None:
        """Start to hold what follows this place."""
        self._floor = after

    def append(self, entries: list[Entry], shard: int = 0) -> None:
        """Add predictions of a shard, wake the subscribers, and drop the oldest beyond the limit."""
        place = self.newest
        assert place, "it has begun"
        for entry in entries:
            place = moved(place, shard, parse_id(entry.entry_id))
            self._places.append(place)
            self._sent.append(as_sent(write(place), entry))
            self._bytes += len(self._sent[-1])
        self._drop_oldest()
        self._chunks.clear()
        if self._subscribers and not self._waking:
            loop = get_running_loop()
            self._waking = loop.call_at(max(self._rests_until, loop.time()), self._wake_all)

    def after(self, place: Place, *, pack: bool = False) -> tuple[bytes, Place] | None:
        """What to send after a place, compressed or not, and the place after that; empty at the newest place.

        None if the tail no longer holds what follows, or has not been at this place.
        """
        if self._floor is None or place < self._floor:
            return None
        begin = bisect_right(self._places, place)
        if len(place) > 1 and place != (self._places[begin - 1] if begin else self._floor):
            return None
        if begin == len(self._places):
            return b"", place
        # Nearly all subscribers are at the same place.
        if (begin, pack) not in self._chunks:
            if len(self._chunks) == _CHUNKS:
                self._chunks.clear()
            self._chunks[begin, pack] = self._chunk(begin, pack)
        return self._chunks[begin, pack]

    def _chunk(self, begin: int, pack: bool) -> tuple[bytes, Place]:
        end, size = begin, 0
        while end < len(self._places) and size < _CHUNK_BYTES:
            size += len(self._sent[end])
            end += 1
        chunk = b"".join(self._sent[begin:end])
        return packed(chunk) if pack else chunk, self._places[end - 1]

    @contextmanager
    def subscriber(self) -> Iterator[Subscriber]:
        """Register a subscriber within the block."""
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.remove(subscriber)

    @property
    def subscribers(self) -> int:
        """The number of subscribers."""
        return len(self._subscribers)

    def sign_of_life(self) -> None:
        """Make every subscriber send a sign of life."""
        for subscriber in self._subscribers:
            subscriber.sign_of_life_due = True
        self._wake()

    def end(self) -> None:
        """Make every subscriber end."""
        for subscriber in self._subscribers:
            subscriber.ended = True
        self._wake()

    def _wake_all(self) -> None:
        self._waking = None
        self._rests_until = get_running_loop().time() + _REST_SECONDS * len(self._subscribers)
        self._wake()

    def _wake(self) -> None:
        for subscriber in self._subscribers:
            subscriber.news.set()

    def _drop_oldest(self) -> None:
        count = 0
        while self._bytes > self._max_bytes and count < len(self._sent) - 1:
            self._bytes -= len(self._sent[count])
            count += 1
        if count:
            self._floor = self._places[count - 1]
            del self._places[:count], self._sent[:count]
