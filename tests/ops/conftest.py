"""The command line in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def abstream(server, namespace, tmp_path, monkeypatch) -> "Callable[..., subprocess.CompletedProcess[bytes]]":
    """Run ``abstream …`` in a folder of its own, with a store of its own."""
    folders = {"ABSTREAM_STORE": str(tmp_path / "store"), "ABSTREAM_ADAPTER_CACHE": str(tmp_path / "cache")}
    for name, value in {"REDIS_URL": server, "ABSTREAM_NAMESPACE": namespace, **folders}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> "subprocess.CompletedProcess[bytes]":
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-m", "abstream.ops", *map(str, arguments)]
        return subprocess.run(command, input=stdin, capture_output=True, cwd=tmp_path, check=False, timeout=120)

    return run
