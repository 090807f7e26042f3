"""The worker on one screen: read, validate, tokenize, batch, infer, commit.

Each lane of each shard has a reader, and so has what other workers let go. While the engine computes a batch, about one
stands ready behind it and one is being committed; what does not fit stays in Redis, where another worker can take it.
"""

import asyncio
import time
from asyncio import Future, Queue
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from structlog.contextvars import bound_contextvars

from ..schemas import Abstract, AbstreamError, Malformed, Submission
from ..schemas.streams import submitted_from_fields
from .answers import answer, refusal
from .commits import Commits
from .config import WorkerConfig
from .engine import Engine
from .metrics import Metrics
from .ready import Ready
from .sink import Sink
from .source import Source
from .stages import Answered, Batch, Delivery, Inferred, Job, take, traces
from .tasks import end

PROBE = Abstract(title="A sound abstract", abstract="If the engine fails on this one, the engine is at fault.")

PART_BYTES = 1 << 20  # of a read, admitted and refused together: each copy of a large refusal costs its size

T = TypeVar("T")
Observer = Callable[[Inferred, list[Answered]], None]

log = structlog.get_logger()


class Stuck(AbstreamError):
    """A step does not come to its end, one of ``suspects`` is why: only the end of the process can stop it."""

    def __init__(self, said: str, suspects: Sequence[Delivery]) -> None:
        super().__init__(said)
        self.suspects = suspects


