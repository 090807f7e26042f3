"""Envelopes and payloads: bad values cannot be built, newer fields are kept, absent attributes are left out."""

import json

import pytest
from abstream import Abstract, AbstractSubmitted, Malformed
from abstream.schemas import EVENTS, Answer
from abstream.schemas.parsing import parse_event
from abstream.schemas.submission import parse_submitted
from pydantic import ValidationError

ENVELOPE = {"specversion": "1.0", "id": "1", "source": "test", "type": "abstream.abstract.submitted.v1"}


def body(**changes: object) -> bytes:
    return json.dumps({**ENVELOPE, "data": {"abstract": "Text."}, **changes}).encode()


def test_an_event_comes_back_as_it_went():
    event = AbstractSubmitted(id="1", source="test", data=Abstract(title="β ≥ é 漢", abstract="Text."))
    assert parse_event(event.to_json()) == event


def test_absent_attributes_are_left_out_of_the_envelope():
    """CloudEvents has no null attributes."""
    event = AbstractSubmitted(id="1", source="test", data=Abstract(abstract="Text."))
    assert set(json.loads(event.to_json())) == {*ENVELOPE, "datacontenttype", "data"}


def test_fields_of_a_newer_program_are_kept():
    event = parse_event(body(newattribute="kept", data={"abstract": "Text.", "newfield": [1]}))
    again = json.loads(event.to_json())
    assert again["newattribute"] == "kept"
    assert again["data"]["newfield"] == [1]


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type", "data"])
def test_what_cloudevents_requires_is_required(missing):
    event = {name: value for name, value in json.loads(body()).items() if name != missing}
    with pytest.raises(Malformed, match=missing):
        parse_submitted(json.dumps(event).encode())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": ""}, "id"),
        ({"source": ""}, "source"),
        ({"specversion": "0.3"}, "specversion"),
        ({"time": "yesterday"}, "time"),
        ({"data": {"abstract": "a", "year": "soon"}}, "data.year"),
        ({"data": {"abstract": "a", "metadata": {str(n): "" for n in range(33)}}}, "data.metadata"),
        ({"data": {"abstract": "a", "title": "t" * 2001}}, "data.title"),
        ({"data": {"abstract": "a", "identifiers": {"pmid": 7}}}, "data.identifiers.pmid"),
        ({"data": {"abstract": " ", "title": "\n"}}, "both empty"),
    ],
)
def test_a_wrong_value_is_named(changes, said):
    with pytest.raises(Malformed, match=said):
        parse_submitted(body(**changes))


@pytest.mark.parametrize("before_colon", ["", " ", "\n\t"], ids=["compact", "a space", "a line"])
@pytest.mark.parametrize("name", ["id", "data", "abstract", "doi", "project", "new"])
def test_a_name_given_twice_is_refused_since_nobody_could_say_which_was_meant(name, before_colon):
    data = {
        "abstract": 'It "said": so.',
        "identifiers": {"doi": "1"},
        "metadata": {"project": "p"},
        "new": [{"new": 1}],
    }
    sound = body(data=data)
    again = sound.replace(f'"{name}":'.encode(), f'"{name}"{before_colon}: null, "{name}":'.encode(), 1)

    assert parse_submitted(sound).abstract == data["abstract"]
    with pytest.raises(Malformed, match=f"'{name}' is given twice"):
        parse_submitted(again)


@pytest.mark.parametrize("before_colon", ["", " ", "\n\t"], ids=["compact", "a space", "a line"])
@pytest.mark.parametrize("name", ["id", "abstract"])
def test_a_name_given_twice_is_noticed_among_known_names_alone(name, before_colon):
    """Such events, the usual ones, are parsed strictly only because their names are more than were read."""
    again = body().replace(f'"{name}":'.encode(), f'"{name}"{before_colon}: "0", "{name}":'.encode(), 1)
    with pytest.raises(Malformed, match=f"'{name}' is given twice"):
        parse_submitted(again)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("where", ["envelope", "identifiers"])
def test_a_number_that_is_none_is_refused_also_where_nobody_reads_it(token, where):
    new = {"new": float(token)}
    changes = new if where == "envelope" else {"data": {"abstract": "Text.", "identifiers": new}}
    with pytest.raises(Malformed, match=f"{token} is not JSON") as refused:
        parse_submitted(body(**changes))
    assert refused.value.reason == "undecodable"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"mesh": [1] * 10_000}, "data.mesh.0: must be a string"),
        ({"metadata": {str(n): n for n in range(10_000)}}, "data.metadata: has 10000 entries: send at most 32"),
        ({"metadata": {"k" * 10_000: 1}}, f"data.metadata.{'k' * 40}: must be a string"),
        (
            {"metadata": {str(n): n for n in range(20)}},
            "; ".join(f"data.metadata.{n}: must be a string" for n in range(5)),
        ),
    ],
    ids=["many wrong values", "many entries", "a long name", "many wrong entries"],
)
def test_however_much_is_wrong_the_message_is_short(data, said):
    with pytest.raises(Malformed) as refused:
        parse_submitted(body(data={"abstract": "a", **data}))
    assert refused.value.message == said


def test_of_a_long_name_that_is_given_twice_only_the_beginning_is_repeated():
    twice = body().replace(b'"id":', b'"%s": 0, "%s": 0, "id":' % (b"k" * 10_000, b"k" * 10_000))
    with pytest.raises(Malformed) as refused:
        parse_submitted(twice)
    assert refused.value.message == f"{'k' * 40!r} is given twice in one object: send it once"


def test_an_unknown_type_names_the_known_ones():
    with pytest.raises(Malformed, match=r"abstream\.abstract\.submitted\.v1"):
        parse_event(body(type="other"))


def test_all_event_types_of_the_contract_are_known():
    kinds = ["abstract.submitted", "abstract.classified", "abstract.refused"]
    kinds += ["adapter.updated", "adapter.activated", "adapter.rejected", "adapter.shadowed"]
    assert sorted(EVENTS) == sorted(f"abstream.{kind}.v1" for kind in kinds)


@pytest.mark.parametrize(
    "answer",
    [
        {"label": "a", "confidence": 0.7, "probabilities": {"a": 0.7, "b": 0.2}},
        {"label": "a", "confidence": 0.3, "probabilities": {"a": 0.7, "b": 0.3}},
        {"label": "c", "confidence": 0.7, "probabilities": {"a": 0.7, "b": 0.3}},
        {"label": "a", "confidence": 1.5, "probabilities": {"a": 1.5, "b": -0.5}},
    ],
    ids=["no distribution", "another's confidence", "no such label", "no probability"],
)
def test_an_answer_is_a_distribution_or_nothing(answer):
    with pytest.raises(ValidationError):
        Answer(**answer)
