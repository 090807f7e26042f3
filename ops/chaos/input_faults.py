"""Faults of publishers: they send twice, too much, and things that are no abstract."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from ...consumer.tasks import end
from ...schemas.events import MAX_ABSTRACT_CHARACTERS, MAX_TITLE_CHARACTERS
from ...schemas.streams import EVENT_FIELD, MAX_EVENT_BYTES
from .scene import Row, Scene
from .workers import WorkerProcess

Fields = dict[str, bytes]

_HUGE_BYTES = 10_000_000
_MIB = 1 << 20
_MOST_GROWTH_MIB = 64
_LONGEST_STALL_MILLISECONDS = 20
_LOOK_SECONDS = 0.05


async def twice(scene: Scene) -> str:
    submissions = scene.abstracts() * 2
    scene.random.shuffle(submissions)
    async with scene.under_load(submissions):
        pass
    return f"{await scene.workers.metric('abstream_duplicates_total')} were not answered again"


async def showered(scene: Scene) -> str:
    redis = scene.server.redis
    await redis.config_set("slowlog-log-slower-than", 1_000)
    await redis.config_set("slowlog-max-len", 10_000)
    memory = _Memory(await scene.workers.until_ready(scene.workers.count))
    async with memory, scene.under_load():
        for fields in _bad_entries(scene):
            await scene.submit(fields)
    slow = await redis.slowlog_get(10_000)
    grown, stall = memory.growth_bytes / _MIB, _longest_milliseconds(slow, b"EVALSHA", b"XREADGROUP", b"XPENDING")
    scene.limit(grown, _MOST_GROWTH_MIB, "MiB that a worker grew by")
    scene.limit(stall, _LONGEST_STALL_MILLISECONDS, "milliseconds that a worker's command held Redis for")
    scene.expect_no_exits()
    floor = f"{_longest_milliseconds(slow, b'XADD'):.0f} ms were taken by the bare XADD of such an entry"
    return f"a worker grew by at most {grown:.0f} MiB; one of its commands held Redis for {stall:.0f} ms, where {floor}"


def _bad_entries(scene: Scene) -> Iterator[Fields]:
    """Bad entries of every kind, mixed."""
    many = scene.faults
    kinds = [kind for kind in _small() for _ in range(many // 10)]
    large = [_plain(b"x" * MAX_EVENT_BYTES)] * many
    huge = [_plain(b"x" * _HUGE_BYTES)] * 3
    entries = kinds + large + huge
    scene.random.shuffle(entries)
    yield from entries


def _plain(abstract: bytes) -> Fields:
    return {"title": b"A title", "abstract": abstract}


def _event(**changed: Any) -> Fields:
    """A valid event except for the given changes; ``...`` removes a part."""
    whole = {
        "specversion": "1.0",
        "id": "bad",
        "source": "urn:abstream:chaos",
        "type": "abstream.abstract.submitted.v1",
        "data": {"title": "A title", "abstract": "An abstract."},
    }
    return {
        EVENT_FIELD: json.dumps({name: value for name, value in (whole | changed).items() if value is not ...}).encode()
    }


def _small() -> Iterator[Fields]:
    yield {"nothing": b"of use"}
    yield {EVENT_FIELD: b""}
    yield {EVENT_FIELD: b"no JSON"}
    yield {EVENT_FIELD: b'{"specversion": "1.0", "data": '}
    yield {EVENT_FIELD: b'{"abstract": "\xff\xfe"}'}
    yield {EVENT_FIELD: b"[]"}
    yield {EVENT_FIELD: b"[" * 500_000}
    yield {EVENT_FIELD: b'{"data":' * 50_000 + b"1" + b"}" * 50_000}
    yield _plain(b"caf\xe9")
    yield _plain(b"x" * (MAX_ABSTRACT_CHARACTERS + 1))
    yield {"title": b" ", "abstract": b""}
    yield _event(specversion=...)
    yield _event(type="abstream.abstract.submitted.v2")
    yield _event(data=...)
    yield _event(data={"title": "No abstract"})
    yield _event(data={"abstract": 5})
    yield _event(data={"abstract": "NaN", "year": float("nan")})
    yield _event(data={"abstract": "A title too long.", "title": "x" * (MAX_TITLE_CHARACTERS + 1)})
    yield {EVENT_FIELD: _event()[EVENT_FIELD].replace(b"An abstract.", b"\\ud800")}


def _longest_milliseconds(slow: list[dict[str, Any]], *commands: bytes) -> float:
    """The longest of these commands in the slow log, which leaves out short ones."""
    times = (entry["duration"] for entry in slow if entry["command"].split()[0].upper() in commands)
    return max(times, default=0) / 1000


class _Memory:
    """Watches how much the workers hold in memory, while the block lasts."""

    def __init__(self, workers: list[WorkerProcess]) -> None:
        self._before = {worker: worker.memory_bytes() for worker in workers}
        self.growth_bytes = 0

    async def __aenter__(self) -> "_Memory":
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        await end([self._watching])

    async def _watch(self) -> None:
        while True:
            grown = (worker.memory_bytes() - before for worker, before in self._before.items())
            self.growth_bytes = max(self.growth_bytes, *grown)
            await asyncio.sleep(_LOOK_SECONDS)


ROWS = (
    Row("twice", "every abstract sent twice", twice, milliseconds=1),
    Row(
        "bad-input",
        "{faults} abstracts of 1 MB, 3 of 10 MB, and every other kind of bad input, among good ones",
        showered,
        share=0.25,
        faults=1_000,
        redis=("--appendonly", "no"),
    ),
)
