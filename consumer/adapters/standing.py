"""Which worker serves what, who is late, since when and why. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ...schemas import AdapterActivated, AdapterRejected
from ...schemas.announced import Announced

Answer = AdapterActivated | AdapterRejected


@dataclass(frozen=True)
class WorkerStanding:
    """One worker that is at work.

    Attributes:
        serves: the digest; None where it never said, or serves the bare base.
        version: of what it serves, where that was announced.
        late_since: when the adapter that it does not serve was announced; None where it serves the live one.
        why: for people, of one that is late.
    """

    worker: str
    serves: str | None
    version: str | None
    late_since: datetime | None = None
    why: str | None = None


@dataclass(frozen=True)
class Standing:
    """The fleet, beside the adapter that all should serve; None where none was announced."""

    live: Announced | None
    workers: tuple[WorkerStanding, ...]

    @property
    def on_time(self) -> int:
        """How many serve the live one."""
        return sum(worker.late_since is None for worker in self.workers)


def standing(
    live: Announced | None,
    history: Sequence[Announced],
    answers: Sequence[Answer],
    alive: Mapping[str, float],
) -> Standing:
    """How the fleet stands.

    Args:
        live: what all should serve.
        history: all announcements, oldest first.
        answers: of all workers, oldest first.
        alive: each worker at work, and for how many seconds it has been silent.
    """
    newest = {answer.data.worker: answer for answer in answers}
    versions = {one.update.digest: one.update.version for one in history}
    return Standing(live, tuple(_stands(name, live, newest.get(name), versions, alive[name]) for name in sorted(alive)))


def digest_served(answer: Answer) -> str | None:
    """What the worker has served since it gave this answer."""
    return answer.data.digest if isinstance(answer, AdapterActivated) else answer.data.previous_digest


def _stands(
    name: str, live: Announced | None, answer: Answer | None, versions: Mapping[str, str], silent_seconds: float
) -> WorkerStanding:
    serves = digest_served(answer) if answer else None
    version = versions.get(serves or "")
    if live is None or serves == live.update.digest:
        return WorkerStanding(name, serves, version)
    return WorkerStanding(name, serves, version, announced_at(live), _why(live, answer, silent_seconds))


def _why(live: Announced, answer: Answer | None, silent_seconds: float) -> str:
    if answer is None:
        return (
            f"it has never answered an announcement, and was heard of {silent_seconds:.0f} s ago: is --adapter given?"
        )
    if isinstance(answer, AdapterRejected) and answer.data.digest == live.update.digest:
        return answer.data.reason or "rejected"
    return f"no answer yet; heard of {silent_seconds:.0f} s ago"


def announced_at(announced: Announced) -> datetime:
    """When, by the clock of Redis."""
    return datetime.fromtimestamp(int(announced.entry_id.split("-")[0]) / 1000, timezone.utc)
