"""What an abstract becomes on its way through a worker: Delivery, Job, Batch, Inferred, Answered, Outcome.

All of these are frozen. What exists once for each abstract is a struct of msgspec, which takes half the time of a
dataclass with slots to create, and which the garbage collector need not visit: none of them is part of a cycle.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from msgspec import Struct

from ..schemas import Lane, Submission
from ..schemas.errors import RefusalReason
from ..schemas.events import Review
from .engine import Classified, Engine, Tokens
from .engine.scoring import Scored

_TRACEPARENT = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-")  # as the W3C defines it; senders may write anything


class Delivery(Struct, frozen=True, eq=False, gc=False):
    """One stream entry in this worker's hands.

    Attributes:
        fields: None if the entry was trimmed before it was answered.
        attempt: the number of this delivery, from 1.
        consumers: the workers that had it, this one last.
        read_ms: when it was read, as Unix time in milliseconds.
        size_bytes: of ``fields``.
        stream: the key of its stream, which implies its shard and its lane.
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
    """Remove and return the first few, until they have ``most_bytes`` together."""
    size = count = 0
    while count < len(deliveries) and size < most_bytes:
        size += deliveries[count].size_bytes
        count += 1
    taken = deliveries[:count]
    del deliveries[:count]
    return taken


class Job(Struct, frozen=True, eq=False, gc=False):
    """A validated delivery, tokenized by the engine that will answer it."""

    delivery: Delivery
    event: Submission
    tokens: Tokens
    engine: Engine


Batch = list[Job]
"""Jobs that share a forward pass, all of one engine."""


def traces(batch: Batch) -> dict[str, list[str]]:
    """A field for a log line with the ids of the traces that the abstracts belong to; empty if there are none."""
    parents = [job.event.carried_over.get("traceparent") for job in batch if job.event.carried_over]
    carried = [_TRACEPARENT.match(parent) for parent in parents if parent]
    found = {match[1] for match in carried if match}
    return {"trace_ids": sorted(found)} if found else {}


@dataclass(frozen=True, slots=True)
class Inferred:
    """A batch after its forward pass.

    Attributes:
        classified: None if the engine fails on this batch and on no other.
        seconds: how long the pass took.
        ended_ms: when it ended, as Unix time in milliseconds.
    """

    batch: Batch
    classified: Classified | None
    seconds: float
    ended_ms: float


class Predicted(Struct, frozen=True, eq=False, gc=False):
    """A delivery and its result.

    Attributes:
        event: the event to publish, as JSON.
        identity: of the submission, which gets one result.
        answers: the answers in the event, by question.
        queued_ms: as in the event, like ``total_ms``.
    """

    delivery: Delivery
    event: bytes
    identity: bytes
    answers: Mapping[str, Scored]
    review: Review
    queued_ms: float
    total_ms: float


class Refused(Struct, frozen=True, eq=False, gc=False):
    """A delivery and why it is set aside; not published if its ``identity``, if it has one, was answered before."""

    delivery: Delivery
    event: bytes
    identity: bytes
    reason: RefusalReason


Answered = Predicted | Refused


class Outcome(IntEnum):
    """What happened to an answer in Redis; the numbers are those of ``commit.lua``."""

    LOST = 0  # another worker was first: nothing was changed
    PUBLISHED = 1
    DUPLICATE = 2  # this submission was answered before: acknowledged, not published again
