"""Which jobs share a forward pass. Pure: from values to values."""

from collections.abc import Iterator

from .engine.packing import pack_by
from .stages import Batch, Job

# Delivered once: full batches. Twice: in fours. From the third time on alone, so that an entry which kills
# its worker does not take its neighbours with it for ever.
_MOST_BY_ATTEMPT = {1: None, 2: 4}


def pack(jobs: list[Job], max_batch_tokens: int) -> Iterator[Batch]:
    """Batches of like length and like number of attempts, none over ``max_batch_tokens`` with its padding."""
    by_attempt: dict[int, list[Job]] = {}
    for job in jobs:
        by_attempt.setdefault(min(job.delivery.attempt, 3), []).append(job)
    for attempt in sorted(by_attempt):
        most = _MOST_BY_ATTEMPT.get(attempt, 1)
        yield from pack_by(by_attempt[attempt], lambda job: len(job.tokens.ids), max_batch_tokens, most)
