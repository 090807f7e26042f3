"""Requests that wait for a result. The reader wakes them; they need no thread, task or read of their own."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from .entries import Entry
from .index import Identity, answered_by, identity_of


class Wait:
    """One request that waits."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[Entry | None] = asyncio.Queue()

    def put(self, entry: Entry | None) -> None:
        """Deliver a result of its abstract, or None to end the wait."""
        self._arrived.put_nowait(entry)

    async def result(self, submitted: str, seconds: float) -> Entry | None:
        """The result of the abstract that was sent as the entry ``submitted``; None if it does not arrive in time."""
        try:
            return await asyncio.wait_for(self._settling(submitted), seconds)
        except asyncio.TimeoutError:
            return None

    async def _settling(self, submitted: str) -> Entry | None:
        while (entry := await self._arrived.get()) and not answered_by(entry).settles(submitted):
            pass
        return entry


class Waiting:
    """All waiting requests."""

    def __init__(self) -> None:
        self._waits: defaultdict[Identity, set[Wait]] = defaultdict(set)
        self._ended = False

    def __len__(self) -> int:
        return sum(map(len, self._waits.values()))

    @contextmanager
    def for_result(self, identity: Identity) -> Iterator[Wait]:
        """Wait within the block; enter it before the abstract is sent, or its result may be missed."""
        wait = Wait()
        self._waits[identity].add(wait)
        if self._ended:
            wait.put(None)
        try:
            yield wait
        finally:
            self._waits[identity].discard(wait)
            if not self._waits[identity]:
                del self._waits[identity]

    def arrived(self, entries: list[Entry]) -> None:
        """Wake the requests that wait for these results."""
        for entry in entries:
            identity = identity_of(entry)
            for wait in self._waits.get(identity, ()) if identity else ():
                wait.put(entry)

    def end(self) -> None:
        """End all waits."""
        self._ended = True
        for waits in self._waits.values():
            for wait in waits:
                wait.put(None)
