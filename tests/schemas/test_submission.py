"""A submission is read without the models where that cannot make a difference."""

import json
from contextlib import suppress

import pytest
from abstream import Abstract, AbstractSubmitted, Malformed
from abstream.schemas import Submission, submission
from abstream.schemas.decoding import check_names
from abstream.schemas.events import Identifiers
from abstream.schemas.parsing import received

from ..consumer.mutations import ODD_TOKENS, ODD_VALUES

DATA = Abstract(
    title="A title",
    abstract="Text: of a trial.",
    identifiers=Identifiers(pmid="1", pmcid="PMC1", doi="10.1/1"),
    journal="J",
    year=2026,
    language="eng",
    publication_types=("Journal Article",),
    mesh=("Neoplasms",),
    metadata={"project": "p"},
)
EVENT = AbstractSubmitted.of(
    DATA,
    "1",
    source="urn:test",
    subject="pmid:1",
    time="2026-11-30T12:00:00Z",
    dataschema="urn:schema",
    traceparent="00-1",
    tracestate="a=b",
    causationid="0",
    causationsource="urn:test",
    correlationid="c",
    sequence="7",
)
PATHS = [*((name,) for name in AbstractSubmitted.model_fields), *(("data", name) for name in Abstract.model_fields)]
PATHS += [("data", "identifiers", "pmid"), ("data", "metadata", "project")]
TIMES = [
    "2026-11-30 12:00:00Z", "2026-11-30t12:00:00z", "2026-11-30T12:00:00", "2026-11-30", "12:00:00Z",
    "2026-11-30T24:00:00Z", "2026-11-30T23:59:60Z", "2026-02-29T12:00:00Z", "0000-01-01T00:00:00Z",
    "2026-11-30T12:00:00.123456789Z", "2026-11-30T12:00:00,5Z", "2026-11-30T12:00:00+25:00",
    "2026-11-30T12:00:00-00:00", "2026-11-30T12:00:00+2360", "2026-11-30T12:00Z", "1796040000", 1796040000, 1.5,
]  # fmt: skip
TOKENS = [*(json.dumps(value).encode() for value in [*ODD_VALUES, *TIMES]), *ODD_TOKENS, b'"\xff"', b'"\xed\xa0\x80"']


class LeftToModels(Exception):
    """An event is not ordinary, or breaks a rule: the models read it."""


@pytest.fixture
def without_models(monkeypatch):
    def leave(*_: object) -> None:
        raise LeftToModels

    monkeypatch.setattr(submission, "received", leave)


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_what_is_read_without_the_models_is_what_they_would_read(path, without_models):
    for token in TOKENS:
        body = event_with(path, token)
        with suppress(LeftToModels):
            assert submission.parse_submitted(body) == read_by_models(body), token[:80]


def test_an_event_with_every_field_is_read_without_the_models(without_models):
    assert submission.parse_submitted(EVENT.to_json()) == Submission.of(EVENT)


def test_a_submission_has_all_that_is_needed_for_its_answer():
    read = submission.parse_submitted(event_with(("correlationid",), b"null"))

    assert (read.id, read.source, read.title, read.abstract) == ("1", "urn:test", "A title", "Text: of a trial.")
    assert read.identifiers == {"pmid": "1", "pmcid": "PMC1", "doi": "10.1/1"}
    assert (read.mesh, read.metadata) == (("Neoplasms",), {"project": "p"})
    assert read.carried_over == {"subject": "pmid:1", "traceparent": "00-1", "tracestate": "a=b"}


@pytest.mark.parametrize(
    ("ordinary", "model"),
    [
        (submission.OrdinaryEvent, AbstractSubmitted),
        (submission.OrdinaryAbstract, Abstract),
        (submission.OrdinaryIdentifiers, Identifiers),
    ],
)
def test_an_ordinary_event_may_have_every_field_of_the_contract(ordinary, model):
    assert ordinary.__annotations__.keys() == model.model_fields.keys()


def event_with(path: tuple[str, ...], token: bytes) -> bytes:
    """The event's JSON with another value at the path."""
    event = json.loads(EVENT.to_json())
    holder = event
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = "here"
    return json.dumps(event).encode().replace(b'"here"', token)


def read_by_models(body: bytes) -> Submission | None:
    try:
        check_names(body)
        return Submission.of(received(AbstractSubmitted, body))
    except Malformed:
        return None
