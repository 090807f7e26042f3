"""What is published for a delivery: a prediction, or a refusal with its whole original. Pure."""

import hashlib
import time
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from ..schemas import (
    AbstractClassified,
    AbstractRefused,
    AbstractSubmitted,
    Event,
    Malformed,
    Prediction,
    Prompt,
    Streams,
)
from ..schemas.events import InputReceipt, Refusal, Timing
from ..schemas.originals import to_original
from .engine import LabelLogits, ServedModel
from .engine.scoring import answer
from .stages import Answered, Delivery, Job

# The entry itself may be sound: sent again, it may be answered.
_RETRYABLE = frozenset({"max_deliveries", "inference_error"})


def prediction(job: Job, model: ServedModel, logits: LabelLogits, inference_seconds: float, worker: str) -> Answered:
    """The answers to one abstract, with the receipt of the model that gave them.

    Raises:
        ArithmeticError: a logit is not a finite number.
    """
    delivery, event = job.delivery, job.event
    answers, review = answer(model, logits)
    text = Prompt.body(event.data)
    data = Prediction(
        answers=answers,
        review=review,
        model=model.receipt,
        input=InputReceipt(
            entry_id=delivery.entry_id,
            text_digest=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
            tokens=len(job.tokens.ids),
            truncated=job.tokens.truncated,
        ),
        timing=Timing(
            queued_ms=_since_submission(delivery, delivery.read_ms),
            inference_ms=inference_seconds * 1000,
            total_ms=_since_submission(delivery, time.time() * 1000),
        ),
        worker=worker,
        attempt=delivery.attempt,
        identifiers=event.data.identifiers,
        metadata=event.data.metadata,
    )
    return Answered(
        delivery, AbstractClassified(data=data, **follows(delivery.entry_id, event, worker)), identity(event)
    )


def refusal(
    delivery: Delivery, problem: Malformed, streams: Streams, worker: str, event: AbstractSubmitted | None = None
) -> Answered:
    """The refusal of a delivery: why, and the entry as it came, so that it can be mended and sent again."""
    data = Refusal(
        reason=problem.reason,
        message=problem.message,
        deliveries=delivery.attempt,
        consumers=delivery.consumers,
        retryable=problem.reason in _RETRYABLE,
        original=to_original(streams.lane(delivery.lane), delivery.entry_id, delivery.fields or {}),
    )
    refused = AbstractRefused(data=data, **follows(delivery.entry_id, event, worker))
    return Answered(delivery, refused, _digest(f"refused\0{delivery.lane}\0{delivery.entry_id}"))


def identity(event: AbstractSubmitted) -> bytes:
    """Of a submission: ``source`` and ``id``. Of a refusal it is the entry: mended, a submission may come again."""
    return _digest(f"{event.source}\0{event.id}")


def _digest(identity: str) -> bytes:
    """Twelve bytes: with 35 million events a day, a false duplicate once in 10^11 years."""
    return hashlib.blake2b(identity.encode(), digest_size=12).digest()


def follows(entry_id: str, event: Event | None, worker: str) -> dict[str, Any]:
    """The envelope's attributes that tie an answer to what it answers."""
    own = {
        "id": str(uuid4()),
        "source": f"urn:abstream:worker:{worker}",
        "time": datetime.now(timezone.utc),
        "sequence": entry_id,
    }
    if event is None:
        return own
    return own | {
        "causationid": event.id,
        "causationsource": event.source,
        "subject": event.subject,
        "traceparent": event.traceparent,
        "tracestate": event.tracestate,
        "correlationid": event.correlationid,
    }


def _since_submission(delivery: Delivery, now_ms: float) -> float:
    """Milliseconds since Redis made the entry; never negative, though the two clocks may differ."""
    return max(0.0, now_ms - int(delivery.entry_id.split("-")[0]))
