"""OpenTelemetry for a process of abstream's own: ``--tracing``.

Where spans go is set by OpenTelemetry's own variables, such as ``OTEL_EXPORTER_OTLP_ENDPOINT``.
"""

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from .. import __version__

_LAST_MILLISECONDS = 2_000  # for what is not sent yet when the process ends


def start(command: str) -> None:
    """Send the spans of this process, as those of the service ``abstream COMMAND``, over HTTP."""
    about = {"service.name": f"abstream {command}", "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Send the remaining spans of a process that skips Python's normal shutdown."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(_LAST_MILLISECONDS)
