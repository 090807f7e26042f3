"""A published prediction is the event of the contract, although it is serialised without the contract's models."""

import json

import pytest
from abstream.consumer.answers import answer
from abstream.consumer.engine import Classified, ServedModel
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.stages import Delivery, Inferred, Job
from abstream.schemas import ONCOLOGY, Abstract, AbstractClassified, AbstractSubmitted, Submission
from abstream.schemas.events import Identifiers
from abstream.schemas.parsing import parse_event
from hypothesis import given
from hypothesis import strategies as st

CANCER = ((4.0, -4.0), (0.0,) * 19 + (3.0,))
NON_CANCER = ((-4.0, 4.0), (0.0,) * 20)

PLAIN = AbstractSubmitted(id="1", source="test", data=Abstract(title="β ≥ é 漢", abstract="Text."))
FULL = AbstractSubmitted(
    id="2",
    source="test",
    subject="pmid:7",
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    tracestate="a=b",
    correlationid="c",
    data=Abstract(abstract="Text.", identifiers=Identifiers(pmid="7", newer=10**30), metadata={"batch": '"x"'}),
)


def texts(least: int = 0) -> st.SearchStrategy[str]:
    """Any text that JSON can represent."""
    return st.text(st.characters(codec="utf-8"), min_size=least, max_size=20)


def published(event: AbstractSubmitted, logits, fields: dict[bytes, bytes] | None = None, **model) -> bytes:
    engine = FakeEngine()
    delivery = Delivery("bulk", "1700000000000-3", fields, 2, ("dead", "worker"))
    job = Job(delivery, Submission.of(event), engine.encode(event.data), engine)
    served = ServedModel(receipt=engine.model.receipt, task=ONCOLOGY, **model)
    inferred = Inferred([job], Classified(served, [logits]), 0.25, 1_700_000_000_000.0)
    [answered] = answer(inferred, "worker")
    return answered.event


def same(event: AbstractClassified, body: bytes) -> bool:
    """Whether ``body`` is what the event's model would serialise: the same fields, no others, in the same form."""
    return (
        json.loads(event.to_json()) == json.loads(body)
        and not event.model_extra
        and not event.data.model_extra
        and event.data.model_fields_set == set(type(event.data).model_fields)
    )


@pytest.mark.parametrize("submitted", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("logits", [CANCER, NON_CANCER], ids=["cancer", "non-cancer"])
def test_a_prediction_is_serialised_as_its_model_would(submitted, logits):
    body = published(submitted, logits, thresholds={"cancer_type": 0.9})
    assert same(parse_event(body), body)


@given(
    submitted=st.builds(
        AbstractSubmitted,
        id=texts(1),
        source=texts(1),
        subject=st.none() | texts(1),
        data=st.builds(
            Abstract,
            title=st.none() | texts(),
            abstract=texts(1).filter(str.strip),
            identifiers=st.builds(Identifiers, pmid=st.none() | texts(), newer=st.integers() | texts()),
            metadata=st.dictionaries(texts(), texts(), max_size=3),
        ),
    ),
    logits=st.tuples(*[st.tuples(*[st.floats(-30, 30)] * len(question.labels)) for question in ONCOLOGY.questions]),
    threshold=st.floats(0, 1),
)
def test_any_prediction_is_serialised_as_its_model_would(submitted, logits, threshold):
    body = published(submitted, logits, thresholds={"cancer": threshold})
    assert same(parse_event(body), body)


def test_a_prediction_carries_over_the_attributes_of_its_submission():
    event = parse_event(published(FULL, CANCER))

    tied = {name: getattr(event, name) for name in ("subject", "traceparent", "tracestate", "correlationid")}
    assert tied == {name: getattr(FULL, name) for name in tied}
    assert (event.causationid, event.causationsource, event.sequence) == ("2", "test", "1700000000000-3")
    assert (event.data.identifiers, event.data.metadata) == (FULL.data.identifiers, FULL.data.metadata)
    assert (event.data.attempt, event.data.timing.inference_ms) == (2, 250)


def test_an_unsure_prediction_says_what_to_review():
    event = parse_event(published(PLAIN, CANCER, thresholds={"cancer_type": 0.9}))
    assert (event.data.review.required, event.data.review.reason) == (True, "low confidence: cancer_type")


def test_the_prediction_of_a_replayed_entry_names_the_refusal():
    """In an envelope attribute; names of CloudEvents attributes contain no underscore."""
    assert parse_event(published(PLAIN, CANCER, {b"replay_of": b"7"})).model_extra == {"replayof": "7"}


def test_two_predictions_are_two_events():
    assert parse_event(published(PLAIN, CANCER)).id != parse_event(published(PLAIN, CANCER)).id
