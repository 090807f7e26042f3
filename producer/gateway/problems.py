"""All errors as RFC 9457 problems that say what to do."""

import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...schemas import AbstreamError, BacklogFull, Malformed, Unavailable
from ...schemas.wording import reason
from ..formats import FORMATS, MissingLibrary, UnknownFormat

MEDIA_TYPE = "application/problem+json"
_AGAIN_SECONDS = 5
_RENAMED = {413: "Content Too Large", 422: "Unprocessable Content"}  # by RFC 9110; Python's names are older before 3.13

# Details that are also examples in the OpenAPI document.
NO_TOKEN = "This request requires a token. Send `Authorization: Bearer TOKEN`."
INVALID_TOKEN = "This token is not valid. Send `Authorization: Bearer TOKEN` with a token of this gateway."
FOREIGN = (
    "Without tokens, this gateway can only be called from its own machine and from web pages that `--cors-origin` "
    "allows. To allow others, start it with `--tokens-file`."
)
NO_ABSTRACT = "No abstract with this id was submitted recently. Submit it, or look for its result in /v1/predictions."
NO_REFUSAL = "There is no refusal with this entry id, or it is no longer kept. See /v1/refusals."
OTHER_SHARDS = "The cursor is for another number of shards. Start again with a single entry id, or with `0`."
NOT_JSON = "Send JSON, with `Content-Type: application/json`."
UNREACHABLE = "Redis is unreachable. Try again with the same ids: no abstract is classified twice."

log = structlog.get_logger()


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 problem details."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "urn:abstream:problem:invalid",
                "title": "Unprocessable Content",
                "status": 422,
                "detail": "title and abstract are both empty: send at least one of them",
            }
        },
    )

    type: str = Field(description="Kind of error, as a URN. Use it to tell errors apart in programs.")
    title: str = Field(description="The name of the HTTP status.")
    status: int = Field(description="The HTTP status code.")
    detail: str = Field(description="What went wrong and what to do, for people. The wording may change.")


class Problem(Exception):
    """Answers the request with a problem.

    Attributes:
        kind: the last part of its ``type``.
        members: further members, for programs.
    """

    def __init__(
        self, status: int, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def response(self) -> Response:
        """The HTTP response."""
        body = details(self.status, self.kind, self.detail) | self.members
        return JSONResponse(body, self.status, self.headers, MEDIA_TYPE)


def details(status: int, kind: str, detail: str) -> dict[str, Any]:
    """The JSON of a problem."""
    return {"type": f"urn:abstream:problem:{kind}", "title": _title(status), "status": status, "detail": detail}


def answer_with_problems(app: FastAPI) -> None:
    """Make every error of ``app`` a problem."""

    async def answer(_: Request, error: Exception) -> Response:
        return problem_of(error).response()

    for kind in (Problem, HTTPException, RequestValidationError, AbstreamError, RedisError):
        app.add_exception_handler(kind, answer)
    app.add_middleware(_Unexpected)


class _Unexpected:
    """Answers unexpected errors, and logs where they came from; not their messages, which may contain an abstract."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - whatever it is
            log.error("request_failed", error=type(error).__name__, at=traceback.format_tb(error.__traceback__)[-3:])
            if not started:
                await problem_of(error).response()(scope, receive, send)


def problem_of(error: Exception) -> Problem:
    """The problem for an error."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return _wrong_parameters(error)
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, Malformed):
        return Problem(422, error.reason, error.message)
    if isinstance(error, UnknownFormat):
        known = ", ".join(one for one in FORMATS if one != "auto")
        detail = f"The format of the file could not be detected. Set `?format=` to one of {known}, or send JSON."
        return Problem(415, "unknown-format", detail)
    if isinstance(error, MissingLibrary):
        return Problem(415, "unknown-format", f"This gateway cannot read this format ({error}).")
    if isinstance(error, BacklogFull):
        return _backlog_full(error)
    if isinstance(error, Unavailable | RedisError):
        return unavailable(UNREACHABLE)
    return Problem(500, "internal", "An internal error occurred. Try again. The gateway's log has the details.")


def _backlog_full(error: BacklogFull) -> Problem:
    seconds = f"{error.retry_after_seconds:.0f}"
    full = "Redis is out of memory." if error.waiting is None else f"{error.waiting} abstracts are already waiting."
    detail = f"{full} Try again in {seconds} seconds."
    headers = {"Retry-After": seconds}
    return Problem(429, "backlog-full", detail, headers=headers, waiting=error.waiting, limit=error.limit)


def unavailable(detail: str) -> Problem:
    """The problem for a condition that passes by itself."""
    return Problem(503, "unavailable", detail, headers={"Retry-After": str(_AGAIN_SECONDS)})


def _of_http(error: HTTPException) -> Problem:
    """The problem for an error of the framework, with a more helpful message where we have one."""
    kind, detail = {
        404: ("not-found", "There is no resource at this path. See /docs."),
        405: ("method-not-allowed", "This path does not support this method. See /docs."),
    }.get(error.status_code, ("request", str(error.detail)))
    return Problem(error.status_code, kind, detail, headers=error.headers)


def _wrong_parameters(error: RequestValidationError) -> Problem:
    said = [{"parameter": str(one["loc"][-1]), "detail": reason(one)} for one in error.errors()]
    detail = "; ".join(f"{one['parameter']}: {one['detail']}" for one in said)
    return Problem(422, "parameters", detail, errors=said)


def _title(status: int) -> str:
    try:
        return _RENAMED.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return "Error"
