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
_HAND_BACK_SECONDS = 1.0  # of the drain, for what is not finished; of a short one half
_AWAY_SECONDS = 3.0  # for a Redis that is away, to take what is in hand: as long as a restart or a fail-over takes
_LOOK_SECONDS = 0.1  # between two looks whether it is

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

    The first signal stops reading and finishes the batch at work; all else in hand is given back, to be taken by
    others at once, and so is that batch if ``drain_seconds`` do not suffice. Where Redis is away for long, and at a
    second signal, which ends the process at once, it is left, to be taken over when its lease ends. The caller must
    end the process by ``os._exit``, or Python waits for the batch that was given back.

    Args:
        control: has the streams of adapters and the fleet; where there is one shard, it is that.
        shards: of the namespace, all of them.
        config: of this worker.
        load_engine: makes the engine that serves an adapter; for None the one to begin with.
        metrics: of this worker.
        follow: switch to the adapters that are announced, before anything is read to the newest.
        observers: are told of each batch that was answered.

    Raises:
        redis.exceptions.ConnectionError: Redis is out of reach at the start. Later, the worker waits for it.
        ModelUnusable, AdapterRefused, Unavailable: there is nothing to serve with.
        Stuck: to tokenize or to compute a few does not come to its end.
    """
    source = Source(inlets(shards, config.name), config, metrics)
    await source.create_groups()
    for shard in shards:
        await warn_of_eviction(shard.redis)
    sink = Sink([Outlet(*shard, metrics.of_shard(number)) for number, shard in enumerate(shards)])
    # No name for the engine here: it is the worker's, and goes at the first switch.
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
    """The engine to begin with; nothing is read before it has answered."""
    engine = await asyncio.to_thread(load_engine, None)
    await asyncio.to_thread(engine.classify, [engine.encode(PROBE)])
    metrics.serving(engine.model)
    return engine


def _spare_the_collector() -> None:
    """What was loaded lives as long as the process: no collection looks at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)  # by default it looks every thirty abstracts, which is 4 µs each, and finds nothing


def _comparisons(worker: Worker) -> list[Observer]:
    """Of its answers with what was expected of them, and with the headings that came along."""
    drift, headings = Drift(lambda: worker.engine.model), MeshAgreement(worker.metrics.registry)
    worker.metrics.registry.register(drift)
    return [drift.observe, headings.observe]


async def _until_drained(worker: Worker, beside: list[asyncio.Task[None]], drain_seconds: float) -> None:
    """Return when the work has ended, or was ended; where what runs beside it fails, the rest is finished first."""
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
    """Wait for what is in hand, so long at most, and not for long where all that it waits for is Redis.

    A Redis that has gone without a word is known to be away only after the client's timeout of some seconds.
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
    """While the block lasts, the first signal calls ``leave`` and the second one ends the process."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def asked() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # Python's own for SIGINT would wait for what still computes
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
        log.warning("entries_not_released", error=type(error).__name__)  # their lease will run out
