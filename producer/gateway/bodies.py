"""The bodies of requests: one abstract, a list, or a file in any format that ``producer.formats`` reads."""

import mimetypes
import tempfile
from asyncio import to_thread
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from typing import Annotated, Any, BinaryIO, cast
from uuid import uuid4

from fastapi import Header, Request
from pydantic_core import from_json
from starlette.datastructures import UploadFile

from ...schemas import Abstract, Malformed
from ..formats import Broken, Format, Record, read_from
from .models import MAX_ID_CHARACTERS
from .problems import NOT_JSON, Problem

CHUNK = 256  # records at a time
_SPOOLED_BYTES = 1 << 20  # larger files are kept on disk

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_ID_CHARACTERS,
        description="The `id` of the abstract, so that a retry is not classified twice. Only for a single abstract.",
    ),
]

# The records of a request with several; broken ones have their place among them.
Many = AsyncIterator[list[Record | Broken]]


async def one_record(request: Request, key: str | None) -> Record:
    """The one abstract of a JSON body.

    Raises:
        Problem: the body is not JSON, or not a single abstract.
        Malformed: the abstract is not valid.
    """
    values = await _json(request)
    if not isinstance(values, dict):
        raise Problem(422, "invalid", "Send one abstract, as a JSON object.")
    return _record(values, key, "1")


@asynccontextmanager
async def records(request: Request, key: str | None, wanted: Format) -> AsyncIterator[Record | Many]:
    """The single abstract of a request, or all abstracts, part by part.

    Raises:
        Problem: as ``one_record``, or there is one key for several abstracts.
        Malformed: the single abstract is not valid.
    """
    media_type = _media_type(request.headers)
    if wanted == "auto" and _is_json(media_type):
        values = await _json(request)
        if isinstance(values, list):
            _no_key(key)
            yield _parts(_listed(values))
        else:
            yield await one_record(request, key)
        return
    _no_key(key)
    async with _file(request, media_type) as (file, name):
        yield _parts(read_from(file, name, wanted))


async def _parts(found: Iterator[Record | Broken]) -> Many:
    """Read in a thread, because a large file would block all other requests."""
    while part := await to_thread(lambda: list(islice(found, CHUNK))):
        yield part


def _listed(values: list[Any]) -> Iterator[Record | Broken]:
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            yield Broken(str(number), "is not a JSON object: send each abstract as one")
            continue
        try:
            yield _record(value, None, str(number))
        except (Malformed, Problem) as problem:
            yield Broken(str(number), str(problem))


def _record(values: dict[str, Any], key: str | None, position: str) -> Record:
    values = {"abstract": ""} | values
    own = values.pop("id", None)
    if own is not None and not (isinstance(own, str) and 0 < len(own) <= MAX_ID_CHARACTERS):
        raise Problem(422, "invalid", f"`id` must be a string of 1 to {MAX_ID_CHARACTERS} characters, or be omitted.")
    if key and own and key != own:
        raise Problem(422, "invalid", "`Idempotency-Key` and the `id` in the body differ. Send only one of them.")
    return Record(key or own or str(uuid4()), Abstract.parse(values), position=position)


async def _json(request: Request) -> Any:
    body = await request.body()
    if not _is_json(_media_type(request.headers)):
        raise Problem(415, "unknown-format", NOT_JSON)
    try:
        if len(body) < _SPOOLED_BYTES:
            return from_json(body, allow_inf_nan=False)
        return await to_thread(from_json, body, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(422, "undecodable", f"The body is not valid JSON: {error}.") from None


@asynccontextmanager
async def _file(request: Request, media_type: str) -> AsyncIterator[tuple[BinaryIO, str]]:
    """The file of a form, or the body itself, and its name."""
    if media_type == "multipart/form-data":
        async with request.form(max_files=1) as form:
            uploads = [value for value in form.values() if isinstance(value, UploadFile)]
            if not uploads:
                raise Problem(422, "invalid", "The form has no file. Send one, as with `curl -F file=@export.ris`.")
            yield uploads[0].file, uploads[0].filename or "the file"
        return
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as file:
        async for chunk in request.stream():
            file.write(chunk)
        file.seek(0)
        yield cast(BinaryIO, file), f"the body{mimetypes.guess_extension(media_type) or ''}"


def _no_key(key: str | None) -> None:
    if key is not None:
        raise Problem(422, "invalid", "`Idempotency-Key` is for a single abstract. Give each its own `id` instead.")


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "application/json").partition(";")[0].strip().lower()


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")
