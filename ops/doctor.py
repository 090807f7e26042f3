"""What is wrong with this installation, and how to mend it."""

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from ..schemas import AbstreamError
from ..schemas.artifacts import verify

Verdict = Literal["ok", "warning", "error", "out of reach"]
OLDEST_REDIS = (6, 2)
_SIGNS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  ", "out of reach": "ERROR  "}


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``remedy`` says what to do where the verdict is not ``ok``."""

    what: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(url: str, model: str, adapter: Path | None, *, as_json: bool) -> int:
    """Look at everything and print what was found; the exit code: 0 all can work, 1 not, 5 Redis is out of reach."""
    looks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _gpu,
        lambda: _redis(url),
        lambda: _model(model, adapter),
    ]
    findings = [finding for look in looks for finding in look()]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{_SIGNS[finding.verdict]}  {finding.what}: {finding.found}")
            if finding.remedy:
                print(f"         -> {finding.remedy}")
    verdicts = {finding.verdict for finding in findings}
    return 1 if "error" in verdicts else 5 if "out of reach" in verdicts else 0


def _python() -> Iterator[Finding]:
    yield Finding("Python", "ok", platform.python_version())  # an older one would not have installed abstream


def _packages() -> Iterator[Finding]:
    for name in ("torch", "transformers", "peft"):
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "error", "not installed", "pip install 'abstream[worker]'")


def _gpu() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        return
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        yield Finding("GPU", "ok", f"{torch.cuda.get_device_name()}, {free >> 20} of {total >> 20} MiB free")
    else:
        remedy = f"phi3-nano runs well on the CPU ({torch.get_num_threads()} threads); Phi-3-mini wants a GPU"
        yield Finding("GPU", "warning", "none that torch can use", remedy)


def _redis(url: str) -> Iterator[Finding]:
    try:
        with Redis.from_url(url, protocol=2, socket_connect_timeout=3, socket_timeout=3) as redis:
            info: Any = redis.info()
            yield from _server(info)
            yield from _memory(info)
            yield from _persistence(info, _setting(redis, "appendonly"))
    except (AuthenticationError, NoPermissionError) as error:
        yield Finding(
            "Redis", "error", str(error), "put the user and password into the URL: redis://USER:PASSWORD@HOST"
        )
    except (RedisError, ValueError) as error:
        remedy = "start Redis, or say where it is: --redis-url or REDIS_URL"
        yield Finding("Redis", "out of reach", f"{_without_password(url)}: {error}", remedy)


def _server(info: dict[str, Any]) -> Iterator[Finding]:
    version = info["redis_version"]
    if tuple(map(int, version.split(".")[:2])) >= OLDEST_REDIS:
        yield Finding("Redis", "ok", version)
    else:
        yield Finding("Redis", "error", version, "upgrade to Redis 6.2 or newer")


def _memory(info: dict[str, Any]) -> Iterator[Finding]:
    policy, limit = info.get("maxmemory_policy", "noeviction"), info.get("maxmemory", 0)
    if policy == "noeviction":
        yield Finding("Redis maxmemory-policy", "ok", policy)
    else:
        remedy = "CONFIG SET maxmemory-policy noeviction, or whole streams vanish when memory is short"
        yield Finding("Redis maxmemory-policy", "error" if limit else "warning", policy, remedy)


def _persistence(info: dict[str, Any], appendonly: str | None) -> Iterator[Finding]:
    if info.get("aof_enabled") or appendonly == "yes":
        yield Finding("Redis persistence", "ok", "append-only file")
    else:
        remedy = "CONFIG SET appendonly yes, or a restart forgets what came since the last snapshot"
        yield Finding("Redis persistence", "warning", "no append-only file", remedy)


def _setting(redis: Any, name: str) -> str | None:
    """A server setting, or None where CONFIG is not allowed, as in many hosted services."""
    try:
        return str(redis.config_get(name).get(name))
    except RedisError:
        return None


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _model(model: str, adapter: Path | None) -> Iterator[Finding]:
    """Load what would be served, and let it answer once."""
    try:
        from ..consumer.engine.config import EngineConfig
        from ..consumer.engine.phi3 import Phi3Engine
        from ..consumer.worker import PROBE
    except ImportError:
        return
    try:
        engine = Phi3Engine(EngineConfig(model=model), adapter=verify(adapter) if adapter else None)
        engine.classify([engine.encode(PROBE)])
    except AbstreamError as error:
        yield Finding(
            "model" if adapter is None else "model and adapter", "error", str(error), "see --model, --adapter"
        )
        return
    receipt = engine.model.receipt
    yield Finding("model", "ok", f"{receipt.base} {receipt.base_revision[:19]}, {receipt.dtype}, answers")
    if adapter:
        yield Finding("adapter", "ok", f"{receipt.adapter} {receipt.adapter_version} {receipt.adapter_digest}")