class Worker:
    """Moves abstracts from ``source`` through ``engine`` to ``sink``; only it knows the order."""

    def __init__(self, config: WorkerConfig, source: Source, engine: Engine, sink: Sink, metrics: Metrics) -> None:
        self.config = config
        self.source = source
        self.engine = engine  # the live one; an engine never changes, another takes its place (``switch``)
        self.sink = sink
        self.metrics = metrics
        self.ready = Ready(config.max_batch_tokens)
        self.observers: list[Observer] = []  # told of what was answered
        self.at_work = 0  # steps that tokenize or compute now: all else that it does is to wait
        # One thread runs every forward pass of the live engine and of those before it.
        self.compute = ThreadPoolExecutor(1, thread_name_prefix="compute")

    async def run(self) -> None:
        """Work until the source ends, then finish all that is in hand.

        Raises:
            Stuck: to tokenize or to compute a few took longer than ``batch_deadline_seconds``.
        """
        tasks = [asyncio.create_task(self.work()), asyncio.create_task(self.source.renew_leases())]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*ended)  # raises the error of either: without leases others take what is in hand
        finally:
            await end(tasks)
            self.compute.shutdown(wait=False, cancel_futures=True)

    async def work(self) -> None:
        done: Queue[Inferred | None] = Queue(1)
        steps = [asyncio.create_task(step) for step in (self.prepare(), self.infer(done), self.finish(done))]
        try:
            await asyncio.gather(*steps)
        finally:
            await end(steps)

    def leave(self) -> None:
        """Read no more and begin no batch: what stands ready is for others."""
        self.source.stop()
        self.ready.leave()

    async def prepare(self) -> None:
        sources = [*map(self.source.new, self.source.inlets), self.source.let_go()]
        readers = [asyncio.create_task(self.read(deliveries)) for deliveries in sources]
        try:
            await asyncio.gather(*readers)
        finally:
            await end(readers)
        self.ready.close()

    async def read(self, source: AsyncIterator[list[Delivery]]) -> None:
        """Deliveries of one lane at a time, no more than there is room for."""
        async for deliveries in source:
            while deliveries:
                # No name for a part here: it would be held on to until the next is there, and may be large.
                lane = deliveries[0].lane
                await self.ready.put(lane, await self.accepted(take(deliveries, PART_BYTES)))

    async def accepted(self, part: list[Delivery]) -> list[Job]:
        """Of these what can be answered; the rest is refused."""
        jobs, refused = await self.in_time(asyncio.get_running_loop().run_in_executor(None, self.admit, part), part)
        part.clear()  # its texts stand in the jobs and refusals
        if refused:
            await self.commit(refused)
        return jobs

    async def infer(self, done: Queue[Inferred | None]) -> None:
        while batch := await self.ready.next():
            for inferred in await self.computed(batch):
                await done.put(inferred)
                del inferred
            del batch  # what is handed on is not held here until the next is there: no cache would have it any more
        await done.put(None)

    async def computed(self, batch: Batch) -> list[Inferred]:
        # A lease may have run out while the process was paused: then another worker has the abstract.
        ours = [job for job in batch if self.source.holds(job.delivery)]
        computing = asyncio.get_running_loop().run_in_executor(self.compute, self.classify, ours)
        with self.metrics.health.computing():
            return await self.in_time(computing, [job.delivery for job in ours])

    async def in_time(self, step: Future[T], deliveries: Sequence[Delivery]) -> T:
        """The result of a step that has these in hand; a thread that does not come to its end cannot be stopped."""
        self.at_work += 1
        try:
            await asyncio.wait([step], timeout=self.config.batch_deadline_seconds)
        finally:
            self.at_work -= 1
        if not step.done():
            seconds = self.config.batch_deadline_seconds
            raise Stuck(f"{len(deliveries)} abstracts took more than {seconds:g} s", deliveries)
        return step.result()

    async def finish(self, done: Queue[Inferred | None]) -> None:
        commits = Commits(self.commit, self.sink.shards)
        try:
            while inferred := await done.get():
                answered = answer(inferred, self.config.name)
                with bound_contextvars(**traces(inferred.batch)):
                    await commits.make(self.sink.parts(answered))
                for observe in self.observers:
                    observe(inferred, answered)
                del inferred, answered
            await commits.rest()
        finally:
            await commits.end()

    def switch(self, engine: Engine) -> None:
        """Let ``engine`` answer what is read from now on; what is in hand is finished by the one that tokenized it."""
        self.engine = engine
        self.metrics.serving(engine.model)

    def admit(self, deliveries: list[Delivery]) -> tuple[list[Job], list[Answered]]:
        """Validate and tokenize, all for one engine; what cannot be answered is refused."""
        engine = self.engine
        jobs: list[Job] = []
        refused: list[Answered] = []
        with self.metrics.tokenize_seconds.time():
            for delivery in deliveries:
                event = None
                try:
                    event = self.validate(delivery)
                    if delivery.attempt > self.config.max_deliveries:
                        tries = delivery.attempt - 1
                        raise Malformed("max_deliveries", f"{tries} workers were lost or stuck while they held it")
                    jobs.append(Job(delivery, event, engine.encode(event), engine))
                except Malformed as problem:
                    refused.append(refusal(delivery, problem, self.config.name, event))
        return jobs, refused

    def validate(self, delivery: Delivery) -> Submission:
        if delivery.fields is None:
            raise Malformed("trimmed", "the entry was trimmed from the stream before it was answered: send it again")
        return submitted_from_fields(delivery.lane, delivery.entry_id, delivery.fields)

    def classify(self, batch: Batch) -> list[Inferred]:
        """One forward pass, on the compute thread; where it fails, one for each abstract, to find the one at fault."""
        if not batch:
            return []
        begun, engine = time.perf_counter(), batch[0].engine
        try:
            classified = engine.classify([job.tokens for job in batch])
        except Exception:
            log.exception("inference_failed", abstracts=len(batch), **traces(batch))
            if len(batch) > 1:
                return [inferred for job in batch for inferred in self.classify([job])]
            engine.classify([engine.encode(PROBE)])  # if this fails too, the worker must go, not the abstract
            classified = None
        seconds = time.perf_counter() - begun
        self.metrics.inferred([len(job.tokens.ids) for job in batch], seconds)
        return [Inferred(batch, classified, seconds, time.time() * 1000)]

    async def commit(self, answered: list[Answered]) -> None:
        with self.metrics.commit_seconds.time():
            outcomes = await self.sink.commit(answered)
        self.source.settle(entry.delivery for entry in answered)
        self.metrics.committed(answered, outcomes)
        log.info(
            "batch_committed", abstracts=len(answered), outcomes=[outcome.name.lower() for outcome in set(outcomes)]
        )
