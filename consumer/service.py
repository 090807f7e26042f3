"""The life of a worker process: connect, load, work, drain, leave."""

import asyncio
import gc
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog
from redis.exceptions import RedisError

from ..schemas import VerifiedAdapter
from .adapters.fleet import Fleet
from .adapters.registry import Registry
from .adapters.watch import Watch
from .config import WorkerConfig
from .drift import Drift
from .engine import Engine
from .eviction import warn_of_eviction
from .membership import Membership
from .mesh import MeshAgreement
from .metrics import Metrics
from .shards import Shard, inlets
from .sink import Outlet, Sink
from .source import Source
from .stages import Delivery
from .tasks import end
from .upkeep import Upkeep
from .worker import PROBE, Observer, Stuck, Worker

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HAND_BACK_SECONDS = 1.0  # of the drain is kept for handing back what is not finished; half of a short drain
_AWAY_SECONDS = 3.0  # that a Redis that is away has to come back: about as long as a restart or a fail-over
_LOOK_SECONDS = 0.1  # between two checks of that

log = structlog.get_logger()


async def serve(
    control: Shard,
    shards: Sequence[Shard],
    config: WorkerConfig,
    load_engine: Callable[[VerifiedAdapter | None], Engine],
    metrics: Metrics,
    *,
    follow: bool = True,
    observers: Sequence[Observer] = (),
) -> None:
    """Run one worker until SIGTERM or SIGINT, or with ``burst`` until nothing is left to read.

    The first signal stops reading and finishes the batch at work. Everything else in hand is handed back, so that
    other workers can take it at once, and so is that batch if it takes longer than ``drain_seconds``. If Redis stays
    away, or after a second signal, which ends the process at once, other workers take it over when its lease expires.
    The caller must end the process by ``os._exit``, or Python waits for the batch that was handed back.

    Args:
        control: the shard with the adapter and fleet streams; with one shard, that shard.
        shards: all shards of the namespace.
        config: of this worker.
        load_engine: makes the engine that serves an adapter, or for None the initial engine.
        metrics: of this worker.
        follow: switch to announced adapters; to the newest one before anything is read.
        observers: called with every answered batch.

    Raises:
        redis.exceptions.ConnectionError: Redis is out of reach at the start. Later, the worker waits for it.
        ModelUnusable, AdapterRefused, Unavailable: no engine could be loaded.
        Stuck: tokenizing or computing hangs.
    """
    source = Source(inlets(shards, config.name), config, metrics)
    await source.create_groups()
    for shard in shards:
        await warn_of_eviction(shard.redis)
    sink = Sink([Outlet(*shard, metrics.of_shard(number)) for number, shard in enumerate(shards)])
    # The engine gets no name here: the worker owns it, and drops it at the first switch.
    worker = Worker(config, source, await _answering(load_engine, metrics), sink, metrics)
    registry = Registry(worker, Watch(*control, metrics), Fleet(*control, metrics), load_engine)
    if follow:
        await registry.catch_up()
    worker.observers += [*_comparisons(worker), *observers]
    _spare_the_collector()
    beside = [Upkeep(*shard, config, metrics).run() for shard in shards]
    beside += [registry.follow()] if follow else []
    if len(shards) > 1 and not config.burst:
        membership = Membership(*control, config.name, source, metrics)
        await membership.join()
        beside.append(membership.run())
    await _until_drained(worker, [asyncio.create_task(one) for one in beside], config.drain_seconds)
    log.info("worker_left", worker=config.name)


async def _answering(load_engine: Callable[[VerifiedAdapter | None], Engine], metrics: Metrics) -> Engine:
    """The initial engine, after it has answered a probe."""
    engine = await asyncio.to_thread(load_engine, None)
    await asyncio.to_thread(engine.classify, [engine.encode(PROBE)])
    metrics.serving(engine.model)
    return engine


def _spare_the_collector() -> None:
    """What was loaded lives as long as the process, so the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)  # by default it runs every thirty abstracts, which costs 4 µs each, and finds nothing


def _comparisons(worker: Worker) -> list[Observer]:
    """Compare answers with those of the adapter's validation, and with the MeSH headings that came along."""
    drift, headings = Drift(lambda: worker.engine.model), MeshAgreement(worker.metrics.registry)
    worker.metrics.registry.register(drift)
    return [drift.observe, headings.observe]


async def _until_drained(worker: Worker, beside: list[asyncio.Task[None]], drain_seconds: float) -> None:
    """Return when the work has ended or was stopped; if a task beside it fails, what is in hand is finished first."""
    stopping = asyncio.Event()
    hand_back_seconds = min(_HAND_BACK_SECONDS, drain_seconds / 2)

    def leave() -> None:
        log.info("worker_draining")
        worker.metrics.health.draining()
        worker.leave()
        stopping.set()

    with _at_signal(leave):
        worker.metrics.health.ready()
        log.info("worker_ready", worker=worker.config.name, **worker.engine.model.receipt.model_dump())
        asked = asyncio.create_task(stopping.wait())
        work = asyncio.create_task(worker.run())
        suspects: Sequence[Delivery] = []
        try:
            await asyncio.wait([work, asked, *beside], return_when=asyncio.FIRST_COMPLETED)
            worker.source.stop()
            ended = [task for task in beside if task.done()]
            await end(beside)  # no switch begins while the worker leaves
            await _finish(worker, work, drain_seconds - hand_back_seconds)
            ended = [*([work] if work.done() else []), *ended]
            await end([work])
            await asyncio.gather(*ended)  # the error that one ended in is the process's error
        except Stuck as stuck:
            suspects = stuck.suspects
            raise
        finally:
            asked.cancel()
            await _hand_back(worker.source, suspects, hand_back_seconds)


async def _finish(worker: Worker, work: asyncio.Task[None], seconds: float) -> None:
    """Wait until what is in hand is finished, for ``seconds`` at most, or ``_AWAY_SECONDS`` if only Redis is awaited.

    A Redis that has stopped answering counts as away only after the client's timeout of five seconds. So the worker's
    own work counts here as well.
    """
    now = time.monotonic()
    until, progress = now + seconds, now
    while not work.done() and now < min(until, progress + _AWAY_SECONDS):
        await asyncio.wait([work], timeout=min(_LOOK_SECONDS, until - now))
        now = time.monotonic()
        if worker.at_work and not worker.source.waits_in_vain:
            progress = now


@contextmanager
def _at_signal(leave: Callable[[], None]) -> Iterator[None]:
    """Within the block, the first signal calls ``leave`` and the second one ends the process."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def asked() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # Python's handler of SIGINT would wait for the compute thread
        leave()

    for number in _SIGNALS:
        loop.add_signal_handler(number, asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


async def _hand_back(source: Source, suspects: Sequence[Delivery], seconds: float) -> None:
    try:
        if released := await asyncio.wait_for(source.release(suspects), seconds):
            log.warning("entries_released", entries=released)
    except (RedisError, asyncio.TimeoutError) as error:
        log.warning("entries_not_released", error=type(error).__name__)  # their lease will expire
