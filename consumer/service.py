"""The life of a worker process: connect, load, work, drain, leave."""

import asyncio
import gc
import signal
from collections.abc import Callable

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ..schemas import Streams, VerifiedAdapter
from .adapters.fleet import Fleet
from .adapters.registry import Registry
from .adapters.watch import Watch
from .config import WorkerConfig
from .engine import Engine
from .metrics import Metrics
from .sink import Sink
from .source import Source
from .stages import Batch, Delivery
from .tasks import end
from .upkeep import Upkeep
from .worker import PROBE, Stuck, Worker

log = structlog.get_logger()


async def serve(
    redis: Redis,
    streams: Streams,
    config: WorkerConfig,
    load_engine: Callable[[VerifiedAdapter | None], Engine],
    metrics: Metrics,
    *,
    follow: bool = True,
) -> None:
    """Run one worker until SIGTERM or SIGINT, or with ``burst`` until nothing is left to read.

    The first signal stops reading and finishes the batch at work; all else in hand is given back, to be taken by
    others at once, and so is that batch when ``drain_seconds`` are over. A second signal leaves at once: the entries
    in hand are taken over when their lease ends.

    Args:
        redis: a client that repeats no command by itself.
        streams: of the namespace.
        config: of this worker.
        load_engine: makes the engine that serves an adapter; for None the one to begin with.
        metrics: of this worker.
        follow: switch to the adapters that are announced, before anything is read to the newest.

    Raises:
        redis.exceptions.ConnectionError: Redis is out of reach at the start. Later, the worker waits for it.
        ModelUnusable, AdapterRefused, Unavailable: there is nothing to serve with.
        Stuck: a batch does not come to its end; the process must end by ``os._exit``, or it waits for the batch.
    """
    source = Source(redis, streams, config, metrics)
    await source.create_groups()
    engine = await asyncio.to_thread(load_engine, None)
    await asyncio.to_thread(engine.classify, [engine.encode(PROBE)])  # nothing is read before the engine has answered
    metrics.serving(engine.model.receipt)
    worker = Worker(config, streams, source, engine, Sink(redis, streams, metrics), metrics)
    registry = Registry(worker, Watch(redis, streams, metrics), Fleet(redis, streams, metrics), load_engine)
    if follow:
        await registry.catch_up()
    gc.collect()
    gc.freeze()  # what was loaded lives as long as the process: no collection looks at it again
    beside = [Upkeep(redis, streams, config, metrics).run(), *([registry.follow()] if follow else [])]
    await _until_drained(worker, [asyncio.create_task(one) for one in beside], config.drain_seconds)
    log.info("worker_left", worker=config.name)


async def _until_drained(worker: Worker, beside: list[asyncio.Task[None]], drain_seconds: float) -> None:
    """Return when the work has ended, or was ended; where what runs beside it fails, the rest is finished first."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # the next one has its default effect
        log.info("worker_draining")
        worker.metrics.health.draining()
        worker.leave()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    worker.metrics.health.ready()
    log.info("worker_ready", worker=worker.config.name, **worker.engine.model.receipt.model_dump())
    asked = asyncio.create_task(stopping.wait())
    work = asyncio.create_task(worker.run())
    stuck: Batch = []
    try:
        await asyncio.wait([work, asked, *beside], return_when=asyncio.FIRST_COMPLETED)
        worker.source.stop()
        ended = [task for task in beside if task.done()]
        await end(beside)  # no switch begins while the worker leaves
        await asyncio.wait([work], timeout=drain_seconds)
        ended += [work] if work.done() else []
        await end([work])
        await asyncio.gather(*ended)  # the error that one ended in is the process's error
    except Stuck:
        stuck = worker.at_work
        raise
    finally:
        asked.cancel()
        await _hand_back(worker.source, [job.delivery for job in stuck])


async def _hand_back(source: Source, suspects: list[Delivery]) -> None:
    try:
        if released := await source.release(suspects):
            log.warning("entries_released", entries=released)
    except RedisError as error:
        log.warning("entries_not_released", error=type(error).__name__)  # their lease will run out
