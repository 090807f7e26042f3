"""A trace goes on from the publisher through the stream to the answer. OpenTelemetry is optional."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from abstream import Abstract, Publisher
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.tracing import Spans
from abstream.ops.embedded import embedded_redis
from abstream.schemas.streams import from_fields
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from .conftest import wait_until


class Tracing:
    """The tracing set-up of a program, which keeps its spans in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.sample(ALWAYS_ON)

    def sample(self, sampler: Sampler) -> None:
        self.provider = TracerProvider(sampler=ParentBased(sampler))
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def named(self, beginning: str) -> list:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(beginning)]


@pytest.fixture
def tracing(monkeypatch) -> Tracing:
    tracing = Tracing()
    # The real provider can be set only once in a process.
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: tracing.provider)
    return tracing


@pytest.fixture
def traced_worker(workers, streams, tracing):
    async def run(engine: FakeEngine | None = None) -> None:
        worker = workers.new(engine=engine)
        worker.observers.append(Spans(tracing.provider).observe)
        await worker.source.create_groups()
        await worker.run()

    return run


async def test_the_answer_is_part_of_the_publishers_trace(tracing, traced_worker, publisher, redis, streams):
    with tracing.provider.get_tracer("test").start_as_current_span("import"):
        await publisher.publish_many((str(number), Abstract(abstract=f"Text {number}")) for number in range(3))
    await traced_worker()

    [whole], [sent], answered = tracing.named("import"), tracing.named("send"), tracing.named("process")
    assert sent.name == f"send {streams.lane('interactive')}"
    assert sent.parent.span_id == whole.context.span_id
    assert [span.parent.span_id for span in answered] == [sent.context.span_id] * 3
    assert {span.context.trace_id for span in answered} == {whole.context.trace_id}

    results = [from_fields(fields) for _, fields in await redis.xrange(streams.predictions)]
    trace_id, span_id = format_trace_id(whole.context.trace_id), format_span_id(sent.context.span_id)
    assert {result.traceparent[:-3] for result in results} == {f"00-{trace_id}-{span_id}"}
    said = {span.attributes["messaging.message.id"]: span.attributes["abstream.cancer"] for span in answered}
    assert said == {result.sequence: result.data.answers["cancer"].label for result in results}


async def test_the_span_of_a_batch_is_linked_with_those_of_its_abstracts(tracing, traced_worker, publisher):
    await publisher.publish_many((str(number), Abstract(abstract=f"Text {number}")) for number in range(3))
    await traced_worker()

    [batch], answered = tracing.named("forward pass"), tracing.named("process")
    assert batch.parent is None
    assert {link.context.span_id for link in batch.links} == {span.context.span_id for span in answered}
    assert [[link.context.span_id for link in span.links] for span in answered] == [[batch.context.span_id]] * 3
    assert batch.attributes["abstream.batch.abstracts"] == 3
    for span in answered:
        assert span.start_time <= batch.end_time <= span.end_time
        assert batch.start_time <= batch.end_time


async def test_no_span_holds_a_text(tracing, traced_worker, publisher):
    await publisher.publish(Abstract(title="Secretive", abstract="Confidential."))
    await traced_worker()
    assert len(tracing.exporter.get_finished_spans()) == 3
    for span in tracing.exporter.get_finished_spans():
        assert "Secretive" not in span.to_json()
        assert "Confidential" not in span.to_json()


class Broken(FakeEngine):
    """Fails on abstracts of one token."""

    def classify(self, batch):
        if any(len(tokens.ids) == 1 for tokens in batch):
            raise RuntimeError
        return super().classify(batch)


async def test_the_span_of_a_refused_abstract_says_why(tracing, traced_worker, publisher):
    await publisher.publish(Abstract(abstract="Short"))
    await traced_worker(Broken())
    [span] = tracing.named("process")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "inference_error")


@pytest.mark.parametrize("traceparent", [None, "no trace", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_an_entry_without_a_trace_gets_no_span(tracing, traced_worker, redis, streams, traceparent):
    event = {"specversion": "1.0", "type": "abstream.abstract.submitted.v1", "id": "1", "source": "s"}
    event |= {"traceparent": traceparent} if traceparent else {}
    body = str(event | {"data": {"abstract": "x"}}).replace("'", '"')
    await redis.xadd(streams.lane("interactive"), {"event": body})
    await traced_worker()
    assert await redis.xlen(streams.predictions) == 1
    assert tracing.exporter.get_finished_spans() == ()


async def test_a_trace_that_is_not_sampled_gets_no_span(tracing, traced_worker, publisher, redis, streams):
    tracing.sample(ALWAYS_OFF)
    await publisher.publish(Abstract(abstract="x"))
    tracing.sample(ALWAYS_ON)
    await traced_worker()
    [(_, fields)] = await redis.xrange(streams.predictions)
    assert int(from_fields(fields).traceparent[-2:], 16) & 1 == 0
    assert tracing.exporter.get_finished_spans() == ()


async def test_a_publisher_in_a_program_without_tracing_adds_no_traceparent(publisher, redis, streams):
    await publisher.publish(Abstract(abstract="x"))
    [(_, fields)] = await redis.xrange(streams.lane("interactive"))
    assert from_fields(fields).traceparent is None


def test_opentelemetry_need_not_be_installed(server, namespace):
    code = f"""
import asyncio, sys
sys.modules["opentelemetry"] = None
import abstream, abstream.ops.working
async def publish():
    async with abstream.Publisher({server!r}, namespace={namespace!r}) as publisher:
        await publisher.publish(abstream.Abstract(abstract="x"))
asyncio.run(publish())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class Collector(HTTPServer):
    """A collector that keeps what exporters send."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Keep)
        self.bodies: list[bytes] = []

    def received(self, text: str) -> bool:
        return any(text.encode() in body for body in self.bodies)


class Keep(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args) -> None:
        pass


async def test_a_worker_sends_its_spans_before_it_leaves(tracing):
    """End to end: ``abstream --tracing work`` exports to a collector over HTTP."""
    with embedded_redis() as url, Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        async with Publisher(url) as publisher:
            await publisher.publish(Abstract(abstract="x"))
        command = (sys.executable, "-m", "abstream.ops", "--redis-url", url, "--tracing", "work", "--engine", "fake")
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
        subprocess.run([*command, "--burst"], env=os.environ | where, check=True, capture_output=True)
        await wait_until(lambda: collector.received("forward pass"), "the spans")
        assert collector.received("abstream work")
        assert collector.received("process {abstream}:abstracts")
        collector.shutdown()
