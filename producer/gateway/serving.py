"""The gateway as a process: listening, and a graceful end."""

import contextlib
import signal
import socket
from collections.abc import Sequence

import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client.registry import Collector

from ...schemas import AbstreamError, Shards
from .app import build
from .config import GatewayConfig
from .door import Door

_DRAIN_SECONDS = 30  # for requests in progress; waiting requests and streams end at once

_OTHER_FILES = 512  # connections to Redis, requests other than streams, files that are sent

log = structlog.get_logger()


class Server(uvicorn.Server):
    """Ends streams and waiting requests before uvicorn waits for all requests."""

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        super().__init__(config)
        self._door = door

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("gateway_ending", subscribers=self._door.tail.subscribers, waiting=len(self._door.waiting))
        self._door.end()
        await super().shutdown(sockets)


def serve(url: str, names: Shards, config: GatewayConfig, gauges: Sequence[Collector] = ()) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads the tokens. The arguments are those of ``build``.

    Raises:
        TokensUnusable: the file of tokens cannot be used.
        AbstreamError: the address cannot be listened on.
    """
    if allow_files(wanted := config.max_subscribers + _OTHER_FILES) < wanted:
        log.warning("few_connections", wanted=wanted, mend="raise the limit of open files, or lower --max-subscribers")
    app = build(url, names, config, gauges)
    door: Door = app.state.door
    listening = _listen(config)
    address = "http://{}:{}".format(*listening.getsockname()[:2])
    log.info("gateway_listens", address=address, docs=f"{address}/docs", tokens=door.tokens is not None)
    # At its end, uvicorn raises the signal again, for the handlers of before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if door.tokens and hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: door.tokens.reload() if door.tokens else None)
    Server(settings(app), door).run(sockets=[listening])


def settings(app: FastAPI) -> uvicorn.Config:
    """The settings of uvicorn."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        lifespan="on",
    )


def allow_files(wanted: int) -> int:
    """Raise this process's limit of open files to ``wanted``, or as far as the system allows; returns the limit."""
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return wanted


def _listen(config: GatewayConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        raise AbstreamError(f"cannot listen on {config.host}:{config.port}: {error.strerror}") from error
