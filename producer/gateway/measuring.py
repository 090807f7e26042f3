"""The metrics of a gateway. Labels have closed sets of values: never an id, never a raw path."""

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .tail import Tail
from .waiting import Waiting

_METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"})

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # a client may wait for its result


class Measurements:
    """The metrics of one gateway."""

    def __init__(self, version: str, tail: Tail, waiting: Waiting) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "abstream_gateway_requests", "HTTP requests", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "abstream_gateway_request_seconds", "Seconds until the response starts", ["method", "route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._taken = Counter("abstream_gateway_abstracts", "Abstracts accepted", ["lane"], registry=registry)
        self._broken = Counter("abstream_gateway_broken_records", "Records rejected as invalid", registry=registry)
        subscribers = Gauge("abstream_gateway_subscribers", "Open streams of predictions", registry=registry)
        subscribers.set_function(lambda: tail.subscribers)
        waits = Gauge("abstream_gateway_waiting", "Requests waiting for a result", registry=registry)
        waits.set_function(lambda: len(waiting))
        build = Gauge("abstream_build_info", "Always 1, labelled with the version", ["version"], registry=registry)
        build.labels(version).set(1)

    def taken(self, lane: str, count: int) -> None:
        """Count abstracts that were sent to a lane."""
        self._taken.labels(lane).inc(count)

    def broken(self, count: int) -> None:
        """Count records that were not accepted."""
        self._broken.inc(count)

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request when its response begins."""
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route: Any = scope.get("route")
        template = str(getattr(route, "path", "none"))
        self._requests.labels(method, template, str(status)).inc()
        self._seconds.labels(method, template).observe(seconds)


class Measured:
    """Counts and times every request of an application."""

    def __init__(self, app: ASGIApp, measurements: Measurements) -> None:
        self._app = app
        self._measurements = measurements

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._measurements.answered(scope, message["status"], time.perf_counter() - begun)
            await send(message)

        await self._app(scope, receive, sending)
