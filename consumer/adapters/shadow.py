"""A candidate in the shadow of the live adapter: it scores a share of the live abstracts, and publishes nothing.

It has only what time the compute thread leaves: it begins when no batch stands ready, and then with a few abstracts, so
that a live batch waits for those at most. What it has no time for is dropped, oldest first.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter, Histogram

from ...schemas.announced import Announced
from ...schemas.events import ShadowSummary
from ..engine import Engine
from ..engine.scoring import score
from ..stages import Answered, Inferred, Job, Predicted
from ..worker import Worker
from .comparison import Answers, Comparison
from .fleet import Fleet

MOST_WAITING = 256  # abstracts, each a few kB
MOST_AT_ONCE, MOST_TOKENS_AT_ONCE = 4, 1_024  # of one forward pass: what a live batch may have to wait for
FIRST_SUMMARY = 64  # abstracts; then each time they have doubled, and at the end
SHIFTS = (-0.5, -0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5)

Waiting = tuple[Job, Answers]
"""An abstract, and what the live adapter answered."""

log = structlog.get_logger()


@dataclass
class _Cast:
    """One candidate, what waits for it and what is known of it."""

    announced: Announced
    engine: Engine
    waiting: deque[Waiting] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    seen: Comparison = field(default_factory=Comparison)
    dropped: int = 0
    failed: int = 0
    next_summary: int = FIRST_SUMMARY


class Shadow:
    """Owns the candidate. All but ``_score`` runs on the event loop."""

    def __init__(self, worker: Worker, fleet: Fleet) -> None:
        self._worker = worker
        self._fleet = fleet
        self._cast: _Cast | None = None
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
        self._cast = _Cast(announced, engine)

    async def end(self) -> None:
        """Let the candidate go, and say what was seen of it."""
        cast, self._cast = self._cast, None
        if cast:
            await self._say(cast, ended=True)

    def observe(self, inferred: Inferred, answered: Sequence[Answered]) -> None:
        """Offer what the live engine has just answered."""
        cast, share = self._cast, self._worker.config.shadow_share
        if cast is None or inferred.batch[0].engine is not self._worker.engine:
            return
        for job, one in zip(inferred.batch, answered, strict=True):
            if isinstance(one, Predicted) and random.random() < share:
                if len(cast.waiting) == MOST_WAITING:
                    cast.dropped += 1
                    self._abstracts.labels("dropped").inc()
                cast.waiting.append((job, one.answers))
        if cast.waiting:
            self._offered.set()

    async def run(self) -> None:
        """Score what was offered, whenever the compute thread has nothing else to do, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._offered.wait()
            await self._worker.ready.idle()
            if (cast := self._cast) is None or not cast.waiting:
                self._offered.clear()
                continue
            batch = _take(cast.waiting)
            answers = await loop.run_in_executor(
                self._worker.compute, self._score, cast.engine, [job for job, _ in batch]
            )
            self._count(cast, batch, answers)
            if cast.seen.abstracts >= cast.next_summary and cast is self._cast:
                cast.next_summary = 2 * cast.seen.abstracts
                await self._say(cast, ended=False)

    def _score(self, engine: Engine, jobs: Sequence[Job]) -> list[Answers]:
        """What the candidate answers, on the compute thread; nothing where it fails."""
        try:
            same_prompt = engine.model.receipt.prompt_digest == jobs[0].engine.model.receipt.prompt_digest
            tokens = [job.tokens if same_prompt else engine.encode(job.event) for job in jobs]
            return [score(engine.model, logits)[0] for logits in engine.classify(tokens).logits]
        except Exception:
            log.exception("shadow_failed", abstracts=len(jobs))
            return []

    def _count(self, cast: _Cast, batch: Sequence[Waiting], answers: Sequence[Answers]) -> None:
        self._abstracts.labels("scored" if answers else "failed").inc(len(batch))
        if not answers:
            cast.failed += len(batch)
            return
        for (_, live), own in zip(batch, answers, strict=True):
            cast.seen.add(live, own)
            for question in [name for name in live if name in own]:
                self._answers.labels(question, live[question]["label"], own[question]["label"]).inc()
                self._shift.labels(question).observe(own[question]["confidence"] - live[question]["confidence"])

    async def _say(self, cast: _Cast, *, ended: bool) -> None:
        update = cast.announced.update
        summary = ShadowSummary(
            worker=self._worker.config.name,
            name=update.name,
            version=update.version,
            digest=update.digest,
            live_digest=self._worker.engine.model.receipt.adapter_digest,
            abstracts=cast.seen.abstracts,
            changed=cast.seen.changed,
            dropped=cast.dropped,
            failed=cast.failed,
            questions=cast.seen.summary(),
            ended=ended,
        )
        log.info("shadow_seen", **summary.model_dump(include={"version", "abstracts", "changed", "dropped", "ended"}))
        await self._fleet.shadowed(cast.announced, summary)


def _take(waiting: deque[Waiting]) -> list[Waiting]:
    """The oldest few that make a small batch; one at least."""
    batch, longest = [waiting.popleft()], 0
    longest = len(batch[0][0].tokens.ids)
    while waiting and len(batch) < MOST_AT_ONCE:
        longest = max(longest, len(waiting[0][0].tokens.ids))
        if longest * (len(batch) + 1) > MOST_TOKENS_AT_ONCE:
            break
        batch.append(waiting.popleft())
    return batch
