"""Middleware that rejects requests: too large, or sent by a foreign page in a browser on this machine."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .config import is_loopback
from .problems import FOREIGN, Problem


class BodyLimit:
    """Rejects large bodies: before they are read if their length is declared, and while they are read otherwise."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        if told.isdecimal() and int(told[:20]) > self._max_bytes:
            await self._problem().response()(scope, receive, send)
            return
        size = 0

        async def receiving() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                raise self._problem()
            return message

        await self._app(scope, receiving, send)

    def _problem(self) -> Problem:
        detail = f"The request is larger than {self._max_bytes} bytes. Split it into several requests."
        # Do not wait for the rest of the body.
        return Problem(413, "too-large", detail, headers={"Connection": "close"}, limit=self._max_bytes)


class OwnPagesOnly:
    """Rejects requests from foreign pages. Without tokens, any page in a browser on this machine could use the API.

    Foreign pages are recognized by ``Origin``, and those whose own host name points here (DNS rebinding) by ``Host``.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_foreign(Headers(scope=scope)):
            await Problem(403, "foreign", FOREIGN).response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_foreign(self, headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            foreign = origin is not None and origin not in self._origins and urlsplit(origin).netloc != host
            return foreign or not is_loopback(urlsplit(f"//{host}").hostname or "localhost")
        except ValueError:  # not a valid address
            return True
