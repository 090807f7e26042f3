"""The worker on one screen: read, validate, tokenize, batch, infer, commit.

Each lane of each shard has a reader, and one more reader takes over entries whose lease has expired. While the engine
computes a batch, about one more is ready and one is being committed. The rest stays in Redis for other workers.
"""

import asyncio
import time
from asyncio import Future, Queue
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
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

PART_BYTES = 1 << 20  # of a read are admitted or refused at once, because each copy of a large refusal costs memory

T = TypeVar("T")
Observer = Callable[[Inferred, list[Answered]], None]

log = structlog.get_logger()


class Stuck(AbstreamError):
    """A step hangs, and one of ``suspects`` is the cause. A thread cannot be stopped, so the process must end."""

    def __init__(self, said: str, suspects: Sequence[Delivery]) -> None:
        super().__init__(said)
        self.suspects = suspects


class Worker:
    """Moves abstracts from ``source`` through ``engine`` to ``sink``; the only class that knows the order of steps."""

    def __init__(self, config: WorkerConfig, source: Source, engine: Engine, sink: Sink, metrics: Metrics) -> None:
        self.config = config
        self.source = source
        self.engine = engine  # the live one; engines are immutable, and ``switch`` replaces it
        self.sink = sink
        self.metrics = metrics
        self.ready = Ready(config.max_batch_tokens)
        self.observers: list[Observer] = []  # called with every answered batch
        self.at_work = 0  # steps that are tokenizing or computing now; all other work is waiting
        # One thread runs every forward pass: of the live engine, of the engines before it, and of a shadow candidate.
        self.compute = _compute_thread()
        self._turn = asyncio.Lock()  # of a forward pass: none waits for the thread with its deadline running

    async def run(self) -> None:
        """Work until the source ends, then finish what is in hand.

        Raises:
            Stuck: tokenizing or computing took longer than ``batch_deadline_seconds``.
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
        """Stop reading, and begin no further batch: jobs that are ready go back to Redis for other workers."""
        self.source.stop()
        self.ready.leave()

    async def prepare(self) -> None:
        sources = [*map(self.source.new, self.source.inlets), self.source.expired()]
        readers = [asyncio.create_task(self.read(deliveries)) for deliveries in sources]
        try:
            await asyncio.gather(*readers)
        finally:
            await end(readers)
        self.ready.close()

    async def read(self, source: AsyncGenerator[list[Delivery], None]) -> None:
        """Admit the deliveries of one source, as long as there is room for them."""
        async with aclosing(source):
            async for deliveries in source:
                while deliveries:
                    # A part gets no name here: the name would keep it in memory until the next, and it may be large.
                    lane = deliveries[0].lane
                    await self.ready.put(lane, await self.accepted(take(deliveries, PART_BYTES)))

    async def accepted(self, part: list[Delivery]) -> list[Job]:
        """The jobs among these deliveries; what cannot be answered is refused."""
        jobs, refused = await self.in_time(asyncio.get_running_loop().run_in_executor(None, self.admit, part), part)
        part.clear()  # its texts are in the jobs and refusals now
        if refused:
            await self.commit(refused)
        return jobs

    async def infer(self, done: Queue[Inferred | None]) -> None:
        while batch := await self.ready.next():
            for inferred in await self.computed(batch):
                await done.put(inferred)
                del inferred
            del batch  # a name would keep it in memory until the next batch
        await done.put(None)

    async def computed(self, batch: Batch) -> list[Inferred]:
        # A lease may have expired while the process was paused. Another worker has the abstract then.
        ours = [job for job in batch if self.source.holds(job.delivery)]
        return await self.forward(lambda: self.classify(ours), [job.delivery for job in ours])

    async def forward(self, run: Callable[[], T], deliveries: Sequence[Delivery]) -> T:
        """The result of a forward pass on the compute thread, which begins when the pass before it has ended.

        A pass that hangs, or whose caller is cancelled, keeps its thread, and the next pass gets a new one.

        Args:
            run: the pass.
            deliveries: are suspects if it hangs.

        Raises:
            Stuck: it takes longer than ``batch_deadline_seconds``.
        """
        async with self._turn:
            computing = asyncio.get_running_loop().run_in_executor(self.compute, run)
            try:
                with self.metrics.health.computing():
                    return await self.in_time(computing, deliveries)
            finally:
                if not computing.done():
                    self.compute.shutdown(wait=False)
                    self.compute = _compute_thread()

    async def in_time(self, step: Future[T], deliveries: Sequence[Delivery]) -> T:
        """The result of a step that works on these deliveries.

        Raises:
            Stuck: it takes longer than ``batch_deadline_seconds``.
        """
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
        """Let ``engine`` answer what is read from now on; the engine that tokenized a job also answers it."""
        self.engine = engine
        self.metrics.serving(engine.model)

    def admit(self, deliveries: list[Delivery]) -> tuple[list[Job], list[Answered]]:
        """Validate and tokenize, all with one engine; what cannot be answered is refused."""
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
        """Run one forward pass on the compute thread; if it fails, one for each abstract, to find the one at fault."""
        if not batch:
            return []
        begun, engine = time.perf_counter(), batch[0].engine
        try:
            classified = engine.classify([job.tokens for job in batch])
        except Exception:
            log.exception("inference_failed", abstracts=len(batch), **traces(batch))
            if len(batch) > 1:
                return [inferred for job in batch for inferred in self.classify([job])]
            engine.classify([engine.encode(PROBE)])  # if this fails too, the engine is at fault and the worker must end
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


def _compute_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="compute")
