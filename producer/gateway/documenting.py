"""The parts of the OpenAPI document that FastAPI cannot derive from the code: problems and bodies."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from .models import EXAMPLE, NewAbstract
from .problems import MEDIA_TYPE, ProblemDetails, details

_REF = "#/components/schemas/"
_PROBLEMS = {
    401: "No token, or one that is not known.",
    403: "Sent by a page in a browser that may not ask.",
    404: "There is no such thing.",
    409: "It does not fit what is there: the place is one among another number of shards, or the original is gone.",
    410: "It was there, and is no longer kept.",
    413: "The request is too large.",
    415: "No format that is read here.",
    422: "Something is wrong with what was sent.",
    429: "Too many abstracts wait; `Retry-After` says when to try again.",
    503: "Redis is away, or the gateway is ending; `Retry-After` says when to try again.",
}
_EXAMPLES = {
    401: ("token", "a token is asked for: send `Authorization: Bearer TOKEN`"),
    403: ("foreign", "without tokens only this machine is answered: start with --tokens-file"),
    404: ("not-found", "there is nothing at this address: see /docs"),
    410: ("trimmed", "it was answered by entry 1700000000000-0, which is no longer kept"),
    413: ("too-large", "a request has at most 67108864 bytes: send the abstracts in several"),
    415: ("unknown-format", "send JSON, with `Content-Type: application/json`"),
    422: ("invalid", "title and abstract are both empty: send at least one of them"),
    429: ("backlog-full", "1000000 abstracts wait already: try again in 30 s"),
    503: ("unavailable", "Redis does not answer: try again with the same ids, each abstract is answered once"),
}
_CONFLICTS = {
    "other-shards": "the place '1700000000000-0,0-0' is one in 2 shards, and there are 3: see --shards",
    "not-replayable": "its entry was gone before it was read, or too large to be kept: publish it again",
}
_JSON, _RAW = "application/json", {"schema": {"type": "string", "format": "binary"}}

DESCRIPTION = """\
Submit biomedical abstracts, and read what cancer, if any, each is about.

Events are CloudEvents 1.0, the same as in the Redis streams; `/asyncapi.json` describes those. Errors are problems of
RFC 9457 that say what to do. An abstract is known by its client and its `id`: to send it again is always safe."""


def problems(*statuses: int, conflict: str = "other-shards") -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route for these problems; ``conflict`` is the kind of its 409."""
    examples = {**_EXAMPLES, 409: (conflict, _CONFLICTS[conflict])}
    return {
        status: {"description": _PROBLEMS[status], "content": _problem(details(status, *examples[status]))}
        for status in sorted({403, *statuses})
    }


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
        "many": {"summary": "A list", "value": [EXAMPLE, {"abstract": "Sleep and mood in 40 students."}]},
    }
    upload = {"type": "object", "properties": {"file": _RAW["schema"]}, "required": ["file"]}
    return {
        "requestBody": {
            "required": True,
            "description": "An abstract, a list of them, or a file: as a form field, or as it is with its media type.",
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
