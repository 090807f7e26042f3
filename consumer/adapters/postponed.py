"""An announcement whose store was out of reach, until it is tried again. Pure."""

from ...schemas.announced import Announced

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 300.0


class Postponed:
    """Owns the one announcement that is tried again, with growing pauses, until another supersedes it."""

    def __init__(self) -> None:
        self._waiting: Announced | None = None
        self._last: Announced | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS

    @property
    def pause_seconds(self) -> float | None:
        """How long to wait before the next try; None if nothing is postponed."""
        return self._pause_seconds if self._waiting else None

    def postpone(self, announced: Announced) -> bool:
        """Postpone an announcement, unless a newer one is; whether it is the first time for this one."""
        again = announced is self._last
        if self._waiting is None:
            self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS) if again else FIRST_PAUSE_SECONDS
            self._waiting = self._last = announced
        return not again

    def take(self) -> list[Announced]:
        """Remove and return what is postponed."""
        waiting, self._waiting = self._waiting, None
        return [waiting] if waiting else []
