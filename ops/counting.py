"""What became of every abstract of a run, counted in Redis after the last worker has left."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ..producer.formats import Record
from ..schemas import AbstractClassified, AbstractRefused, Event, Streams
from ..schemas.streams import GROUP, LANES, from_fields


@dataclass(frozen=True)
class Summary:
    """What is written to ``summary.json``."""

    submitted: int
    predictions: int
    refusals: int
    duplicates: int  # results beyond the first of an abstract
    missing: int  # abstracts without a result
    pending: int  # entries that a worker took and nobody answered
    killed_while_holding: int
    answered_after_takeover: int
    by_adapter: dict[str, int]  # digest -> predictions that carry it
    stale: int  # submitted after every worker had switched, and not answered by the new adapter
    accuracy: float | None  # of the first question, where the data is labelled
    seconds: float
    passed: bool


@dataclass(frozen=True)
class Run:
    """What was done to the workers; ``first_after_switch`` is the number of the first record submitted then."""

    records: Sequence[Record]
    new_digest: str
    first_after_switch: int
    killed_while_holding: int
    seconds: float
    drained: bool


def results(redis: Any, streams: Streams) -> int:
    """Results so far, predictions and refusals."""
    return int(redis.xlen(streams.predictions)) + int(redis.xlen(streams.refusals))


def pending(redis: Any, streams: Streams, worker: str | None = None) -> int:
    """Entries taken and not answered, by one worker or by any."""
    taken = 0
    for lane in LANES:
        summary = redis.xpending(streams.lane(lane), GROUP)
        by_worker = {holder["name"].decode(): holder["pending"] for holder in summary["consumers"]}
        taken += by_worker.get(worker, 0) if worker else summary["pending"]
    return taken


def count(redis: Any, streams: Streams, run: Run) -> Summary:
    """Count everything; the ids of the events are the numbers of the records."""
    events: list[Event] = [
        from_fields(fields) for stream in (streams.predictions, streams.refusals) for _, fields in redis.xrange(stream)
    ]
    by_abstract = Counter(event.causationid for event in events)
    classified = [event for event in events if isinstance(event, AbstractClassified)]
    refused = [event for event in events if isinstance(event, AbstractRefused)]
    duplicates = by_abstract.total() - len(by_abstract)
    missing = len(run.records) - len(by_abstract)
    left = pending(redis, streams)
    deliveries = [event.data.attempt for event in classified] + [event.data.deliveries for event in refused]
    taken_over = sum(number > 1 for number in deliveries)
    by_adapter = Counter(event.data.model.adapter_digest or "none" for event in classified)
    stale = sum(_is_stale(event, run) for event in classified)
    sound = not (duplicates or missing or left or stale) and by_adapter[run.new_digest] > 0
    return Summary(
        submitted=len(run.records),
        predictions=len(classified),
        refusals=len(refused),
        duplicates=duplicates,
        missing=missing,
        pending=left,
        killed_while_holding=run.killed_while_holding,
        answered_after_takeover=taken_over,
        by_adapter=dict(by_adapter),
        stale=stale,
        accuracy=_accuracy(classified, run.records),
        seconds=run.seconds,
        passed=sound and 0 < run.killed_while_holding <= taken_over and run.drained,
    )


def _is_stale(event: AbstractClassified, run: Run) -> bool:
    return int(event.causationid or 0) >= run.first_after_switch and event.data.model.adapter_digest != run.new_digest


def _accuracy(classified: Sequence[AbstractClassified], records: Sequence[Record]) -> float | None:
    right = [
        next(iter(event.data.answers.values())).label == label
        for event in classified
        if (label := records[int(event.causationid or 0)].fields.get("label"))
    ]
    return round(sum(right) / len(right), 4) if right else None


def table(summary: Summary) -> Table:
    """The summary for people."""
    shown = Table(title="Every abstract, exactly one result" if summary.passed else "[red]This must not happen[/]")
    shown.add_column("what")
    shown.add_column("how many", justify="right")
    rows: dict[str, int | float | str] = {
        "abstracts submitted": summary.submitted,
        "predictions published": summary.predictions,
        "refusals published": summary.refusals,
        "results beyond the first of an abstract": summary.duplicates,
        "abstracts without a result": summary.missing,
        "entries left pending": summary.pending,
        "unanswered abstracts in the killed worker's hands": summary.killed_while_holding,
        "answered after being taken over": summary.answered_after_takeover,
        **{f"answered by adapter {digest[:19]}": number for digest, number in summary.by_adapter.items()},
        "answered by the old adapter after the switch": summary.stale,
        "seconds from the first abstract to the last result": summary.seconds,
    }
    if summary.accuracy is not None:
        rows["first answers that agree with the labels"] = f"{summary.accuracy:.0%}"
    for what, number in rows.items():
        shown.add_row(what, str(number))
    return shown
