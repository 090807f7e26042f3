"""Passing on the trace that a publishing is part of, if the program uses OpenTelemetry.

If the program does not import OpenTelemetry, neither does this module. If it has no tracer provider, nothing is done.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Trace(NamedTuple):
    """A position in a trace as the W3C writes it; None outside of a trace."""

    traceparent: str | None = None
    tracestate: str | None = None


@contextmanager
def sending(stream: str) -> Iterator[Trace]:
    """Open a span around a publishing to ``stream``; yields what its events carry on."""
    if "opentelemetry.trace" not in sys.modules:
        yield Trace()
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if isinstance(provider := trace.get_tracer_provider(), trace.ProxyTracerProvider):
        yield Trace()
        return
    attributes = {"messaging.system": "redis", "messaging.destination.name": stream, "messaging.operation.type": "send"}
    tracer, carried = provider.get_tracer("abstream"), dict[str, str]()
    with tracer.start_as_current_span(f"send {stream}", kind=trace.SpanKind.PRODUCER, attributes=attributes):
        TraceContextTextMapPropagator().inject(carried)
        yield Trace(carried.get("traceparent"), carried.get("tracestate"))
