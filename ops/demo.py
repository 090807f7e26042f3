"""The whole system in one command: every abstract gets exactly one result, though much happens on the way.

A real Redis server and two worker processes with the real model. An adapter is fine-tuned on the bundled sample and
announced while abstracts flow; both workers switch to it. Then a worker that verifiably holds entries it has not
answered is killed with SIGKILL; the other must take them over. At the end everything is counted in Redis.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from redis import Redis
from rich.console import Console

from ..producer import Publisher
from ..producer.formats import Record
from ..schemas import AbstreamError, AdapterActivated, Streams
from ..schemas.streams import from_fields
from .counting import Run, Summary, count, pending, results, table
from .embedded import redis_url
from .files import Tally, usable
from .progress import bar

LEASE_SECONDS = 2  # short, so that a take-over is seen within the demo
PATIENCE_SECONDS = 60  # for a worker to be ready, and for the next result
LOOK_SECONDS = 0.02  # between two looks
# Of the bundled sample's short texts, so that it takes seconds.
TRAINING = ("--epochs", "4", "--batch-tokens", "2048", "--name", "demo")

say = Console(stderr=True, highlight=False).print


@dataclass(frozen=True)
class WorkerProcess:
    """A running ``abstream work`` and its log."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path


def run(given_url: str | None, data: Path | None, out: Path, model: str) -> bool:
    """Run the demo on ``data`` (the bundled sample by default) and write ``out``/summary.json; whether it passed.

    Raises:
        AbstreamError: there is nothing to publish, or a worker does not start.
        Unavailable: there is no Redis.
    """
    # Ended by SIGTERM as by Ctrl-C: through every `finally`, so that no process is left behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # noqa: ARG005
    out.mkdir(parents=True, exist_ok=True)
    records = _read(data)
    streams = Streams(f"demo-{os.getpid()}")
    with redis_url(given_url) as url, Redis.from_url(url, protocol=2) as redis:
        version = redis.info("server")["redis_version"]
        say(f"[bold]Redis[/]     {version}, {'the one given' if given_url else 'a private server, gone at the end'}")
        try:
            summary = _perform(redis, url, streams, records, out, model)
        finally:
            _delete_keys(redis, streams)
    (out / "summary.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    Console(stderr=True).print(table(summary))
    say(f"{'[green]PASSED[/]' if summary.passed else '[red]FAILED[/]'}  {out / 'summary.json'}")
    return summary.passed


def _perform(redis: Any, url: str, streams: Streams, records: list[Record], out: Path, model: str) -> Summary:
    adapter = _train(model, out)
    with _two_workers(url, streams, model, out) as workers:
        begun = time.monotonic()
        half = len(records) // 2
        _publish(url, streams, records, 0, half)
        digest = _switch(redis, url, streams, adapter, out)
        before = results(redis, streams)
        _publish(url, streams, records, half, len(records))
        killed, held = _kill_one_that_holds(redis, streams, workers, before, len(records))
        say(f"[bold]Killed[/]    {killed.name} with SIGKILL while it held {held} unanswered abstracts")
        _wait_for_results(redis, streams, len(records))
        seconds = round(time.monotonic() - begun, 1)
        survivor = next(worker for worker in workers if worker is not killed)
        survivor.process.terminate()
        left = survivor.process.wait(PATIENCE_SECONDS)
        say(f"[bold]Stopped[/]   {survivor.name} with SIGTERM: exit code {left}")
    return count(redis, streams, Run(records, digest, half, held, seconds, drained=left == 0))


def _train(model: str, out: Path) -> Path:
    """Fine-tune an adapter on the bundled sample; its folder."""
    begun = time.monotonic()
    sample = files("abstream.ops.sample")
    data = ["--data", str(sample / "train.jsonl"), "--validation", str(sample / "validation.jsonl")]
    test = ["--test", str(sample / "test.jsonl"), "--model", model, "--out", str(out / "train"), "--json"]
    say("[bold]Training[/]  an adapter on the 151 labelled abstracts of the sample …")
    done = _abstream(["train", *data, *test, *TRAINING], out / "train.log")
    metrics = json.loads(done)["metrics"]["cancer"]
    before, after = (f"{metrics[judge]['accuracy']['value']:.0%}" for judge in ("before", "after"))
    seconds = time.monotonic() - begun
    say(f"[bold]Trained[/]   in {seconds:.0f} s: {before} before, {after} after on 50 others; {out}/train/report.html")
    return out / "train" / "adapter"


def _switch(redis: Any, url: str, streams: Streams, adapter: Path, out: Path) -> str:
    """Announce the adapter while the workers are at work, and wait until both serve it; its digest."""
    _until_more(redis, streams, 0)
    common = ["--namespace", streams.namespace, "--shards", "1"]
    release = [*common, "adapters", "release", str(adapter), "--store", str(out / "store")]
    said = _abstream(release, out / "release.log", _environment(url))
    digest = str(json.loads(said)["digest"])

    def activated() -> set[str]:
        events = [from_fields(fields) for _, fields in redis.xrange(streams.output("fleet"))]
        return {one.data.worker for one in events if isinstance(one, AdapterActivated) and one.data.digest == digest}

    _until(lambda: len(activated()) == 2, "both workers to serve the new adapter")
    say(f"[bold]Switched[/]  both workers to {digest[:19]} after {results(redis, streams)} results")
    return digest


def _abstream(arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> bytes:
    """Run a command to its end; what it wrote to stdout."""
    command = [sys.executable, "-m", "abstream.ops", *arguments]
    with log.open("wb") as stderr:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=environment)
    if done.returncode:
        raise AbstreamError(f"abstream {' '.join(arguments)} ended with {done.returncode}, see {log}")
    return done.stdout


def _environment(url: str) -> dict[str, str]:
    """The environment of a command that uses this Redis: the URL may hold a password, and arguments are public."""
    return {name: value for name, value in os.environ.items() if name != "ABSTREAM_REDIS_URL_FILE"} | {
        "ABSTREAM_REDIS_URL": url
    }


def _read(data: Path | None) -> list[Record]:
    sample = files("abstream.ops.sample")
    paths = [str(data)] if data else [str(sample / f"{split}.jsonl") for split in ("train", "validation", "test")]
    tally = Tally()
    records = list(usable(paths, "auto", tally))
    if not records:
        raise AbstreamError(f"{data} holds no usable abstract")
    broken = f", {tally.broken} broken ones left out" if tally.broken else ""
    say(f"[bold]Abstracts[/] {len(records)} from {data or 'the bundled sample, all invented'}{broken}")
    return records


def _publish(url: str, streams: Streams, records: list[Record], first: int, end: int) -> None:
    """Submit the records from ``first`` up to ``end``; their numbers are the ids."""

    async def publish() -> None:
        async with Publisher(url, namespace=streams.namespace) as publisher:
            numbered = islice(enumerate(records), first, end)
            await publisher.publish_many((str(number), record.abstract) for number, record in numbered)

    asyncio.run(publish())
    say(f"[bold]Published[/] abstracts {first + 1} to {end} of {len(records)}; the workers are on them")


@contextmanager
def _two_workers(url: str, streams: Streams, model: str, out: Path) -> Iterator[list[WorkerProcess]]:
    """Two workers that are ready to read; none is left running."""
    workers = [_start(name, url, streams, model, out / f"{name}.log") for name in ("worker-1", "worker-2")]
    try:
        for worker in workers:
            _until(partial(_is_ready, worker), f"{worker.name} to be ready, see {worker.log}")
        say(f"[bold]Workers[/]   {' and '.join(worker.name for worker in workers)} are ready, logs in {out}")
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def _start(name: str, url: str, streams: Streams, model: str, log: Path) -> WorkerProcess:
    common = ["--namespace", streams.namespace, "--shards", "1", "--log-format", "json"]
    work = ["work", "--name", name, "--model", model, "--threads", "1", "--lease-seconds", str(LEASE_SECONDS)]
    with log.open("wb") as stderr:
        command = [sys.executable, "-m", "abstream.ops", *common, *work]
        environment = _environment(url)
        return WorkerProcess(
            name, subprocess.Popen(command, stderr=stderr, start_new_session=True, env=environment), log
        )


def _is_ready(worker: WorkerProcess) -> bool:
    said = worker.log.read_text(errors="replace")
    if worker.process.poll() is not None:
        raise AbstreamError(
            f"{worker.name} did not start: {said.strip().splitlines()[-1] if said else 'it gave no reason'}"
        )
    return '"worker_ready"' in said


def _kill_one_that_holds(
    redis: Any, streams: Streams, workers: Sequence[WorkerProcess], before: int, submitted: int
) -> tuple[WorkerProcess, int]:
    """Freeze a worker and kill it if it holds entries; otherwise let it continue, and look again."""
    _until_more(redis, streams, before)
    while results(redis, streams) < submitted:
        for worker in workers:
            worker.process.send_signal(signal.SIGSTOP)
            redis.ping()  # what the worker had sent before it froze has reached Redis now
            if held := pending(redis, streams, worker.name):
                worker.process.kill()
                worker.process.wait()
                return worker, held
            worker.process.send_signal(signal.SIGCONT)
        time.sleep(LOOK_SECONDS)
    raise AbstreamError(f"{submitted} abstracts were answered before a worker could be killed: use more of them")


def _wait_for_results(redis: Any, streams: Streams, submitted: int) -> None:
    with bar("answered", submitted) as show:
        while (answered := results(redis, streams)) < submitted:
            show(answered)
            _until_more(redis, streams, answered)
        show(answered)


def _until_more(redis: Any, streams: Streams, answered: int) -> None:
    """Wait until there are more results than ``answered``."""
    _until(lambda: results(redis, streams) > answered, "the next result")


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AbstreamError(f"gave up after waiting {PATIENCE_SECONDS} s for {what}")
        time.sleep(LOOK_SECONDS)


def _delete_keys(redis: Any, streams: Streams) -> None:
    if keys := list(redis.scan_iter(f"{{{streams.namespace}}}:*")):
        redis.delete(*keys)
