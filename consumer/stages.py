"""What an abstract becomes on its way through a worker: Delivery, Job, Batch, Inferred, Answered, Outcome.

Nobody changes one of these. What there is of every abstract is not frozen all the same, since a frozen dataclass takes
four times as long to make; a named tuple takes longer to make, and to read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from ..schemas import Lane, Submission
from ..schemas.errors import RefusalReason
from ..schemas.events import Review
from .engine import Classified, Engine, Tokens
from .engine.scoring import Scored

_TRACEPARENT = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-")  # by W3C; a sender may write anything there


@dataclass(slots=True, eq=False)
class Delivery:
    """One stream entry in this worker's hands.

    Attributes:
        fields: None where the entry was trimmed away before it was answered.
        attempt: 1 for the first delivery, as the broker counts.
        consumers: the workers it was with, this one last.
        read_ms: Unix time in milliseconds when it was read.
        size_bytes: of ``fields``.
        stream: where the entry is, which tells its shard as well as its lane.
    """

    lane: Lane
    entry_id: str
    fields: dict[bytes, bytes] | None
    attempt: int
    consumers: tuple[str, ...]
    read_ms: float = 0.0
    size_bytes: int = 0
    stream: str = ""


def take(deliveries: list[Delivery], most_bytes: int) -> list[Delivery]:
    """Take out the first few, up to the one with which they are ``most_bytes``: nobody else holds on to them then."""
    size = count = 0
    while count < len(deliveries) and size < most_bytes:
        size += deliveries[count].size_bytes
        count += 1
    taken = deliveries[:count]
    del deliveries[:count]
    return taken


@dataclass(slots=True, eq=False)
class Job:
    """A delivery that was validated, and tokenized by the engine that will answer it."""

    delivery: Delivery
    event: Submission
    tokens: Tokens
    engine: Engine


Batch = list[Job]
"""Jobs that share a forward pass, all of one engine."""


def traces(batch: Batch) -> dict[str, list[str]]:
    """As a field of a log line, the ids of the traces that the abstracts came in; none where there are none."""
    parents = [job.event.carried_over.get("traceparent") for job in batch if job.event.carried_over]
    carried = [_TRACEPARENT.match(parent) for parent in parents if parent]
    found = {match[1] for match in carried if match}
    return {"trace_ids": sorted(found)} if found else {}


@dataclass(frozen=True, slots=True)
class Inferred:
    """A batch after its forward pass, which ended at a Unix time in milliseconds.

    ``classified`` is None where the engine, otherwise sound, fails on it.
    """

    batch: Batch
    classified: Classified | None
    seconds: float
    ended_ms: float


@dataclass(slots=True, eq=False)
class Predicted:
    """A delivery and its result.

    Attributes:
        event: what is to be published, as JSON; once for its ``identity``.
        answers: what it says, by question.
        queued_ms: as in the event, and so is ``total_ms``.
    """

    delivery: Delivery
    event: bytes
    identity: bytes
    answers: Mapping[str, Scored]
    review: Review
    queued_ms: float
    total_ms: float


@dataclass(slots=True, eq=False)
class Refused:
    """A delivery and why it is set aside; not published where its ``identity``, if it has one, was answered."""

    delivery: Delivery
    event: bytes
    identity: bytes
    reason: RefusalReason


Answered = Predicted | Refused


class Outcome(IntEnum):
    """What became of an answer in Redis; the numbers are those of ``commit.lua``."""

    LOST = 0  # another worker was first: nothing was changed
    PUBLISHED = 1
    DUPLICATE = 2  # this submission was answered before: acknowledged, not published again
