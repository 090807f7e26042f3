"""The only way out of a worker: acknowledge and publish in one script."""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from ..schemas import Streams
from ..schemas.streams import DEDUPE_WINDOW_SECONDS, GROUP, LANES
from ..schemas.wire import ARGUMENT, Packed
from .retrying import Observer, until_available
from .scripts import script
from .stages import Answered, Outcome, Predicted

# The keys of commit.lua, by position.
_LANE_KEYS = {lane: b"%d" % (1 + position) for position, lane in enumerate(LANES)}
_PREDICTIONS_KEY, _REFUSALS_KEY = b"3", b"4"
_BEFORE_EVENT = 4 * ARGUMENT + b"$%d\r\n"
_OUTCOMES = tuple(Outcome)  # by the number that commit.lua returns


class Sink:
    """Publishes results and refusals. Stateless: everything it has to know is in Redis."""

    def __init__(self, outlets: Sequence["Outlet"]) -> None:
        """``outlets`` has one for each shard."""
        self._outlets = outlets
        self._by_stream = {outlet.streams.lane(lane): outlet for outlet in outlets for lane in LANES}

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self._outlets)

    def parts(self, answered: list[Answered]) -> list[list[Answered]]:
        """The answers grouped by shard."""
        if len(self._outlets) == 1:
            return [answered]
        parts: defaultdict[Outlet, list[Answered]] = defaultdict(list)
        for entry in answered:
            parts[self._by_stream[entry.delivery.stream]].append(entry)
        return list(parts.values())

    async def commit(self, part: Sequence[Answered]) -> list[Outcome]:
        """Acknowledge and publish answers of one shard."""
        return await self._by_stream[part[0].delivery.stream].commit(part) if part else []


class Outlet:
    """Publishes to one shard."""

    def __init__(self, redis: Redis, streams: Streams, observer: Observer) -> None:
        self.streams = streams
        self._observer = observer  # of the shard's Redis
        self._commit_script = script(redis, "commit")

    async def commit(self, answered: Sequence[Answered]) -> list[Outcome]:
        """Publish answers and return the outcome of each. Repeating it after a lost reply is safe: the first wins."""
        lanes = [self.streams.lane(lane) for lane in LANES]
        keys = [*lanes, self.streams.predictions, self.streams.refusals, *self.streams.seen(time.time())]
        # redis-py's own types do not know of ``Packed``.
        arguments: list[Any] = [GROUP, 2 * DEDUPE_WINDOW_SECONDS, _packed(answered)]
        codes = await until_available(lambda: self._commit_script(keys, arguments), self._observer)
        return [_OUTCOMES[code] for code in codes]


def _packed(answered: Sequence[Answered]) -> Packed:
    """The arguments of commit.lua for each entry: lane, entry id, output, identity, event."""
    parts: list[bytes] = []
    for entry in answered:
        lane, entry_id = _LANE_KEYS[entry.delivery.lane], entry.delivery.entry_id.encode()
        output = _PREDICTIONS_KEY if isinstance(entry, Predicted) else _REFUSALS_KEY
        identity, event = entry.identity, entry.event
        before = _BEFORE_EVENT % (1, lane, len(entry_id), entry_id, 1, output, len(identity), identity, len(event))
        parts += (before, event, b"\r\n")
    return Packed(5 * len(answered), parts)
