"""What is published for a delivery: a prediction, or a refusal with its whole original. Pure."""

import hashlib
import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from pydantic import TypeAdapter

from ..schemas import AbstractClassified, AbstractRefused, AbstractSubmitted, Event, Malformed, Prompt, Streams
from ..schemas.events import Refusal
from ..schemas.originals import to_original
from ..schemas.streams import REPLAY_FIELD
from .engine import LabelLogits, ServedModel
from .engine.scoring import score
from .stages import Delivery, Job, Predicted, Refused

_JSON = TypeAdapter(dict[str, Any])
# What the envelopes of all results have in common.
_CLASSIFIED = {
    name: AbstractClassified.model_fields[name].default for name in ("specversion", "type", "datacontenttype")
}

# The entry itself may be sound: sent again, it may be answered.
_RETRYABLE = frozenset({"max_deliveries", "inference_error"})


def prediction(job: Job, model: ServedModel, logits: LabelLogits, inference_seconds: float, worker: str) -> Predicted:
    """The answers to one abstract, with the receipt of the model that gave them.

    An ``AbstractClassified``, written from plain values: they are our own, and to make a model of each and validate it
    took a quarter of a worker's time (ops/bench/RESULTS.md, "Plumbing"). The tests hold that it is one.

    Raises:
        ArithmeticError: a logit is not a finite number.
    """
    delivery, event = job.delivery, job.event
    answers, review = score(model, logits)
    text = Prompt.body(event.data)
    submitted_ms = int(delivery.entry_id.partition("-")[0])
    queued_ms, total_ms = _since(submitted_ms, delivery.read_ms), _since(submitted_ms, time.time() * 1000)
    data = {
        "answers": answers,
        "review": review,
        "model": model.receipt,
        "input": {
            "entry_id": delivery.entry_id,
            "text_digest": f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
            "tokens": len(job.tokens.ids),
            "truncated": job.tokens.truncated,
        },
        "timing": {"queued_ms": queued_ms, "inference_ms": inference_seconds * 1000, "total_ms": total_ms},
        "worker": worker,
        "attempt": delivery.attempt,
        "identifiers": event.data.identifiers,
        "metadata": event.data.metadata,
    }
    ties = {name: value for name, value in follows(delivery.entry_id, event, worker).items() if value is not None}
    if replay_of := _replay_of(delivery):
        ties["replayof"] = replay_of  # names of CloudEvents attributes are of letters and digits
    body = _JSON.dump_json({**_CLASSIFIED, **ties, "data": data})
    return Predicted(delivery, body, identity(event), answers, review, queued_ms, total_ms)


def refusal(
    delivery: Delivery, problem: Malformed, streams: Streams, worker: str, event: AbstractSubmitted | None = None
) -> Refused:
    """The refusal of a delivery: why, and the entry as it came, so that it can be mended and sent again."""
    data = Refusal(
        reason=problem.reason,
        message=problem.message,
        deliveries=delivery.attempt,
        consumers=delivery.consumers,
        retryable=problem.reason in _RETRYABLE,
        original=to_original(streams.lane(delivery.lane), delivery.entry_id, delivery.fields or {}),
        replay_of=_replay_of(delivery),
    )
    refused = AbstractRefused(data=data, **follows(delivery.entry_id, event, worker))
    entry = _digest(f"refused\0{delivery.lane}\0{delivery.entry_id}")
    # Its fields are in the event now, and may be large.
    return Refused(replace(delivery, fields=None), refused.to_json(), entry, problem.reason)


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


def _replay_of(delivery: Delivery) -> str | None:
    """The refusal, by its event's id, that an operator answered by sending the entry again."""
    refusal = (delivery.fields or {}).get(REPLAY_FIELD.encode())
    return refusal.decode(errors="replace") if refusal else None


def _since(submitted_ms: int, now_ms: float) -> float:
    """Milliseconds since Redis made the entry; never negative, though the two clocks may differ."""
    return max(0.0, now_ms - submitted_ms)
