"""The gateway under load: many who follow the predictions while abstracts are submitted, and nothing lost or doubled.

Everything is on one machine: Redis, a worker whose engine costs nothing, the gateway as a process, and the load.
"""

import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import uvloop
from redis import Redis

from ...producer.gateway.serving import allow_files
from ...schemas import Streams, Unavailable
from ..embedded import redis_url
from .contestants import InstantEngine, example_abstract
from .followers import Follower, Submitter, connect_all, digest_of
from .machine import machine
from .stream import filled, serving

_SUBMITTERS = 32
_TIMED_SHARE = 20  # of so many followers one looks at delays
_PATIENCE_SECONDS = 15  # without any progress
_OTHER_FILES = 128
_PACKAGES = ("fastapi", "uvicorn", "uvloop", "redis")


@dataclass(frozen=True)
class Load:
    """How much of it.

    Attributes:
        subscribers: who follow the predictions from before the first abstract on.
        rate: abstracts a second, each submitted by a request of its own.
        seconds: how long they are submitted.
        cuts: how many of the subscribers are cut off once meanwhile, and go on by ``Last-Event-ID``.
        packed: whether subscribers take gzip, as browsers do.
    """

    subscribers: int
    rate: int
    seconds: int
    cuts: int
    packed: bool


@dataclass(frozen=True)
class Seen:
    """What the load clients saw.

    Attributes:
        submitting_seconds: from the first submission to the answer to the last.
        behind_seconds: from then until the last event was there.
    """

    followers: list[Follower]
    submitters: list[Submitter]
    submitting_seconds: float
    behind_seconds: float


