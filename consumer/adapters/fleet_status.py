"""The state of the fleet: which worker serves which adapter, and which are late, since when and why. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ...schemas import AdapterActivated, AdapterRejected
from ...schemas.announced import Announced

Answer = AdapterActivated | AdapterRejected


@dataclass(frozen=True)
class WorkerStatus:
    """One running worker.

    Attributes:
        serves: the digest; None if it never reported one, or serves the bare base.
        version: of what it serves, if that was announced.
        late_since: when the adapter that it should serve was announced; None if it serves that one.
        why: for people, why it is late.
    """

    worker: str
    serves: str | None
    version: str | None
    late_since: datetime | None = None
    why: str | None = None


@dataclass(frozen=True)
class FleetStatus:
    """The running workers, and the adapter that all should serve; None if none was announced."""

    live: Announced | None
    workers: tuple[WorkerStatus, ...]

    @property
    def on_time(self) -> int:
        """How many workers serve the live adapter."""
        return sum(worker.late_since is None for worker in self.workers)


def fleet_status(
    live: Announced | None,
    history: Sequence[Announced],
    answers: Sequence[Answer],
    alive: Mapping[str, float],
) -> FleetStatus:
    """The state of the fleet.

    Args:
        live: what all workers should serve.
        history: all announcements, oldest first.
        answers: of all workers, oldest first.
        alive: each running worker, and the seconds since it was last heard of.
    """
    newest = {answer.data.worker: answer for answer in answers}
    versions = {one.update.digest: one.update.version for one in history}
    return FleetStatus(
        live, tuple(_worker_status(name, live, newest.get(name), versions, alive[name]) for name in sorted(alive))
    )


def digest_served(answer: Answer) -> str | None:
    """The adapter that the worker has served since this answer."""
    return answer.data.digest if isinstance(answer, AdapterActivated) else answer.data.previous_digest


def _worker_status(
    name: str, live: Announced | None, answer: Answer | None, versions: Mapping[str, str], silent_seconds: float
) -> WorkerStatus:
    serves = digest_served(answer) if answer else None
    version = versions.get(serves or "")
    if live is None or serves == live.update.digest:
        return WorkerStatus(name, serves, version)
    return WorkerStatus(name, serves, version, announced_at(live), _why(live, answer, silent_seconds))


def _why(live: Announced, answer: Answer | None, silent_seconds: float) -> str:
    if answer is None:
        return (
            f"it has never answered an announcement, and was heard of {silent_seconds:.0f} s ago: is --adapter given?"
        )
    if isinstance(answer, AdapterRejected) and answer.data.digest == live.update.digest:
        return answer.data.reason or "rejected"
    return f"no answer yet; heard of {silent_seconds:.0f} s ago"


def announced_at(announced: Announced) -> datetime:
    """When it was announced, by the clock of Redis."""
    return datetime.fromtimestamp(int(announced.entry_id.split("-")[0]) / 1000, timezone.utc)
