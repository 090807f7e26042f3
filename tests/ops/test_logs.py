"""Log events: their names are those of one list, and they name the traces they belong to."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import abstream as package
from abstream import Abstract
from abstream.consumer.engine.fake import FakeEngine
from abstream.ops.logs import EVENTS
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

ROOT = Path(package.__file__).parent
PARTS = ("schemas", "producer", "consumer", "training", "ops")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
LOGGERS = {f"{logger}.{level}" for logger in ("log", "structlog.get_logger()") for level in LEVELS}


def logged() -> Iterator[str]:
    """The source text of the first argument of every call of a structlog logger."""
    for path in (path for part in PARTS for path in (ROOT / part).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "structlog.get_logger" in text:
            calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and node.args)
            yield from (ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) in LOGGERS)


def test_the_list_of_events_is_complete_and_has_no_unused_one():
    """If this fails: say in ``ops/logs.py`` what the event means."""
    assert set(logged()) == set(map(repr, EVENTS))
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", name) for name in EVENTS)


class Failing(FakeEngine):
    def classify(self, batch):
        if FakeEngine.encode(self, Abstract(abstract="Poison.")) in batch:
            raise RuntimeError("out of order")
        return super().classify(batch)


async def test_commits_and_failures_name_the_traces_of_their_abstracts(redis, streams, workers):
    lane = streams.lane("interactive")
    for id_, text, trace in (("1", "Text.", "a"), ("2", "Text 2.", "b"), ("3", "Poison.", "c"), ("4", "Text 4.", "!")):
        event = submitted(id_, text) | {"traceparent": f"00-{trace * 32}-{'d' * 16}-01"}
        await redis.xadd(lane, {"event": json.dumps(event)})
    with capture_logs([merge_contextvars]) as lines:
        await workers.burst(engine=Failing())

    a, b, c = (letter * 32 for letter in "abc")
    assert traces_of(lines, "inference_failed") == [[a, b, c], [c]]
    assert sorted(traces_of(lines, "batch_committed")) == [[], [a], [b], [c]]  # each was tried alone


def traces_of(lines: list[dict], event: str) -> list[list[str]]:
    return [line.get("trace_ids", []) for line in lines if line["event"] == event]


def submitted(id_: str, text: str) -> dict[str, object]:
    kind = "abstream.abstract.submitted.v1"
    return {"specversion": "1.0", "id": id_, "source": "urn:test", "type": kind, "data": {"abstract": text}}
