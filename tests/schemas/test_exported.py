"""The committed schemas are those of the code."""

import json
from importlib.resources import files

from abstream import Abstract, AbstractSubmitted
from abstream.ops.exporting import documents
from jsonschema import Draft202012Validator

FOLDER = files("abstream.schemas.exported")


def test_what_is_committed_is_what_the_code_says():
    """If this fails: abstream schema export"""
    committed = {
        path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path.name.endswith(".json")
    }
    assert committed == documents()


def test_every_schema_is_valid_json_schema():
    for document in documents().values():
        Draft202012Validator.check_schema(json.loads(document))


def test_a_real_event_is_valid_and_one_without_identity_is_not():
    schema = Draft202012Validator(json.loads(documents()["abstream.abstract.submitted.v1.json"]))
    event = json.loads(AbstractSubmitted(id="1", source="test", data=Abstract(abstract="Text.")).to_json())
    assert schema.is_valid(event)
    for name in ("specversion", "id", "source", "type", "data"):
        assert not schema.is_valid({key: value for key, value in event.items() if key != name})
