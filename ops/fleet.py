"""What the streams of adapters and of the fleet's answers say, for people and for programs."""

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from ..producer.connection import connect
from ..schemas import AdapterActivated, AdapterRejected, AdapterUpdated, Event, Malformed, Streams
from ..schemas.events import AdapterUpdate
from ..schemas.streams import Output, from_fields

Row = dict[str, Any]
"""One line of a table or one object of JSON."""

_DIGEST_CHARACTERS = len("sha256:") + 12  # for people


async def history(url: str, namespace: str) -> list[Row]:
    """Every adapter update, oldest first.

    Raises:
        redis.exceptions.ConnectionError: Redis is out of reach.
    """
    said = ("name", "version", "digest", "action", "uri")
    return [
        _row(entry_id, event, said)
        for entry_id, event in await _events(url, namespace, "adapters")
        if isinstance(event, AdapterUpdated)
    ]


async def newest_update(url: str, namespace: str) -> AdapterUpdate | None:
    """The last update that asks workers to serve its adapter; raises as ``history``."""
    updates = [
        event.data for _, event in await _events(url, namespace, "adapters") if isinstance(event, AdapterUpdated)
    ]
    return next((update for update in reversed(updates) if update.action != "shadow"), None)


async def fleet(url: str, namespace: str) -> list[Row]:
    """Each worker's newest answer, by worker; ``serves`` is the digest it has served since. Raises as ``history``."""
    said = ("worker", "name", "version", "digest", "previous_digest", "load_ms", "switch_ms", "probes", "reason")
    newest: dict[str, Row] = {}
    for entry_id, event in await _events(url, namespace, "fleet"):
        if isinstance(event, AdapterActivated | AdapterRejected):
            activated = isinstance(event, AdapterActivated)
            result = {
                "result": "activated" if activated else "rejected",
                "serves": event.data.digest if activated else event.data.previous_digest,
            }
            newest[event.data.worker] = _row(entry_id, event, said) | result
    return [newest[worker] for worker in sorted(newest)]


def table(rows: list[Row], *columns: str) -> str:
    """Rows in aligned columns under their names; digests are shortened."""
    cells = [list(columns), *([_shown(row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


async def _events(url: str, namespace: str, output: Output) -> Iterable[tuple[str, Event]]:
    """Every event of a stream that this version can read, with its entry id."""
    redis = connect(url)
    try:
        entries: Any = await redis.xrange(Streams(namespace).output(output))
    finally:
        await redis.aclose()
    found = []
    for entry_id, fields in entries:
        try:
            found.append((entry_id.decode(), from_fields(fields)))
        except Malformed:
            continue  # workers skip it too, and say so in their logs
    return found


def _row(entry_id: str, event: Event, names: tuple[str, ...]) -> Row:
    data = event.data.model_dump(mode="json", include=set(names))
    added = datetime.fromtimestamp(int(entry_id.split("-")[0]) / 1000, timezone.utc)
    return {name: data[name] for name in names} | {"time": added.isoformat(timespec="seconds"), "entry_id": entry_id}


def _shown(value: object) -> str:
    text = "-" if value is None else str(value)
    return text[:_DIGEST_CHARACTERS] if text.startswith("sha256:") else text
