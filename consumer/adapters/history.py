"""What a sequence of announcements comes to. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ...schemas import AdapterRefused, AdapterUpdated
from ...schemas.events import AdapterUpdate


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
        """When the event says it was made; by a clock that is ahead, when it was added, or all later ones were late."""
        added = datetime.fromtimestamp(int(self.entry_id.partition("-")[0]) / 1000, timezone.utc)
        return min(self.event.time, added) if self.event.time else None


class Order:
    """Remembers what was announced, so that an old event is known as such though it stands in a new entry."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._newest: datetime | None = None

    def objection(self, announced: Announced) -> str | None:
        """Why an announcement is not followed; None, and remembered, where it is the first and newest of its kind."""
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


def in_service(history: Iterable[Announced], served: Sequence[Announced] = ()) -> list[Announced]:
    """The one to serve, last, and before it those that it may be rolled back to, each served before the next.

    What was rolled back is not among them.

    Args:
        history: oldest first.
        served: what came of all that was announced before it.
    """
    served = list(served)
    for announced in history:
        digest, action = announced.update.digest, announced.update.action
        if action == "shadow":
            continue
        if action == "rollback":
            served = _before(digest, served)
        elif served and served[-1].update.digest == digest:
            served = served[:-1]
        served = [*served, announced]
    return served


def _before(digest: str, served: list[Announced]) -> list[Announced]:
    """What was served before ``digest``; where that was before all that is known, all but what is rolled back."""
    digests = [one.update.digest for one in served]
    return served[: digests.index(digest)] if digest in digests else served[:-1]


def find(history: Sequence[Announced], wanted: str) -> Announced:
    """The newest announcement of a digest, or the beginning of one, or of a version.

    Raises:
        AdapterRefused: there is none, or several adapters go by it.
    """
    digest = wanted if wanted.startswith("sha256:") else f"sha256:{wanted}"
    found = {
        one.update.digest: one
        for one in history
        if one.update.version == wanted or one.update.digest.startswith(digest)
    }
    if len(found) > 1:
        raise AdapterRefused(
            f"{wanted} is what {len(found)} adapters go by: name one by its digest, {', '.join(found)}"
        )
    if not found:
        raise AdapterRefused(f"no adapter {wanted} was ever announced: `abstream adapters list` shows all")
    return next(iter(found.values()))


def one_before(history: Sequence[Announced], served: Collection[str]) -> Announced:
    """What to roll back to: the last in service, before the live one, that some worker has served.

    Args:
        history: oldest first.
        served: digests that a worker has activated.

    Raises:
        AdapterRefused: there is none.
    """
    known = [one for one in in_service(history) if one.update.digest in served]
    if len(known) < 2:
        raise AdapterRefused("no worker has served another adapter before this one: name one with --to")
    return known[-2]
