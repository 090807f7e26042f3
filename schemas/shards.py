"""A namespace that is spread over several shards, each with streams of its own.

All keys of a shard have one hash tag, so that a Redis Cluster keeps each shard on one server.
"""

from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

from .streams import Streams

MAX_SHARDS = 1024


@dataclass(frozen=True)
class Shards:
    """The shards of a namespace.

    A single shard has the tag ``{NS}``, several have ``{NS:0}`` … ``{NS:N-1}``. Their number is chosen once, because
    another number means other streams.

    Raises:
        ValueError: the namespace or the number is not valid.
    """

    namespace: str = "abstream"
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_SHARDS:
            raise ValueError(f"{self.count} shards: use 1 to {MAX_SHARDS}")
        Streams(self.namespace)
        self.all  # noqa: B018 (made, it is checked)

    @cached_property
    def all(self) -> tuple[Streams, ...]:
        """The streams of each shard, in the order of their numbers."""
        if self.count == 1:
            return (self.control,)
        return tuple(Streams(f"{self.namespace}:{number}") for number in range(self.count))

    @cached_property
    def control(self) -> Streams:
        """The streams of adapters and of the fleet's answers, which exist once in a namespace."""
        return Streams(self.namespace)

    def of(self, event_id: str) -> int:
        """The number of the shard of a submission: CRC-32 (ISO 3309, as zlib's) of its id in UTF-8, modulo ``count``.

        It depends on the id alone, so that a repeated submission reaches the shard that knows it.
        """
        return crc32(event_id.encode(errors="surrogatepass")) % self.count if self.count > 1 else 0
