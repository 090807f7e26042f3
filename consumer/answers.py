"""What is published for a delivery: a prediction, or a refusal with its whole original. Pure."""

import time
from datetime import datetime, timezone
from hashlib import blake2b, sha256
from secrets import token_hex
from typing import Any

import orjson
from msgspec.structs import replace
from orjson import Fragment

from ..schemas import AbstractClassified, AbstractRefused, Event, Malformed, Prompt, Submission
from ..schemas.events import Identifiers, ModelReceipt, Refusal
from ..schemas.originals import to_original
from ..schemas.streams import REPLAY_FIELD, cause_in
from .engine.scoring import NOT_FINITE, Scores, score_batch
from .stages import Answered, Delivery, Inferred, Job, Predicted, Refused

# The same in the envelopes of all results.
_SPECVERSION, _TYPE, _CONTENT_TYPE = (
    AbstractClassified.model_fields[name].default for name in ("specversion", "type", "datacontenttype")
)
_REPLAY = REPLAY_FIELD.encode()  # as Redis gives it
_NO_IDENTIFIERS: dict[str, Any] = dict.fromkeys(Identifiers.model_fields)

# The entry may be sound, and be answered if it is sent again.
_RETRYABLE = frozenset({"max_deliveries", "inference_error"})


def answer(inferred: Inferred, worker: str) -> list[Answered]:
    """What is published for each abstract of a batch: its prediction, or a refusal if the model failed on it."""
    if inferred.classified is None:
        return [_failed(job, "the model failed on this abstract alone", worker) for job in inferred.batch]
    model, logits = inferred.classified.model, inferred.classified.logits
    letterhead = Letterhead(model.receipt, inferred.seconds, worker)
    return [
        letterhead.prediction(job, scores) if scores else _failed(job, NOT_FINITE, worker)
        for job, scores in zip(inferred.batch, score_batch(model, logits), strict=True)
    ]


class Letterhead:
    """Writes the predictions of one batch. What they have in common is made once; their ids share a beginning."""

    def __init__(self, receipt: ModelReceipt, inference_seconds: float, worker: str) -> None:
        self._receipt = Fragment(receipt.model_dump_json())
        self._inference_ms = inference_seconds * 1000
        self._worker = worker
        self._now_ms = time.time() * 1000
        self._batch_id = token_hex(16)
        self._written = 0
        now = datetime.fromtimestamp(self._now_ms / 1000, timezone.utc)
        self._source = source_of(worker)
        self._time = now.isoformat().replace("+00:00", "Z")

    def prediction(self, job: Job, scores: Scores) -> Predicted:
        """The answers to one abstract, with the receipt of the model that gave them.

        It is an ``AbstractClassified``, written from plain values: building and validating models of our own values
        took a quarter of a worker's time (ops/bench/RESULTS.md, "Plumbing"). Tests check that it is valid.
        """
        answers, review = scores
        delivery, event, tokens = job.delivery, job.event, job.tokens
        entry_id = delivery.entry_id
        submitted_ms = int(entry_id.partition("-")[0])
        queued_ms, total_ms = _since(submitted_ms, delivery.read_ms), _since(submitted_ms, self._now_ms)
        self._written += 1
        said = {
            "specversion": _SPECVERSION,
            "type": _TYPE,
            "datacontenttype": _CONTENT_TYPE,
            "source": self._source,
            "time": self._time,
            "id": f"{self._batch_id}-{self._written}",
            "sequence": entry_id,
            "causationid": event.id,
            "causationsource": event.source,
            "data": {
                "answers": answers,
                "review": vars(review),
                "model": self._receipt,
                "input": {
                    "entry_id": entry_id,
                    "text_digest": f"sha256:{sha256(Prompt.body(event).encode()).hexdigest()}",
                    "tokens": len(tokens.ids),
                    "truncated": tokens.truncated,
                },
                "timing": {"queued_ms": queued_ms, "inference_ms": self._inference_ms, "total_ms": total_ms},
                "worker": self._worker,
                "attempt": delivery.attempt,
                "identifiers": _identifiers(event),
                "metadata": event.metadata,
            },
        }
        if event.carried_over:
            said.update(event.carried_over)
        if replay_of := _replay_of(delivery):
            said["replayof"] = replay_of  # names of CloudEvents attributes have only letters and digits
        return Predicted(delivery, orjson.dumps(said), identity(event), answers, review, queued_ms, total_ms)


def _identifiers(event: Submission) -> dict[str, Any] | Fragment:
    """Unknown identifiers are serialized by pydantic, because a number may be longer than orjson supports."""
    sent = event.identifiers
    if sent.keys() <= _NO_IDENTIFIERS.keys():
        return {**_NO_IDENTIFIERS, **sent}
    return Fragment(Identifiers(**sent).model_dump_json())


def _failed(job: Job, why: str, worker: str) -> Refused:
    problem = Malformed("inference_error", f"{why}: look at the worker's log, then replay it")
    return refusal(job.delivery, problem, worker, job.event)


def refusal(delivery: Delivery, problem: Malformed, worker: str, event: Submission | None = None) -> Refused:
    """The refusal of a delivery: the reason, and the original entry, so that it can be mended and sent again."""
    fields = delivery.fields or {}
    data = Refusal(
        reason=problem.reason,
        message=problem.message,
        deliveries=delivery.attempt,
        consumers=delivery.consumers,
        retryable=problem.reason in _RETRYABLE,
        replay_of=_replay_of(delivery),
        original=to_original(delivery.stream, delivery.entry_id, fields),
    )
    cause: dict[str, Any] = {} if event else cause_in(fields)
    # They are in the original now, and may have 10 MB: do not keep them twice.
    fields.clear()
    delivery = replace(delivery, fields=None)
    refused = AbstractRefused(data=data, **follows(delivery.entry_id, event, worker), **cause)
    return Refused(delivery, _to_json(refused), identity(event) if event else b"", problem.reason)


def _to_json(refused: AbstractRefused) -> bytes:
    """As its ``to_json``, which would copy an original that may have 10 MB once more."""
    return orjson.dumps(refused.model_dump(mode="json", exclude=refused.absent()))


def identity(event: Submission) -> bytes:
    """Twelve bytes for ``source`` and ``id``: with 35 million events a day, one false duplicate in 10^11 years."""
    return blake2b(f"{event.source}\0{event.id}".encode(), digest_size=12).digest()


def follows(entry_id: str, event: Event | Submission | None, worker: str) -> dict[str, Any]:
    """The attributes of an envelope that link an answer to what it answers."""
    own = {
        "id": token_hex(16),
        "source": source_of(worker),
        "time": datetime.now(timezone.utc),
        "sequence": entry_id,
    }
    if event is None:
        return own
    return own | {"causationid": event.id, "causationsource": event.source, **event.carried_over}


def source_of(worker: str) -> str:
    """The ``source`` of events that a worker publishes."""
    return f"urn:abstream:worker:{worker}"


def _replay_of(delivery: Delivery) -> str | None:
    """The event id of the refusal whose entry was sent again, if this is such an entry."""
    refusal = delivery.fields.get(_REPLAY) if delivery.fields else None
    return refusal.decode(errors="replace") if refusal else None


def _since(submitted_ms: int, now_ms: float) -> float:
    """Milliseconds since the entry was added; never negative, although the two clocks may differ."""
    return max(0.0, now_ms - submitted_ms)
