"""OpenTelemetry spans for abstracts that arrived as part of a trace.

They are created when the answers are published, with the times at which things happened. So tracing costs nothing
before that, and no span is left without an end. Importing this module imports OpenTelemetry.
"""

from collections.abc import Sequence
from itertools import compress

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_current_span,
    get_tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from ..schemas import Submission
from .stages import Answered, Inferred, Job, Predicted, Refused

_PROPAGATOR = TraceContextTextMapPropagator()


class Spans:
    """Creates a span for each abstract, from its read to its answer, and one for its batch's forward pass."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """``provider`` is the program's global one if None."""
        self._tracer = get_tracer("abstream", tracer_provider=provider)

    def observe(self, inferred: Inferred, answered: Sequence[Answered]) -> None:
        """Record a batch that was published; abstracts without a trace, or whose trace is not sampled, are left out."""
        parents = [_parent(job.event) for job in inferred.batch]
        if any(parents):
            forward_pass = self._forward_pass(inferred)
            link = Link(forward_pass.get_span_context())
            traced = compress(zip(inferred.batch, answered, parents, strict=True), parents)
            for job, one, parent in traced:
                span = self._answered(job, one, parent, link)
                forward_pass.add_link(span.get_span_context())
                span.end()
            forward_pass.end(_nanoseconds(inferred.ended_ms))

    def _forward_pass(self, inferred: Inferred) -> Span:
        return self._tracer.start_span(
            "forward pass",
            Context(),
            attributes={
                "abstream.batch.abstracts": len(inferred.batch),
                "abstream.batch.tokens": sum(len(job.tokens.ids) for job in inferred.batch),
            },
            start_time=_nanoseconds(inferred.ended_ms - 1000 * inferred.seconds),
        )

    def _answered(self, job: Job, answered: Answered, parent: Context | None, link: Link) -> Span:
        delivery = job.delivery
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "redis",
            "messaging.destination.name": delivery.stream,
            "messaging.operation.type": "process",
            "messaging.message.id": delivery.entry_id,
            "abstream.attempt": delivery.attempt,
            "abstream.tokens": len(job.tokens.ids),
            "abstream.adapter_digest": job.engine.model.receipt.adapter_digest or "",
        }
        span = self._tracer.start_span(
            f"process {delivery.stream}", parent, SpanKind.CONSUMER, attributes, [link], _nanoseconds(delivery.read_ms)
        )
        span.set_attributes(_said(answered))
        if isinstance(answered, Refused):
            span.set_status(Status(StatusCode.ERROR, answered.reason))
        return span


def _parent(event: Submission) -> Context | None:
    """The span in which the abstract was published; None if there is none, or if it is not sampled."""
    if "traceparent" not in event.carried_over:
        return None
    parent = _PROPAGATOR.extract({"tracestate": "", **event.carried_over}, Context())
    return parent if get_current_span(parent).get_span_context().trace_flags.sampled else None


def _said(answered: Answered) -> dict[str, AttributeValue]:
    if not isinstance(answered, Predicted):
        return {}
    labels: dict[str, AttributeValue] = {f"abstream.{name}": one["label"] for name, one in answered.answers.items()}
    return labels | {"abstream.review": answered.review.required}


def _nanoseconds(milliseconds: float) -> int:
    return int(milliseconds * 1_000_000)
