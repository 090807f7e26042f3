"""What is published for an abstract is the contract's event, though it is written without the contract's models."""

import json

import pytest
from abstream.consumer.answers import Letterhead
from abstream.consumer.engine import ServedModel
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.stages import Delivery, Job
from abstream.schemas import ONCOLOGY, Abstract, AbstractClassified, AbstractSubmitted
from abstream.schemas.events import Identifiers
from abstream.schemas.parsing import parse_event

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


def published(event: AbstractSubmitted, logits, **model) -> bytes:
    engine = FakeEngine()
    delivery = Delivery("bulk", "1700000000000-3", None, 2, ("dead", "worker"))
    job = Job(delivery, event, engine.encode(event.data), engine)
    served = ServedModel(receipt=engine.model.receipt, task=ONCOLOGY, **model)
    return Letterhead(served, 0.25, "worker").prediction(job, logits).event


@pytest.mark.parametrize("submitted", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("logits", [CANCER, NON_CANCER], ids=["cancer", "non-cancer"])
def test_a_prediction_is_what_its_model_would_write(submitted, logits):
    """Every field is there, none is beside it, and each has the same form."""
    body = published(submitted, logits, thresholds={"cancer_type": 0.9})

    event = parse_event(body)

    assert isinstance(event, AbstractClassified)
    assert json.loads(event.to_json()) == json.loads(body)
    assert not event.model_extra
    assert not event.data.model_extra
    assert event.data.model_fields_set == set(type(event.data).model_fields)


def test_a_prediction_carries_over_what_its_submission_said():
    event = parse_event(published(FULL, CANCER))

    tied = {name: getattr(event, name) for name in ("subject", "traceparent", "tracestate", "correlationid")}
    assert tied == {name: getattr(FULL, name) for name in tied}
    assert (event.causationid, event.causationsource, event.sequence) == ("2", "test", "1700000000000-3")
    assert (event.data.identifiers, event.data.metadata) == (FULL.data.identifiers, FULL.data.metadata)
    assert (event.data.attempt, event.data.timing.inference_ms) == (2, 250)


def test_an_unsure_prediction_says_what_to_review():
    event = parse_event(published(PLAIN, CANCER, thresholds={"cancer_type": 0.9}))
    assert (event.data.review.required, event.data.review.reason) == (True, "low confidence: cancer_type")


def test_two_predictions_are_two_events():
    assert parse_event(published(PLAIN, CANCER)).id != parse_event(published(PLAIN, CANCER)).id
