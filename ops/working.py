"""From flags to a running worker."""

from typing import Any

import structlog

from .. import __version__
from ..consumer.config import WorkerConfig
from ..consumer.engine import Engine
from ..consumer.engine.config import EngineConfig
from ..consumer.metrics import Metrics
from ..consumer.service import serve
from ..producer.connection import connect
from ..schemas import ONCOLOGY, Streams, Task
from ..schemas.artifacts import verify
from .settings import shipped_model


def load_engine(flags: dict[str, Any], task: Task | None = None) -> Engine:
    """The engine that the flags ask for, or with another ``task``; torch is imported only for the real one."""
    task = task or (Task.from_file(flags["task"]) if flags["task"] else ONCOLOGY)
    if flags["engine"] == "fake":
        from ..consumer.engine.fake import FakeEngine

        return FakeEngine(task, flags["max_prompt_tokens"])
    from ..consumer.engine.phi3 import Phi3Engine

    config = EngineConfig(
        model=shipped_model(flags["model"]),
        revision=flags["model_revision"],
        **{name: flags[name] for name in ("device", "dtype", "max_prompt_tokens", "threads")},
    )
    return Phi3Engine(config, task=task, adapter=verify(flags["adapter"]) if flags["adapter"] else None)


async def run_worker(url: str, namespace: str, flags: dict[str, Any]) -> None:
    """Connect, load, work, drain."""
    config = WorkerConfig(**{name: flags[name] for name in WorkerConfig.model_fields})
    metrics = Metrics(__version__)
    if flags["metrics_port"] is not None:
        port = metrics.serve(flags["metrics_port"])
        structlog.get_logger().info("metrics_served", port=port)
    redis = connect(url)
    try:
        await serve(redis, Streams(namespace), config, lambda: load_engine(flags), metrics)
    finally:
        await redis.aclose()
