"""What an abstract becomes on its way through a worker: Delivery, Job, Batch, Inferred, Answered, Outcome."""

import time
from dataclasses import dataclass, field
from enum import IntEnum

from ..schemas import AbstractClassified, AbstractRefused, AbstractSubmitted, Lane
from .engine import Classified, Engine, Tokens


@dataclass(frozen=True, slots=True)
class Delivery:
    """One stream entry in this worker's hands.

    Attributes:
        fields: None where the entry was trimmed away before it was answered.
        attempt: 1 for the first delivery, as the broker counts.
        consumers: the workers it was with, this one last.
        read_ms: Unix time in milliseconds when it was read.
    """

    lane: Lane
    entry_id: str
    fields: dict[bytes, bytes] | None
    attempt: int
    consumers: tuple[str, ...]
    read_ms: float = field(default_factory=lambda: time.time() * 1000)


@dataclass(frozen=True, slots=True)
class Job:
    """A delivery that was validated, and tokenized by the engine that will answer it."""

    delivery: Delivery
    event: AbstractSubmitted
    tokens: Tokens
    engine: Engine


Batch = list[Job]
"""Jobs that share a forward pass, all of one engine."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """A batch after its forward pass; ``classified`` is None where the engine, otherwise sound, fails on it."""

    batch: Batch
    classified: Classified | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """A delivery and what is to be published for it, once for its ``identity``."""

    delivery: Delivery
    event: AbstractClassified | AbstractRefused
    identity: bytes


class Outcome(IntEnum):
    """What became of an answer in Redis; the numbers are those of ``commit.lua``."""

    LOST = 0  # another worker was first: nothing was changed
    PUBLISHED = 1
    DUPLICATE = 2  # this submission was answered before: acknowledged, not published again
