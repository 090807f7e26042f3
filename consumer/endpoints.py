"""The worker's HTTP endpoints: ``/metrics``, ``/healthz`` and ``/readyz``."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http.server import ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import structlog
from prometheus_client import CollectorRegistry, MetricsHandler
from redis.exceptions import RedisError

from ..schemas import AbstreamError
from .backlog import Broker
from .health import BRING_BACK, Check, Health

log = structlog.get_logger()


class Endpoints(ThreadingHTTPServer):
    """Answers from threads of its own, so that it works even if the worker's loop is stuck."""

    def __init__(
        self,
        port: int,
        registry: CollectorRegistry,
        wedged: Callable[[], str | None],
        checks: Callable[[], Mapping[str, Check]],
    ) -> None:
        """Listen on all interfaces.

        Args:
            port: 0 picks a free one, which is then in ``server_port``.
            registry: the metrics.
            wedged: why ``/healthz`` fails; None if it does not.
            checks: the checks of ``/readyz``.
        """
        super().__init__(("", port), _Handler)
        self.registry = registry
        self.wedged = wedged
        self.checks = checks

    def server_bind(self) -> None:
        """
        Raises:
            AbstreamError: the port is taken, or this user may not listen on it.
        """
        try:
            super().server_bind()
        except OSError as error:
            raise AbstreamError(f"--metrics-port {self.server_address[1]}: {error.strerror}: name another") from error

    def start(self) -> None:
        """Serve until ``close`` or until the process ends."""
        Thread(target=self.serve_forever, name="endpoints", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Usually a client that did not wait for its answer: log a line, and print no traceback."""
        log.warning("endpoint_failed", client=str(client_address), error=repr(sys.exc_info()[1]))


class _Handler(MetricsHandler):
    server: Endpoints
    timeout = 10  # seconds for a client to send its request

    def do_GET(self) -> None:  # noqa: N802 (the name that http.server calls)
        path = urlsplit(self.path).path
        if path == "/metrics":
            self.registry = self.server.registry
            super().do_GET()
        elif path == "/healthz":
            reason = self.server.wedged()
            self._answer(reason is None, {"alive": reason is None, "reason": reason})
        elif path == "/readyz":
            checks = self.server.checks()
            ready = all(check.ok for check in checks.values())
            self._answer(ready, {"ready": ready, "checks": {name: asdict(check) for name, check in checks.items()}})
        else:
            self.send_error(404, explain="There are /metrics, /healthz and /readyz.")

    def _answer(self, well: bool, said: Mapping[str, object]) -> None:
        body = json.dumps(said, indent=2).encode()
        self.send_response(200 if well else 503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def readiness(health: Health, broker: Broker) -> dict[str, Check]:
    """All conditions of readiness: those that the worker knows itself, and the state of Redis and the group now."""
    checks = health.checks()
    try:
        without = [lane for lane, backlog in broker.backlogs().items() if backlog is None]
    except RedisError as error:
        away = Check(False, f"does not answer: {type(error).__name__}", BRING_BACK)
        return {**checks, "redis": away, "group": Check(False, "unknown", BRING_BACK)}
    if without:
        mend = "wait: it is made when the worker next reads; if it is not, see the worker's log"
        return {**checks, "group": Check(False, f"missing for {' and '.join(without)}", mend)}
    return {**checks, "group": Check(True, "exists")}
