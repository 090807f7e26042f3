"""Which jobs share a forward pass. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest

from .engine.packing import pack_by
from .stages import Batch, Job


def next_batch(first: Sequence[Job], others: Sequence[Job], max_batch_tokens: int) -> Batch:
    """The batch to compute now: at most ``max_batch_tokens``, padding included, unless it is a single abstract.

    Jobs of similar length share a batch. The oldest is always in it, so that none waits for ever, and all have the
    engine of the oldest. Remaining room goes to ``others`` that are no longer than the longest in the batch.
    """
    oldest = first[0]
    candidates = [job for job in first if job.engine is oldest.engine]
    batch = next(batch for batch in pack_by(candidates, _length, max_batch_tokens) if oldest in batch)
    width = _length(batch[-1])  # they are sorted
    room = max_batch_tokens // width - len(batch)
    fitting = (job for job in others if job.engine is oldest.engine and _length(job) <= width)
    return batch + [job for job, _ in zip(fitting, range(room), strict=False)]


def taking_turns(jobs: list[Job]) -> list[Job]:
    """The oldest job of every shard, then the second of every shard, and so on, so that no shard waits for another."""
    shards: defaultdict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        shards[job.delivery.stream].append(job)
    if len(shards) < 2:
        return jobs
    return [job for turn in zip_longest(*shards.values()) for job in turn if job]


def _length(job: Job) -> int:
    return len(job.tokens.ids)
