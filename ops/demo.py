"""The whole system in one command: every abstract gets exactly one result, though a worker is killed on the way.

A real Redis server and two worker processes with the real model. As soon as some results are out, a worker that
verifiably holds entries it has not answered is killed with SIGKILL; the other must take them over. At the end, when
no worker runs any more, everything is counted in Redis.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from redis import Redis
from rich.console import Console
from rich.table import Table

from ..producer import Publisher
from ..producer.formats import Record
from ..schemas import AbstractClassified, AbstractRefused, AbstreamError, Event, Streams
from ..schemas.streams import GROUP, LANES, from_fields
from .embedded import redis_url
from .files import Tally, usable
from .progress import bar

LEASE_SECONDS = 2  # short, so that a take-over is seen within the demo
PATIENCE_SECONDS = 60  # for a worker to be ready, and for the next result
LOOK_SECONDS = 0.02  # between two looks
SOME = 0.1  # of the results are out before a worker is killed

say = Console(stderr=True, highlight=False).print


@dataclass(frozen=True)
class Summary:
    """What is written to ``summary.json``, counted in Redis after the last worker has left."""

    submitted: int
    predictions: int
    refusals: int
    duplicates: int  # results beyond the first of an abstract
    missing: int  # abstracts without a result
    pending: int  # entries that a worker took and nobody answered
    killed_while_holding: int
    answered_after_takeover: int
    accuracy: float | None  # of the first question, where the data is labelled
    seconds: float
    passed: bool


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
    _show(summary, out)
    return summary.passed


def _perform(redis: Any, url: str, streams: Streams, records: list[Record], out: Path, model: str) -> Summary:
    with _two_workers(url, streams, model, out) as workers:
        begun = time.monotonic()
        asyncio.run(_publish(url, streams, records))
        say(f"[bold]Published[/] {len(records)} abstracts; the workers are on them")
        killed, held = _kill_one_that_holds(redis, streams, workers, len(records))
        say(f"[bold]Killed[/]    {killed.name} with SIGKILL while it held {held} unanswered abstracts")
        _wait_for_results(redis, streams, len(records))
        seconds = time.monotonic() - begun
        survivor = next(worker for worker in workers if worker is not killed)
        survivor.process.terminate()
        left = survivor.process.wait(PATIENCE_SECONDS)
        say(f"[bold]Stopped[/]   {survivor.name} with SIGTERM: exit code {left}")
    return _count(redis, streams, records, held, seconds, drained=left == 0)


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


async def _publish(url: str, streams: Streams, records: list[Record]) -> None:
    async with Publisher(url, namespace=streams.namespace) as publisher:
        await publisher.publish_many((str(number), record.abstract) for number, record in enumerate(records))


@contextmanager
def _two_workers(url: str, streams: Streams, model: str, out: Path) -> Iterator[list[WorkerProcess]]:
    """Two workers that are ready to read; none is left running."""
    workers = [_start(name, url, streams, model, out / f"{name}.log") for name in ("worker-1", "worker-2")]
    try:
        for worker in workers:
            _until(lambda worker=worker: _is_ready(worker), f"{worker.name} to be ready, see {worker.log}")  # type: ignore[misc]
        say(f"[bold]Workers[/]   {' and '.join(worker.name for worker in workers)} are ready, logs in {out}")
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def _start(name: str, url: str, streams: Streams, model: str, log: Path) -> WorkerProcess:
    common = ["--redis-url", url, "--namespace", streams.namespace, "--log-format", "json"]
    work = ["work", "--name", name, "--model", model, "--threads", "1", "--lease-seconds", str(LEASE_SECONDS)]
    with log.open("wb") as stderr:
        command = [sys.executable, "-m", "abstream.ops", *common, *work]
        return WorkerProcess(name, subprocess.Popen(command, stderr=stderr, start_new_session=True), log)


def _is_ready(worker: WorkerProcess) -> bool:
    said = worker.log.read_text(errors="replace")
    if worker.process.poll() is not None:
        raise AbstreamError(f"{worker.name} did not start: {said.strip().splitlines()[-1] if said else 'no word why'}")
    return '"worker_ready"' in said


def _kill_one_that_holds(
    redis: Any, streams: Streams, workers: Sequence[WorkerProcess], submitted: int
) -> tuple[WorkerProcess, int]:
    """Freeze a worker, look what it holds, and kill it if that is anything; or let it go on and look again."""
    _until(lambda: _results(redis, streams) >= SOME * submitted, "the first results")
    while _results(redis, streams) < submitted:
        for worker in workers:
            worker.process.send_signal(signal.SIGSTOP)
            redis.ping()  # what the worker had sent before it froze has reached Redis now
            if held := _pending(redis, streams, worker.name):
                worker.process.kill()
                worker.process.wait()
                return worker, held
            worker.process.send_signal(signal.SIGCONT)
        time.sleep(LOOK_SECONDS)
    raise AbstreamError(f"{submitted} abstracts were answered before a worker could be killed: use more of them")


def _wait_for_results(redis: Any, streams: Streams, submitted: int) -> None:
    with bar("answered", submitted) as show:
        answered = -1
        while answered < submitted:
            before = answered
            _until(lambda before=before: _results(redis, streams) > before, "the next result")  # type: ignore[misc]
            answered = _results(redis, streams)
            show(answered)


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AbstreamError(f"waited {PATIENCE_SECONDS} s in vain for {what}")
        time.sleep(LOOK_SECONDS)


def _results(redis: Any, streams: Streams) -> int:
    return int(redis.xlen(streams.predictions)) + int(redis.xlen(streams.refusals))


def _pending(redis: Any, streams: Streams, worker: str | None = None) -> int:
    """Entries taken and not answered, by one worker or by any."""
    pending = 0
    for lane in LANES:
        summary = redis.xpending(streams.lane(lane), GROUP)
        by_worker = {holder["name"].decode(): holder["pending"] for holder in summary["consumers"]}
        pending += by_worker.get(worker, 0) if worker else summary["pending"]
    return pending


def _count(redis: Any, streams: Streams, records: list[Record], held: int, seconds: float, *, drained: bool) -> Summary:
    events: list[Event] = [
        from_fields(fields) for stream in (streams.predictions, streams.refusals) for _, fields in redis.xrange(stream)
    ]
    results = Counter(event.causationid for event in events)
    classified = [event for event in events if isinstance(event, AbstractClassified)]
    refused = [event for event in events if isinstance(event, AbstractRefused)]
    duplicates = results.total() - len(results)
    missing = len(records) - len(results)
    pending = _pending(redis, streams)
    deliveries = [event.data.attempt for event in classified] + [event.data.deliveries for event in refused]
    taken_over = sum(number > 1 for number in deliveries)
    return Summary(
        submitted=len(records),
        predictions=len(classified),
        refusals=len(refused),
        duplicates=duplicates,
        missing=missing,
        pending=pending,
        killed_while_holding=held,
        answered_after_takeover=taken_over,
        accuracy=_accuracy(classified, records),
        seconds=round(seconds, 1),
        passed=not (duplicates or missing or pending) and 0 < held <= taken_over and drained,
    )


def _accuracy(classified: list[AbstractClassified], records: list[Record]) -> float | None:
    right = [
        next(iter(event.data.answers.values())).label == label
        for event in classified
        if (label := records[int(event.causationid or 0)].fields.get("label"))
    ]
    return round(sum(right) / len(right), 4) if right else None


def _show(summary: Summary, out: Path) -> None:
    table = Table(title="Every abstract, exactly one result" if summary.passed else "[red]This must not happen[/]")
    table.add_column("what")
    table.add_column("how many", justify="right")
    rows: dict[str, int | float | str] = {
        "abstracts submitted": summary.submitted,
        "predictions published": summary.predictions,
        "refusals published": summary.refusals,
        "results beyond the first of an abstract": summary.duplicates,
        "abstracts without a result": summary.missing,
        "entries left pending": summary.pending,
        "unanswered abstracts in the killed worker's hands": summary.killed_while_holding,
        "answered after being taken over": summary.answered_after_takeover,
        "seconds from the first abstract to the last result": summary.seconds,
    }
    if summary.accuracy is not None:
        rows["first answers that agree with the labels"] = f"{summary.accuracy:.0%}"
    for what, number in rows.items():
        table.add_row(what, str(number))
    Console(stderr=True).print(table)
    say(f"{'[green]PASSED[/]' if summary.passed else '[red]FAILED[/]'}  {out / 'summary.json'}")


def _delete_keys(redis: Any, streams: Streams) -> None:
    if keys := list(redis.scan_iter(f"{{{streams.namespace}}}:*")):
        redis.delete(*keys)
