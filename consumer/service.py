"""The life of a worker process: connect, load, work, drain, leave."""

import asyncio
import signal
from collections.abc import Callable

import structlog
from redis.asyncio import Redis

from ..schemas import Streams
from .config import WorkerConfig
from .engine import Engine
from .metrics import Metrics
from .patience import AWAY
from .sink import Sink
from .source import Source
from .tasks import end
from .worker import PROBE, Worker

log = structlog.get_logger()


async def serve(
    redis: Redis, streams: Streams, config: WorkerConfig, load_engine: Callable[[], Engine], metrics: Metrics
) -> None:
    """Run one worker until SIGTERM or SIGINT, or with ``burst`` until nothing is left to read.

    The first signal stops reading and finishes what is in hand; what is not finished after ``drain_seconds``
    is handed back. A second signal leaves at once: the entries in hand are taken over when their lease ends.

    Raises:
        redis.exceptions.ConnectionError: Redis is out of reach at the start. Later, the worker waits for it.
        ModelUnusable, AdapterRefused, Unavailable: there is nothing to serve with.
    """
    source = Source(redis, streams, config, metrics)
    await source.create_groups()
    engine = await asyncio.to_thread(load_engine)
    await asyncio.to_thread(engine.classify, [engine.encode(PROBE)])  # nothing is read before the engine has answered
    metrics.serving(engine.model.receipt)
    worker = Worker(config, streams, source, engine, Sink(redis, streams, metrics), metrics)
    log.info("worker_ready", worker=config.name, **engine.model.receipt.model_dump())
    await _until_drained(asyncio.create_task(worker.run()), source, config.drain_seconds)
    log.info("worker_left", worker=config.name)


async def _until_drained(work: asyncio.Task[None], source: Source, drain_seconds: float) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # the next one has its default effect
        log.info("worker_draining")
        source.stop()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    asked = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([work, asked], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([work], timeout=drain_seconds)
        if work.done():
            await work  # its error, if it ended in one, is the process's error
        else:
            await end([work])
    finally:
        asked.cancel()
        await _hand_back(source)


async def _hand_back(source: Source) -> None:
    try:
        if released := await source.release():
            log.warning("entries_released", entries=released)
    except AWAY as error:
        log.warning("entries_not_released", error=type(error).__name__)  # their lease will run out
