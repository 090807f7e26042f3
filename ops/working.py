"""From flags to a running worker."""

import os
import sys
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from .. import __version__
from ..consumer.backlog import ANSWER_SECONDS, BacklogGauges, Broker, RedisGauges
from ..consumer.config import WorkerConfig
from ..consumer.endpoints import Endpoints, readiness
from ..consumer.engine import Engine
from ..consumer.engine.config import EngineConfig
from ..consumer.health import Health
from ..consumer.memory import settle_memory
from ..consumer.metrics import GpuMemory, Metrics
from ..consumer.service import serve
from ..consumer.shards import Shard
from ..consumer.worker import Observer, Stuck
from ..producer.connection import Connections, connect_blocking
from ..schemas import ONCOLOGY, Shards, Task, VerifiedAdapter
from ..schemas.artifacts import verify
from .admitting import PLAIN, admitted
from .settings import adapter_folder, budgets_file, shipped_model

if TYPE_CHECKING:
    from ..consumer.engine.merging import Base


def load_engine(flags: dict[str, Any], task: Task | None = None, adapter: VerifiedAdapter | None = None) -> Engine:
    """What the flags ask for, or with another ``task`` or ``adapter``; torch is imported only for the real engine."""
    task = task or (Task.from_file(flags["task"]) if flags["task"] else None)
    model = flags["model"] if flags["engine"] == "torch" else "fake"
    folder = adapter_folder(flags["adapter"], model, own_task=task is not None)
    task = task or ONCOLOGY
    if adapter is None and folder:
        adapter = verify(folder)
    if flags["engine"] == "fake":
        from ..consumer.engine.fake import FakeEngine

        return FakeEngine(task, flags["max_prompt_tokens"], adapter)
    if flags["engine"] == "chaos":
        from .chaos.engine import ChaosEngine

        return ChaosEngine(flags["engine_milliseconds"], task, flags["max_prompt_tokens"], adapter)
    from ..consumer.engine.phi3 import Phi3Engine

    config = EngineConfig(
        model=shipped_model(model),
        revision=flags["model_revision"],
        budgets=budgets_file(),
        slots=flags.get("slots", ()),
        **{name: flags[name] for name in ("device", "dtype", "max_prompt_tokens", "threads")},
    )
    return Phi3Engine(config, task=task, adapter=adapter, base=_base(config))


def served_engine(flags: dict[str, Any], adapter: VerifiedAdapter | None = None) -> Engine:
    """As ``load_engine``; eight bits only where they were admitted, else bfloat16."""
    plain = flags | {"dtype": PLAIN}
    return admitted(load_engine(flags, adapter=adapter), lambda: load_engine(plain, adapter=adapter))


@lru_cache(2)  # in eight bits, and in bfloat16
def _base(config: EngineConfig) -> "Base":
    """A process reads its base model once, whatever adapters follow each other."""
    from ..consumer.engine.merging import Base

    return Base(config)


async def run_worker(url: str, shards: Shards, flags: dict[str, Any], *, tracing: bool = False) -> None:
    """Connect, load, work, drain, and end the process. A worker that was given an adapter keeps it; any other follows
    the adapter stream.
    """
    settle_memory()
    config = WorkerConfig(**{name: flags[name] for name in WorkerConfig.model_fields})
    metrics = Metrics(__version__, Health(config.batch_deadline_seconds))
    if flags["metrics_port"] is not None:
        _serve_endpoints(flags["metrics_port"], metrics, broker_at(url, shards))
        if flags["engine"] == "torch":
            from ..consumer.engine.memory import gpu_memory_bytes

            metrics.registry.register(GpuMemory(gpu_memory_bytes))
    connections = Connections(url, shards)
    try:
        follow = flags["adapter"] in ("auto", "none")
        await serve(
            Shard(*connections.control),
            [Shard(*shard) for shard in connections.shards],
            config,
            lambda adapter: served_engine(flags, adapter),
            metrics,
            follow=follow,
            observers=_spans() if tracing else (),
        )
    except Stuck as stuck:
        structlog.get_logger().error("worker_stuck", reason=str(stuck))
        _leave(1, tracing)
    else:
        _leave(0, tracing)
    finally:
        await connections.aclose()


def broker_at(url: str, shards: Shards) -> Broker:
    """What reads the backlog of all shards."""
    return Broker([(connect_blocking(url, streams, answer_seconds=ANSWER_SECONDS), streams) for streams in shards.all])


def _spans() -> list[Observer]:
    from ..consumer.tracing import Spans

    return [Spans().observe]


def _leave(code: int, tracing: bool) -> NoReturn:
    """End the process at once: a normal exit would wait for a batch handed back or an adapter being loaded."""
    if tracing:
        from .tracing import flush

        flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve_endpoints(port: int, metrics: Metrics, broker: Broker) -> None:
    """Serve from before the model is loaded until the process ends: loading and draining workers answer too."""
    metrics.registry.register(BacklogGauges(broker))
    metrics.registry.register(RedisGauges(broker))
    health = metrics.health
    endpoints = Endpoints(port, metrics.registry, health.wedged, partial(readiness, health, broker))
    endpoints.start()
    structlog.get_logger().info("metrics_served", port=endpoints.server_port)
