"""Announcements of adapters in their stream, and which of them are followed. Pure."""

from dataclasses import dataclass
from datetime import datetime, timezone

from .events import AdapterUpdate, AdapterUpdated


@dataclass(frozen=True)
class Announced:
    """An update and the stream entry it came in."""

    entry_id: str
    event: AdapterUpdated

    @property
    def update(self) -> AdapterUpdate:
        return self.event.data

    @property
    def made(self) -> datetime | None:
        """When the event was made, but not after it was added: a clock that is ahead must not outdate later events."""
        added = datetime.fromtimestamp(int(self.entry_id.partition("-")[0]) / 1000, timezone.utc)
        return min(self.event.time, added) if self.event.time else None


class Order:
    """Remembers announcements, to recognize an old event that was added to the stream again."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._newest: datetime | None = None

    def objection(self, announced: Announced) -> str | None:
        """Remember an announcement, and return why it is not followed: it came before, or a newer one did. Or None."""
        event = announced.event
        if (event.source, event.id) in self._seen:
            return f"the event {event.id} was announced before, and is not followed twice: release the adapter again"
        self._seen.add((event.source, event.id))
        made = announced.made
        if made and self._newest and made < self._newest:
            return (
                f"the event is of {made.isoformat()}, older than one that was announced before it, of "
                f"{self._newest.isoformat()}: release the adapter again, by a clock that is right"
            )
        self._newest = made or self._newest
        return None
