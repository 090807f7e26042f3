"""A candidate in the shadow of the live adapter: it scores a share of the live abstracts, and publishes nothing.

It uses only idle time of the compute thread: it runs when no batch is ready, and takes a few abstracts at once, so that
a live batch never waits for more. Abstracts for which there is no time are dropped, the oldest first. A candidate that
hangs is let go, and no live abstract is blamed for it.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from prometheus_client import Counter, Histogram

from ...schemas.announced import Announced
from ...schemas.events import ShadowSummary
from ..engine import Engine
from ..engine.scoring import score
from ..stages import Answered, Inferred, Job, Predicted
from ..worker import Stuck, Worker
from .comparison import Answers, Comparison
from .fleet import Fleet

MOST_WAITING = 256  # abstracts, each a few kB
MOST_AT_ONCE, MOST_TOKENS_AT_ONCE = 4, 1_024  # in one forward pass, for which a live batch may have to wait
FIRST_SUMMARY = 64  # abstracts; further summaries each time their number has doubled, and at the end
SHIFTS = (-0.5, -0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5)

Waiting = tuple[Job, Answers]
"""An abstract and the live adapter's answers."""

log = structlog.get_logger()


@dataclass
class _Candidate:
    """One candidate, the abstracts that wait for it, and its results so far."""

    announced: Announced
    engine: Engine
    waiting: deque[Waiting] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    seen: Comparison = field(default_factory=Comparison)
    dropped: int = 0
    failed: int = 0
    next_summary: int = FIRST_SUMMARY


class Shadow:
    """Owns the candidate. Everything except ``_score`` runs on the event loop."""

    def __init__(self, worker: Worker, fleet: Fleet, reject: Callable[[Announced, str], Awaitable[None]]) -> None:
        """
        Args:
            worker: whose live adapter it is beside.
            fleet: is told the summaries.
            reject: tells the fleet why a candidate was let go.
        """
        self._worker = worker
        self._fleet = fleet
        self._reject = reject
        self._candidate: _Candidate | None = None
        self._offered = asyncio.Event()
        registry = worker.metrics.registry
        self._abstracts = Counter("abstream_shadow_abstracts", "Live abstracts offered", ["result"], registry=registry)
        self._answers = Counter(
            "abstream_shadow_answers",
            "Its answers beside the live ones",
            ["question", "live", "shadow"],
            registry=registry,
        )
        self._shift = Histogram(
            "abstream_shadow_confidence_shift", "Its confidence minus the live one", ["question"],
            buckets=SHIFTS, registry=registry,
        )  # fmt: skip

    def begin(self, announced: Announced, engine: Engine) -> None:
        """Let ``engine`` score beside the live one from now on."""
        self._candidate = _Candidate(announced, engine)

    async def end(self) -> None:
        """Drop the candidate, and publish a last summary."""
        candidate, self._candidate = self._candidate, None
        if candidate:
            await self._publish(candidate, ended=True)

    def observe(self, inferred: Inferred, answered: Sequence[Answered]) -> None:
        """Offer abstracts that the live engine has just answered."""
        candidate, share = self._candidate, self._worker.config.shadow_share
        if candidate is None or inferred.batch[0].engine is not self._worker.engine:
            return
        for job, one in zip(inferred.batch, answered, strict=True):
            if isinstance(one, Predicted) and random.random() < share:
                if len(candidate.waiting) == MOST_WAITING:
                    candidate.dropped += 1
                    self._abstracts.labels("dropped").inc()
                candidate.waiting.append((job, one.answers))
        if candidate.waiting:
            self._offered.set()

    async def run(self) -> None:
        """Score offered abstracts whenever the compute thread is idle, until cancelled."""
        while True:
            await self._offered.wait()
            await self._worker.ready.idle()
            if (candidate := self._candidate) is None or not candidate.waiting:
                self._offered.clear()
                continue
            batch = _take(candidate.waiting)
            run = partial(self._score, candidate.engine, [job for job, _ in batch])
            try:
                answers = await self._worker.forward(run, ())
            except Stuck:
                await self._let_go(candidate, batch)
                continue
            self._count(candidate, batch, answers)
            if candidate.seen.abstracts >= candidate.next_summary and candidate is self._candidate:
                candidate.next_summary = 2 * candidate.seen.abstracts
                await self._publish(candidate, ended=False)

    async def _let_go(self, candidate: _Candidate, batch: Sequence[Waiting]) -> None:
        """Drop a candidate that hangs on ``batch``. It would hang again, so it is not tried again."""
        self._count(candidate, batch, [])
        if candidate is self._candidate:
            await self.end()
            seconds = self._worker.config.batch_deadline_seconds
            await self._reject(
                candidate.announced, f"in the shadow, {len(batch)} abstracts took more than {seconds:g} s"
            )

    def _score(self, engine: Engine, jobs: Sequence[Job]) -> list[Answers]:
        """The candidate's answers, computed on the compute thread; empty if it fails."""
        try:
            same_prompt = engine.model.receipt.prompt_digest == jobs[0].engine.model.receipt.prompt_digest
            tokens = [job.tokens if same_prompt else engine.encode(job.event) for job in jobs]
            return [score(engine.model, logits)[0] for logits in engine.classify(tokens).logits]
        except Exception:
            log.exception("shadow_failed", abstracts=len(jobs))
            return []

    def _count(self, candidate: _Candidate, batch: Sequence[Waiting], answers: Sequence[Answers]) -> None:
        self._abstracts.labels("scored" if answers else "failed").inc(len(batch))
        if not answers:
            candidate.failed += len(batch)
            return
        for (_, live), own in zip(batch, answers, strict=True):
            candidate.seen.add(live, own)
            for question in [name for name in live if name in own]:
                self._answers.labels(question, live[question]["label"], own[question]["label"]).inc()
                self._shift.labels(question).observe(own[question]["confidence"] - live[question]["confidence"])

    async def _publish(self, candidate: _Candidate, *, ended: bool) -> None:
        update = candidate.announced.update
        summary = ShadowSummary(
            worker=self._worker.config.name,
            name=update.name,
            version=update.version,
            digest=update.digest,
            live_digest=self._worker.engine.model.receipt.adapter_digest,
            abstracts=candidate.seen.abstracts,
            changed=candidate.seen.changed,
            dropped=candidate.dropped,
            failed=candidate.failed,
            questions=candidate.seen.summary(),
            ended=ended,
        )
        log.info("shadow_seen", **summary.model_dump(include={"version", "abstracts", "changed", "dropped", "ended"}))
        await self._fleet.shadowed(candidate.announced, summary)


def _take(waiting: deque[Waiting]) -> list[Waiting]:
    """Remove and return the oldest few that make a small batch, at least one."""
    batch = [waiting.popleft()]
    longest = len(batch[0][0].tokens.ids)
    while waiting and len(batch) < MOST_AT_ONCE:
        longest = max(longest, len(waiting[0][0].tokens.ids))
        if longest * (len(batch) + 1) > MOST_TOKENS_AT_ONCE:
            break
        batch.append(waiting.popleft())
    return batch
