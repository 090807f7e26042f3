"""What is wrong with this installation, and how to mend it."""

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from ..schemas import AbstreamError, Shards
from ..schemas.artifacts import verify
from .finding import Finding
from .redis_doctor import examine_redis

_SIGNS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  ", "out of reach": "ERROR  "}


def examine(url: str, shards: Shards, model: str, adapter: Path | None, cache: Path, *, as_json: bool) -> int:
    """Look at everything and print what was found; the exit code: 0 all can work, 1 not, 5 Redis is out of reach."""
    looks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _gpu,
        lambda: examine_redis(url, shards),
        lambda: _model(model, adapter),
        lambda: _cache(cache),
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
        remedy = f"phi3-nano runs well on the CPU ({torch.get_num_threads()} threads); Phi-3-mini needs a GPU"
        yield Finding("GPU", "warning", "torch finds none", remedy)


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


def _cache(folder: Path) -> Iterator[Finding]:
    """Where announced adapters are copied to, or will be."""
    what, there = "adapter cache", folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        yield Finding(what, "ok", f"{folder}, {shutil.disk_usage(there).free >> 20} MiB free")
    else:
        found = f"{there} is not a folder" if there.exists() and not there.is_dir() else f"{there} is not writable"
        yield Finding(what, "error", found, "set ABSTREAM_ADAPTER_CACHE to a folder that this user can write to")