def measure(given_url: str | None, load: Load, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything, and return the results as plain data.

    Args:
        given_url: of a Redis server; one is started where it is None.
        load: how much to measure.
        say: called with messages about progress.

    Raises:
        Unavailable: there is no Redis, or the gateway does not start.
    """
    files = load.subscribers + _SUBMITTERS + _OTHER_FILES
    if (most := allow_files(files)) < files:
        raise Unavailable(f"this process may open {most} files, and needs {files}: raise it with `ulimit -n`")
    with redis_url(given_url) as url, Redis.from_url(url) as redis, filled(redis) as streams:
        with serving(url, streams, InstantEngine), _gateway(url, streams, load.subscribers) as (address, pid):
            spent = _cpu_seconds(pid)
            seen = uvloop.run(_drive(address, load, say))
            used = {"gateway_cpu_seconds": _cpu_seconds(pid) - spent, "gateway_peak_mib": _peak_mib(pid)}
        raw: Any = redis.xrange(streams.predictions)
        server = redis.info("server")["redis_version"]
    return {
        "bench": "gateway",
        "machine": machine(),
        "python": platform.python_version(),
        "redis_server": server,
        "versions": {name: version(name) for name in _PACKAGES},
        **asdict(load),
        **summary(seen, [entry_id for entry_id, _ in raw]),
        **used,
        "event_bytes": round(statistics.mean(len(fields[b"event"]) for _, fields in raw)) if raw else 0,
    }


def summary(seen: Seen, ids: list[bytes]) -> dict[str, Any]:
    """What the followers received, compared with the ids in the stream.

    Missing are events that followers did not get, doubled those that they got too often, and disordered the followers
    that got as many as there are and not those, or not in their order.
    """
    expected, digest = len(ids), digest_of(ids)
    taken = sum(one.taken for one in seen.submitters)
    delivered = sum(one.count for one in seen.followers)
    return {
        "taken": taken,
        "not_answered": taken - expected,
        "delivered": delivered,
        "missing": sum(max(0, expected - one.count) for one in seen.followers),
        "doubled": sum(max(0, one.count - expected) for one in seen.followers),
        "disordered": sum(one.count == expected and one.digest != digest for one in seen.followers),
        "resumed": sum(one.resumed for one in seen.followers),
        "submitted_per_second": taken / seen.submitting_seconds,
        "delivered_per_second": delivered / (seen.submitting_seconds + seen.behind_seconds),
        "behind_seconds": seen.behind_seconds,
        "submit_ms": _centiles([wait for one in seen.submitters for wait in one.waits]),
        "delay_ms": _centiles([delay for one in seen.followers for delay in one.delays]),
    }


def is_whole(found: dict[str, Any]) -> bool:
    """Whether every follower got every event once and in order, and every abstract was accepted and answered."""
    wrong = ("not_answered", "missing", "doubled", "disordered")
    return not any(found[name] for name in wrong) and found["taken"] == found["rate"] * found["seconds"]


def table(found: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown."""
    yield "| what | measured |"
    yield "|---|---|"
    yield f"| subscribers; of these, cut off and resumed | {found['subscribers']:,}, {found['resumed']:,} |"
    yield f"| submissions a second, offered and taken | {found['rate']:,}, {found['submitted_per_second']:,.0f} |"
    yield f"| until a submission is taken, ms: p50, p99 | {_pair(found['submit_ms'])} |"
    yield f"| events delivered | {found['delivered']:,} |"
    yield f"| events delivered a second | {found['delivered_per_second']:,.0f} |"
    yield f"| from Redis to a subscriber, ms: p50, p99 | {_pair(found['delay_ms'])} |"
    yield f"| until the last event, after the last submission, s | {found['behind_seconds']:.1f} |"
    for name in ("not_answered", "missing", "doubled", "disordered"):
        yield f"| {name.replace('_', ' ')} | {found[name]:,} |"
    yield f"| CPU of the gateway, s | {found['gateway_cpu_seconds']:.1f} |"
    yield f"| memory of the gateway at most, MiB | {found['gateway_peak_mib']:.0f} |"


async def _drive(address: str, load: Load, say: Callable[[str], None]) -> Seen:
    followers = [
        Follower(address, packed=load.packed, timed=number % _TIMED_SHARE == 0) for number in range(load.subscribers)
    ]
    submitters = [Submitter(address) for _ in range(_SUBMITTERS)]
    await connect_all(followers)
    say(f"{load.subscribers} follow; {load.rate} abstracts a second for {load.seconds} s")
    begun = time.perf_counter()
    cutting = [asyncio.create_task(_cut(one, load.seconds)) for one in random.sample(followers, load.cuts)]
    await asyncio.gather(*(one.submit(_bodies(load, begun, number)) for number, one in enumerate(submitters)))
    submitted = time.perf_counter()
    await asyncio.gather(*cutting)
    behind = await _until_all_came(followers, sum(one.taken for one in submitters), submitted)
    for one in followers:
        one.leave()
    return Seen(followers, submitters, submitted - begun, behind)


def _bodies(load: Load, begun: float, first: int) -> Iterator[tuple[float, bytes]]:
    for number in range(first, load.rate * load.seconds, _SUBMITTERS):
        event = example_abstract(number)
        body = {"id": event.id, "title": event.data.title, "abstract": event.data.abstract}
        yield begun + number / load.rate, json.dumps(body).encode()


async def _cut(follower: Follower, seconds: float) -> None:
    await asyncio.sleep(random.uniform(0, seconds))
    await follower.cut()


async def _until_all_came(followers: list[Follower], expected: int, since: float) -> float:
    """Seconds from ``since`` to the last event; whoever gets nothing more for long has lost what is missing."""
    arrived, delivered = since, sum(one.count for one in followers)
    while any(one.count < expected for one in followers) and time.perf_counter() < arrived + _PATIENCE_SECONDS:
        await asyncio.sleep(0.02)
        now = sum(one.count for one in followers)
        if now > delivered:
            arrived, delivered = time.perf_counter(), now
    return arrived - since


@contextmanager
def _gateway(url: str, streams: Streams, subscribers: int) -> Iterator[tuple[str, int]]:
    """The address and the process of a running gateway."""
    command = [sys.executable, "-m", "abstream.ops", "--redis-url", url, "--namespace", streams.namespace]
    command += ["--log-format", "json", "gateway", "--port", "0", "--max-subscribers", str(2 * subscribers)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        said = process.stderr.readline() if process.stderr else b""
        if b"address" not in said:
            raise Unavailable(f"the gateway did not start: {said.decode(errors='replace').strip()}")
        address = json.loads(said)["address"]
        _wait_until_ready(address)
        yield address, process.pid
    finally:
        process.terminate()
        process.communicate()


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with urlopen(f"{address}/readyz"):
                return
        except HTTPError as error:
            if time.monotonic() > deadline:
                raise Unavailable("the gateway did not become ready") from error
            time.sleep(0.05)


def _cpu_seconds(pid: int) -> float:
    """What a process used; its name, which may hold anything, ends with the last bracket."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _centiles(values: list[float]) -> dict[str, float]:
    centiles = statistics.quantiles(values, n=100) if len(values) > 1 else [0.0] * 99
    return {"p50": centiles[49], "p99": centiles[98]}


def _pair(centiles: dict[str, float]) -> str:
    return f"{centiles['p50']:,.1f}, {centiles['p99']:,.1f}"
