"""Programs written for the events as first published keep working.

``published/`` has the schemas that other programs know. New event types are added there; the others stay as they are.
"""

import copy
import json
from pathlib import Path

import pytest
from abstream.ops.exporting import documents

from .compatibility import breaks

PUBLISHED = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "published").glob("*.json")}
SUBMITTED, CLASSIFIED = "abstream.abstract.submitted.v1", "abstream.abstract.classified.v1"
READ_BY_ABSTREAM = {SUBMITTED, "abstream.adapter.updated.v1"}


def reader(name):
    return "abstream" if name in READ_BY_ABSTREAM else "others"


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_an_event_still_means_what_it_meant(name):
    assert list(breaks(PUBLISHED[name], json.loads(documents()[f"{name}.json"]), reader(name))) == []


def changed(name, change):
    new = copy.deepcopy(PUBLISHED[name])
    change(new["$defs"] | {"envelope": new})
    return list(breaks(PUBLISHED[name], new, reader(name)))


def test_a_renamed_field_is_found():
    def rename(defs):
        fields = defs["Abstract"]["properties"]
        fields["text"] = fields.pop("abstract")

    assert changed(SUBMITTED, rename) == ["event.data.abstract is gone"]


def test_a_new_required_field_of_a_submission_is_found():
    found = changed(SUBMITTED, lambda defs: defs["Abstract"]["required"].append("journal"))
    assert found == ["event.data.journal is now required"]


def test_a_shorter_limit_of_a_submission_is_found():
    found = changed(SUBMITTED, lambda defs: defs["Abstract"]["properties"]["abstract"].update(maxLength=10))
    assert found == ["event.data.abstract has another maxLength: 50000 became 10"]


def test_a_field_of_a_result_that_is_no_longer_promised_is_found():
    found = changed(CLASSIFIED, lambda defs: defs["Prediction"]["required"].remove("worker"))
    assert found == ["event.data.worker is no longer required"]


def test_a_result_that_may_now_be_null_is_found():
    nullable = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    found = changed(CLASSIFIED, lambda defs: defs["Prediction"]["properties"].update(worker=nullable))
    assert "event.data.worker may now be null" in found


def test_another_type_inside_a_list_or_an_alternative_is_found():
    def numbers(defs):
        defs["Abstract"]["properties"]["mesh"]["items"] = {"type": "integer"}
        defs["Abstract"]["properties"]["journal"]["anyOf"][0] = {"type": "integer"}

    assert changed(SUBMITTED, numbers) == [
        "event.data.journal is no longer string",
        "event.data.mesh[] is no longer string",
    ]


def test_a_reason_that_is_never_given_any_more_is_found():
    name = "abstream.abstract.refused.v1"
    found = changed(name, lambda defs: defs["Refusal"]["properties"]["reason"]["enum"].remove("trimmed"))
    assert found == ["event.data.reason is never trimmed any more"]


def test_an_added_optional_field_is_free():
    added = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    for name, model in ((SUBMITTED, "Abstract"), (CLASSIFIED, "Prediction")):
        assert changed(name, lambda defs, model=model: defs[model]["properties"].update(country=added)) == []
