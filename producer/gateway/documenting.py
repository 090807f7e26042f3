"""The parts of the OpenAPI document that FastAPI cannot derive from the code: problems and bodies."""

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from .models import EXAMPLE, NewAbstract
from .problems import (
    FOREIGN,
    MEDIA_TYPE,
    NO_ABSTRACT,
    NO_REFUSAL,
    NO_TOKEN,
    NOT_JSON,
    OTHER_SHARDS,
    UNREACHABLE,
    ProblemDetails,
    details,
)

_REF = "#/components/schemas/"
_Described = tuple[str, str, str]
"""What a status means, and an example: its kind and its detail."""

_PROBLEMS: dict[int, _Described] = {
    401: ("The token is missing or not valid.", "token", NO_TOKEN),
    403: ("Without tokens, requests from other web pages and host names are rejected.", "foreign", FOREIGN),
    404: ("No such abstract was submitted recently.", "not-found", NO_ABSTRACT),
    410: ("The result is no longer kept.", "trimmed", "The result, entry 1700000000000-0, is no longer kept."),
    413: (
        "The request is too large. Split it into several.",
        "too-large",
        "The request is larger than 67108864 bytes. Split it into several requests.",
    ),
    415: ("The format of the body is not supported.", "unknown-format", NOT_JSON),
    422: (
        "The request is not valid. `detail` says what to correct.",
        "invalid",
        "title and abstract are both empty: send at least one of them",
    ),
    429: (
        "Too many abstracts are waiting. Try again after the seconds in `Retry-After`.",
        "backlog-full",
        "1000000 abstracts are already waiting. Try again in 30 seconds.",
    ),
    503: (
        "Redis is unreachable, or the gateway is shutting down. Try again after the seconds in `Retry-After`.",
        "unavailable",
        UNREACHABLE,
    ),
}
_About = Literal["abstract", "page", "refusal"]
_OF: dict[_About, dict[int, _Described]] = {
    "abstract": {},
    "page": {
        409: ("The cursor is for another number of shards.", "other-shards", OTHER_SHARDS),
        422: (
            "A parameter is not valid. `errors` lists what to correct.",
            "parameters",
            "limit: must be at least 1",
        ),
    },
    "refusal": {
        404: ("There is no such refusal.", "not-found", NO_REFUSAL),
        409: (
            "The original is no longer available. Submit the abstract again.",
            "not-replayable",
            "The refusal cannot be replayed: its original was trimmed before it was read, or is too large to be kept: "
            "publish it again.",
        ),
        422: ("The entry id is not valid.", "parameters", "entry_id: must be an entry id, such as `1700000000000-0`"),
    },
}

_JSON, _RAW = "application/json", {"schema": {"type": "string", "format": "binary"}}

DESCRIPTION = """\
Classify biomedical abstracts: whether each is about cancer, and about which type.

Submit abstracts with `POST /v1/abstracts`, and read the results in pages or as a stream. To wait for the result of a
single abstract, use `POST /v1/classify`.

**Retries.** An abstract is identified by its client and its `id`. Submitting it again within a day is safe: it is
classified once.

**Errors.** All errors are RFC 9457 problem details. `type` identifies the error, and `detail` says what to do.

**Events.** Predictions and refusals are CloudEvents 1.0, as in the Redis streams that `/asyncapi.json` describes."""


def problems(*statuses: int, of: _About = "abstract") -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route for these problems; ``of`` is what the route is about."""
    known = _PROBLEMS | _OF[of]
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted({403, *statuses}):
        description, *example = known[status]
        responses[status] = {"description": description, "content": _problem(details(status, *example))}
    return responses


def _problem(example: dict[str, Any]) -> dict[str, Any]:
    return {MEDIA_TYPE: {"schema": {"$ref": f"{_REF}ProblemDetails"}, "example": example}}


def one_abstract() -> dict[str, Any]:
    """The body of a request for one abstract."""
    content = {_JSON: {"schema": {"$ref": f"{_REF}NewAbstract"}, "example": EXAMPLE}}
    return {"requestBody": {"required": True, "content": content}}


def any_abstracts() -> dict[str, Any]:
    """The body of a request for an abstract, a list of them, or a file."""
    one = {"$ref": f"{_REF}NewAbstract"}
    examples = {
        "one": {"summary": "One abstract", "value": EXAMPLE},
        "many": {"summary": "A list of abstracts", "value": [EXAMPLE, {"abstract": "Sleep and mood in 40 students."}]},
    }
    upload = {"type": "object", "properties": {"file": _RAW["schema"]}, "required": ["file"]}
    return {
        "requestBody": {
            "required": True,
            "description": "One abstract or a list as JSON, or a file as a form field or as the body.",
            "content": {
                _JSON: {"schema": {"anyOf": [one, {"type": "array", "items": one}]}, "examples": examples},
                "multipart/form-data": {"schema": upload},
                "application/x-ndjson": _RAW,
                "application/octet-stream": _RAW,
            },
        }
    }


def document(app: FastAPI) -> None:
    """Make ``app`` serve the complete document."""

    def whole() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            models = [(ProblemDetails, "validation"), (NewAbstract, "validation")]
            _, schemas = models_json_schema(models, ref_template=f"{_REF}{{model}}")  # type: ignore[arg-type]
            components = found["components"]["schemas"]
            components |= {name: schema for name, schema in schemas["$defs"].items() if name not in components}
            _never_null(found)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = whole  # type: ignore[method-assign]


def _never_null(whole: dict[str, Any]) -> None:
    """Remove null from the types of parameters: they may be left out, but cannot be sent as null."""
    operations = [operation for path in whole["paths"].values() for operation in path.values()]
    for parameter in (one for operation in operations for one in operation.get("parameters", ())):
        kinds = [kind for kind in parameter["schema"].pop("anyOf", ()) if kind != {"type": "null"}]
        if len(kinds) == 1:
            parameter["schema"] |= kinds[0]
        elif kinds:
            parameter["schema"]["anyOf"] = kinds
