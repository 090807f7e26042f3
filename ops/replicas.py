"""``abstream work --replicas N``: one worker process for each GPU, or for a share of the CPU, watched over by this one.

A replica that ends is started again, after a pause that doubles as long as it fails; one that makes no progress is
killed first. All are seen through one port: their metrics with a label ``replica``, their health as one.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ..consumer.endpoints import Endpoints
from ..consumer.engine.slots import Slots, make_slots
from ..consumer.health import Check

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
WELL_AFTER_SECONDS = 60.0  # of life: the next failure is a new one
LOOK_SECONDS = 5.0
ANSWER_SECONDS = 2.0
HOPELESS = (2,)  # a usage error is one again
# glibc then asks Linux for large pages: on CPUs an abstract takes a twentieth less (DECISIONS.md).
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

log = structlog.get_logger()


class Replica:
    """One worker process, again and again."""

    def __init__(
        self, number: int, command: Sequence[str], environment: Mapping[str, str], slots: Sequence[int] = ()
    ) -> None:
        """
        Args:
            number: its own among the replicas.
            command: that runs a worker; the flags of this one are added.
            environment: what it has beside this process's.
            slots: files that replicas share weights in, see ``consumer/engine/slots.py``.
        """
        self.number = number
        self.starts = 0
        self._command = command
        self._environment = environment
        self._slots = slots
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._asked: int | None = None

    async def run(self) -> int:
        """Start the process, and return its exit code when it has ended."""
        self._port = _free_port()
        self.starts += 1
        name = f"{socket.gethostname()}-{os.getpid()}-{self.number}"
        own = ["--replicas=1", f"--metrics-port={self._port}", f"--name={name}", *map("--slot={}".format, self._slots)]
        self._process = await asyncio.create_subprocess_exec(
            *self._command, *own, env=os.environ | self._environment, pass_fds=self._slots
        )
        log.info("replica_started", replica=self.number, pid=self._process.pid)
        if self._asked:
            self.signal(self._asked)
        code = await self._process.wait()
        log.info("replica_ended", replica=self.number, exit_code=code)
        return code

    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.returncode is None

    def signal(self, number: int) -> None:
        """Pass a signal on, or later, if the process is only being created."""
        if self._process and self.running():
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
        else:
            self._asked = number

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body of one of its endpoints; (0, "") where it does not answer. Any thread may call."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=ANSWER_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""


class Supervisor:
    """Keeps replicas running until it is asked to stop, or until each has ended well."""

    def __init__(self, replicas: Sequence[Replica], slots: Slots | None = None) -> None:
        self.replicas = replicas
        self._slots = slots
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Return 0 when all have ended well, else the first other exit code."""
        watching = asyncio.create_task(self._watch())
        try:
            codes = await asyncio.gather(*map(self._keep_running, self.replicas))
        finally:
            watching.cancel()
        return next((code for code in codes if code), 0)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Pass a signal on to every replica, and start none again."""
        self._stopping.set()
        for replica in self.replicas:
            replica.signal(number)

    async def _keep_running(self, replica: Replica) -> int:
        pause = FIRST_PAUSE_SECONDS
        while True:
            begun = time.monotonic()
            code = await replica.run()
            if self._stopping.is_set():
                return 0 if code == -signal.SIGTERM else code  # it was asked before it could listen
            if code == 0 or code in HOPELESS:
                return code
            if time.monotonic() - begun > WELL_AFTER_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.warning("replica_pauses", replica=replica.number, exit_code=code, seconds=pause)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return code
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _watch(self) -> None:
        """Kill what makes no progress: it is started again, and what it held is taken over."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for replica in self.replicas:
                status, _ = await asyncio.to_thread(replica.ask, "/healthz")
                if status == 503 and replica.running():
                    log.error("replica_wedged", replica=replica.number)
                    replica.signal(signal.SIGKILL)
            if self._slots:  # what the last to serve an adapter has left, however it ended
                await asyncio.to_thread(self._slots.free_unused)


class ReplicaMetrics(Collector):
    """The metrics of all replicas, each series with a label that tells whose it is; read at every scrape."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas

    def describe(self) -> list[Metric]:
        """Only the names of its own metrics: registering must not query replicas."""
        return list(_own(()))

    def collect(self) -> Iterator[Metric]:
        """What a scrape reads."""
        families: dict[str, Metric] = {}
        for replica in self._replicas:
            for family in text_string_to_metric_families(replica.ask("/metrics")[1]):
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = sample.labels | {"replica": str(replica.number)}
                    merged.add_sample(sample.name, labels, sample.value)
        yield from families.values()
        yield from _own(self._replicas)


def supervise(count: int, port: int | None, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """Run ``count`` workers until SIGTERM or SIGINT and return the exit code; a second signal ends them at once.

    Args:
        count: of replicas.
        port: of the endpoints; None serves none.
        command: that runs one worker; the flags of one replica are added at its end, where they win.
        environments: what each replica's environment has beside this process's, by turns.
    """
    slots = make_slots()
    replicas = [Replica(number, command, environments[number % len(environments)], slots) for number in range(count)]
    if port is not None:
        endpoints = _endpoints(port, replicas)
        endpoints.start()
        log.info("metrics_served", port=endpoints.server_port)
    return asyncio.run(_until_signal(Supervisor(replicas, Slots(slots) if slots else None)))


def _endpoints(port: int, replicas: Sequence[Replica]) -> Endpoints:
    """All replicas seen through one port.

    It always counts as alive: a replica that makes no progress is killed here, and a restart of all would not help.
    """
    registry = CollectorRegistry()
    registry.register(ReplicaMetrics(replicas))

    def checks() -> dict[str, Check]:
        return {f"replica {replica.number}": _readiness(replica) for replica in replicas}

    return Endpoints(port, registry, lambda: None, checks)


async def _until_signal(supervisor: Supervisor) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    return await supervisor.run()


def this_command(count: int, device: str, threads: int | None) -> tuple[list[str], list[dict[str, str]]]:
    """The command of this process as one worker's, and the environments that give each of ``count`` its share."""
    command = [sys.executable, "-m", "abstream.ops", *sys.argv[1:]]
    if device != "cpu" and (gpus := _gpus()):
        return command, [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    share = threads or max(1, (os.cpu_count() or 1) // count)
    return [*command, f"--threads={share}"], [{} if os.environ.keys() & LARGE_PAGES else LARGE_PAGES]


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
        # Without a driver it says so, on as many lines as it likes.
        visible = ",".join(map(str, range(sum(line.startswith("GPU ") for line in listed.splitlines()))))
    return [gpu for gpu in (visible or "").split(",") if gpu not in ("", "-1")]


def _readiness(replica: Replica) -> Check:
    status, said = replica.ask("/readyz")
    if status == 200:
        return Check(True, "ready")
    if not status:
        return Check(False, "does not answer", "wait: it starts, or is started again; if it does not come, see its log")
    failing = {name: check for name, check in json.loads(said)["checks"].items() if not check["ok"]}
    return Check(
        False,
        "; ".join(f"{name} {check['state']}" for name, check in failing.items()),
        "; ".join(check["mend"] for check in failing.values()),
    )


def _own(replicas: Iterable[Replica]) -> tuple[GaugeMetricFamily, CounterMetricFamily]:
    up = GaugeMetricFamily("abstream_replica_up", "1 while the process runs", labels=["replica"])
    starts = CounterMetricFamily("abstream_replica_starts", "How often it was started", labels=["replica"])
    for replica in replicas:
        up.add_metric([str(replica.number)], replica.running())
        starts.add_metric([str(replica.number)], replica.starts)
    return up, starts


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
