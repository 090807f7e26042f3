"""A published prediction is the event of the contract, although it is serialised without the contract's models."""

import json

import pytest
from abstream.consumer.answers import answer, identity, refusal
from abstream.consumer.engine import Classified, ServedModel
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.stages import Delivery, Inferred, Job, traces
from abstream.schemas import ONCOLOGY, Abstract, AbstractClassified, AbstractSubmitted, Malformed, Submission
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


def test_an_identity_tells_where_the_source_ends_and_the_id_begins():
    one, other = Submission("bc", "a", None, "Text."), Submission("c", "ab", None, "Text.")
    assert identity(one) != identity(other)
    assert identity(one) == identity(Submission("bc", "a", "Another title", "Another text."))


def test_an_entry_that_is_newer_than_the_clock_of_the_worker_has_waited_for_no_time():
    """Redis gives its id, by a clock that may be ahead."""
    engine = FakeEngine()
    submission = Submission.of(PLAIN)
    delivery = Delivery("bulk", f"{2**42}-0", None, 1, ("worker",), read_ms=2.0**41)
    job = Job(delivery, submission, engine.encode(submission), engine)
    [answered] = answer(Inferred([job], Classified(engine.model, [CANCER]), 0.25, 2.0**41), "worker")
    timing = parse_event(answered.event).data.timing
    assert (timing.queued_ms, timing.total_ms) == (0, 0)


def test_the_traces_of_a_batch_are_named_once_each_and_in_order():
    engine = FakeEngine()
    names = ["c" * 32, "a" * 32, "b" * 32, "a" * 32]
    parents = [f"00-{name}-00f067aa0ba902b7-01" for name in names] + ["no traceparent"]
    submissions = [Submission("1", "test", None, "Text.", carried_over={"traceparent": parent}) for parent in parents]
    delivery = Delivery("bulk", "1-0", None, 1, ("worker",))
    batch = [Job(delivery, one, engine.encode(one), engine) for one in submissions]
    assert traces(batch) == {"trace_ids": sorted(set(names))}
    assert traces(batch[-1:]) == {}


@pytest.mark.parametrize(
    ("reason", "retryable"),
    [
        ("undecodable", False),
        ("invalid", False),
        ("too_large", False),
        ("trimmed", False),
        ("max_deliveries", True),
        ("inference_error", True),
    ],
)
def test_a_refusal_is_retryable_where_the_entry_may_be_sound(reason, retryable):
    delivery = Delivery("bulk", "1-0", {b"title": b"A title"}, 1, ("worker",), stream="stream")
    refused = refusal(delivery, Malformed(reason, "why"), "worker")
    assert parse_event(refused.event).data.retryable is retryable
