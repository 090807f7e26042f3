"""The committed schemas are those that the code generates."""

import json
import re
from functools import reduce
from importlib.resources import files
from pathlib import Path

import pytest
from abstream import Abstract, AbstractSubmitted
from abstream.ops.exporting import documents
from abstream.schemas import EVENTS, Streams
from abstream.schemas.streams import LANES, OUTPUTS
from jsonschema import Draft7Validator, Draft202012Validator

FOLDER = files("abstream.schemas.exported")
OFFICIAL = Path(__file__).parents[1] / "node/node_modules/@asyncapi/specs/schemas/3.0.0.json"


def test_what_is_committed_is_what_the_code_says():
    """If this fails: abstream schema export"""
    committed = {
        path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path.name.endswith(".json")
    }
    assert committed == documents()


def test_every_schema_is_valid_json_schema():
    for name in EVENTS:
        Draft202012Validator.check_schema(json.loads(documents()[f"{name}.json"]))


@pytest.fixture
def asyncapi() -> dict:
    return json.loads(documents()["asyncapi.json"])


@pytest.mark.skipif(
    not OFFICIAL.exists(), reason="the official schema of AsyncAPI is not here: npm install in tests/node"
)
def test_the_asyncapi_document_is_valid_by_the_official_schema(asyncapi):
    official = Draft7Validator(json.loads(OFFICIAL.read_text()))
    official.validate(asyncapi)
    del asyncapi["operations"]["sendPredictions"]["channel"]
    assert not official.is_valid(asyncapi)


def test_every_stream_and_every_event_is_in_the_asyncapi_document(asyncapi):
    streams, channels = Streams(), asyncapi["channels"].values()
    keys = {channel["address"].format(namespace=channel["parameters"]["namespace"]["default"]) for channel in channels}
    assert keys == {*map(streams.lane, LANES), *map(streams.output, OUTPUTS)}
    assert {message for channel in channels for message in channel["messages"]} == EVENTS.keys()


def test_every_reference_in_the_asyncapi_document_leads_somewhere(asyncapi):
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', documents()["asyncapi.json"]))
    assert references
    for reference in references:
        reduce(lambda part, name: part[name], reference.split("/"), asyncapi)


def test_every_operation_parameter_and_response_of_the_api_is_described():
    openapi = json.loads(documents()["openapi.json"])
    operations = [operation for path in openapi["paths"].values() for operation in path.values()]
    parameters = [parameter for operation in operations for parameter in operation.get("parameters", ())]
    responses = [response for operation in operations for response in operation["responses"].values()]
    assert all(operation.get("summary") for operation in operations)
    assert all(part.get("description") for part in [*operations, *parameters, *responses, *openapi["tags"]])
    assert "Successful Response" not in {response["description"] for response in responses}  # FastAPI's default


def test_a_real_event_is_valid_and_one_without_identity_is_not():
    schema = Draft202012Validator(json.loads(documents()["abstream.abstract.submitted.v1.json"]))
    event = json.loads(AbstractSubmitted(id="1", source="test", data=Abstract(abstract="Text.")).to_json())
    assert schema.is_valid(event)
    for name in ("specversion", "id", "source", "type", "data"):
        assert not schema.is_valid({key: value for key, value in event.items() if key != name})
