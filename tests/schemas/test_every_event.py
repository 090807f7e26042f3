"""Every event can be read by the official CloudEvents SDK, and is valid by its exported schema."""

import json
import shutil

import pytest
from abstream import Abstract
from abstream.ops.exporting import documents
from abstream.schemas import EVENTS
from abstream.schemas.streams import LANES, OUTPUTS
from abstream.training.release import release
from cloudevents.core.formats.json import JSONFormat
from jsonschema import Draft202012Validator


@pytest.fixture
async def events(redis, streams, publisher, workers, make_adapter, tmp_path) -> list[bytes]:
    """The bodies of all events in all streams, after a worker answered, refused, switched, and refused to switch."""
    registry, store = workers.registry(workers.new()), tmp_path / "store"
    await release(redis, streams, make_adapter("1").path, store)
    await registry.catch_up()
    await release(redis, streams, make_adapter("0").path, store, action="shadow")
    await registry.catch_up()
    await release(redis, streams, make_adapter("2").path, store)
    shutil.rmtree(store)
    await registry.catch_up()
    await publisher.publish(Abstract(title="Nævus", abstract="Text."), id="1")
    await redis.xadd(streams.lane("interactive"), {"title": "", "abstract": ""})
    await workers.burst()
    keys = [*map(streams.lane, LANES), *map(streams.output, OUTPUTS)]
    entries = [entry for key in keys for entry in await redis.xrange(key)]
    return [fields[b"event"] for _, fields in entries if b"event" in fields]


def test_every_type_was_seen(events):
    assert {json.loads(event)["type"] for event in events} == EVENTS.keys()


def test_the_official_sdk_reads_every_event(events):
    for body in events:
        event = JSONFormat().read(None, body)
        written = json.loads(body)
        assert event.get_data() == written["data"]
        assert (event.get_id(), event.get_source(), event.get_type()) == tuple(
            written[k] for k in ("id", "source", "type")
        )


def test_every_event_is_what_its_schema_says(events):
    schemas = {name: Draft202012Validator(json.loads(documents()[f"{name}.json"])) for name in EVENTS}
    for body in map(json.loads, events):
        schemas[body["type"]].validate(body)
