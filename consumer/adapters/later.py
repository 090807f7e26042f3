"""What was announced while its store was out of reach, until it is asked for again. Pure."""

from ...schemas.announced import Announced

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 300.0


class Later:
    """Owns the one announcement that is tried again, ever more slowly, for as long as none supersedes it."""

    def __init__(self) -> None:
        self._waiting: Announced | None = None
        self._last: Announced | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS

    @property
    def pause_seconds(self) -> float | None:
        """When to ask again; None where nothing waits."""
        return self._pause_seconds if self._waiting else None

    def postpone(self, announced: Announced) -> bool:
        """Let it wait, unless a newer one does; whether it had not waited before."""
        again = announced is self._last
        if self._waiting is None:
            self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS) if again else FIRST_PAUSE_SECONDS
            self._waiting = self._last = announced
        return not again

    def take(self) -> list[Announced]:
        """What waits, which then waits no more."""
        waiting, self._waiting = self._waiting, None
        return [waiting] if waiting else []
