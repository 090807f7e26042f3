"""Worker processes, as an operator starts them; one that ends is started again."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from ...consumer.tasks import end
from ...schemas import AbstreamError
from .waiting import until, within

PATIENCE_SECONDS = 60  # for a worker to be ready, or to leave
_RESTART_SECONDS = 0.2  # before one is started again that was never ready
_STATUS = Path("/proc")


class WorkerProcess:
    """A running ``abstream work``."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self._log = log
        self._events: dict[str, dict[str, Any]] = {}

    @property
    def is_ready(self) -> bool:
        """Whether it is running and has begun to read."""
        return self.process.returncode is None and self.was_ready

    @property
    def was_ready(self) -> bool:
        """Whether it ever began to read."""
        return self._said("worker_ready") is not None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a counter from ``/metrics``, over the labels that are not given."""
        said = self._said("metrics_served")
        assert said, "a worker that is ready has said where its metrics are"

        def scrape() -> str:
            with urlopen(f"http://127.0.0.1:{said['port']}/metrics", timeout=5) as reply:
                return str(reply.read().decode())

        families = text_string_to_metric_families(await asyncio.to_thread(scrape))
        samples = (sample for family in families for sample in family.samples)
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    def memory_bytes(self) -> int:
        """Its memory now (Linux)."""
        pages = (_STATUS / str(self.process.pid) / "statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Its CPU time so far (Linux)."""
        fields = (_STATUS / str(self.process.pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _said(self, event: str) -> dict[str, Any] | None:
        """The first complete line of its log with this event."""
        if event not in self._events:
            for line in self._log.read_text(errors="replace").splitlines(keepends=True):
                if f'"{event}"' in line and line.endswith("\n"):
                    self._events[event] = json.loads(line)
                    break
        return self._events.get(event)


class Workers:
    """Keeps a number of workers running.

    Attributes:
        exits: the exit codes of those that ended, negative for a signal.
    """

    def __init__(
        self, url: str, count: int, flags: Mapping[str, object], folder: Path, random: Random, shards: int = 1
    ) -> None:
        """
        Args:
            url: of Redis.
            count: how many.
            flags: of ``work``.
            folder: for their logs.
            random: chooses the victims.
            shards: of the namespace.
        """
        self._common = ["--redis-url", url, "--log-format", "json", "--shards", str(shards)]
        given: dict[str, object] = {"engine": "chaos", "metrics-port": 0, **flags}
        self._flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._random = random
        self._living: dict[int, WorkerProcess] = {}
        self._closing = False
        self.count = count
        self.exits: list[int] = []

    async def __aenter__(self) -> "Workers":
        self._keepers = [asyncio.create_task(self._keep(slot)) for slot in range(self.count)]
        await self.until_ready(self.count)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for worker in self._living.values():
            if worker.process.returncode is None:
                worker.kill()
        await asyncio.gather(*(worker.process.wait() for worker in self._living.values()))
        await end(self._keepers)

    def ready(self) -> list[WorkerProcess]:
        """Those that have begun to read."""
        return [worker for worker in self._living.values() if worker.is_ready]

    async def until_ready(self, count: int = 1) -> list[WorkerProcess]:
        """Wait until so many are ready, and return those.

        Raises:
            AbstreamError: they do not get there.
        """
        if await until(lambda: len(self.ready()) >= count, within(PATIENCE_SECONDS)):
            return self.ready()
        raise AbstreamError(f"waited {PATIENCE_SECONDS} s in vain for {count} workers to be ready: see {self._folder}")

    async def victim(self) -> WorkerProcess:
        """Any that is ready."""
        return self._random.choice(await self.until_ready())

    async def stop(self) -> list[int]:
        """Ask all to leave, by SIGTERM, once they are ready; their exit codes."""
        await self.until_ready(self.count)
        self._closing = True
        leaving = [worker for worker in self._living.values() if worker.process.returncode is None]
        for worker in leaving:
            worker.terminate()
        waiting = asyncio.gather(*(worker.process.wait() for worker in leaving))
        try:
            return list(await asyncio.wait_for(waiting, PATIENCE_SECONDS))
        except asyncio.TimeoutError:
            raise AbstreamError(
                f"a worker had not left {PATIENCE_SECONDS} s after SIGTERM: see {self._folder}"
            ) from None

    async def metric(self, name: str, **labels: str) -> int:
        """The sum of a counter over those that are ready."""
        return int(sum([await worker.metric(name, **labels) for worker in self.ready()]))

    async def _keep(self, slot: int) -> None:
        life = 0
        while not self._closing:
            life += 1
            worker = await self._start(f"worker-{slot + 1}.{life}")
            self._living[slot] = worker
            self.exits.append(await worker.process.wait())
            if not worker.was_ready:
                await asyncio.sleep(_RESTART_SECONDS)

    async def _start(self, name: str) -> WorkerProcess:
        log = self._folder / f"{name}.log"
        command = [sys.executable, "-m", "abstream.ops", *self._common, "work", "--name", name, *self._flags]
        with log.open("wb") as stderr:
            # In a session of its own: Ctrl-C is for this program, which ends its workers.
            process = await asyncio.create_subprocess_exec(*command, stderr=stderr, start_new_session=True)
        return WorkerProcess(name, process, log)
