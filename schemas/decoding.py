"""From untrusted JSON to a model, or to a refusal that says what to change.

It is stricter than most JSON parsers. They differ in how they read duplicate names and numbers such as NaN, so that it
would not be certain which abstract was answered.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import Malformed
from .wording import reason

Model = TypeVar("Model", bound=BaseModel)

_MOST_PROBLEMS = 5  # in one message
_MOST_CHARACTERS = 40  # of a name that a sender chose

# The colon after every name in JSON. The pattern begins with the colon because there are fewer colons than quotes, and
# a literal is found fast.
_AFTER_NAME = re.compile(rb':(?<=["\s]:)')

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can escape it, UTF-8 cannot encode it


def validate(model: type[Model], body: bytes) -> Model:
    """The model in a JSON body.

    Raises:
        Malformed: not UTF-8, not JSON, or a field missing or wrong.
    """
    try:
        valid: Model = model.__pydantic_validator__.validate_json(body)  # model_validate_json with less overhead
        return valid
    except ValidationError as error:
        try:
            body.decode()
        except UnicodeDecodeError as decoding:
            raise Malformed(
                "undecodable", f"the event is not UTF-8 at byte {decoding.start}: send UTF-8 JSON"
            ) from None
        raise malformed(error) from None


def made(model: type[Model], values: Mapping[str, Any]) -> Model:
    """The model of untrusted values.

    Raises:
        Malformed: they are not valid; with the reason and what the sender must change.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise malformed(error) from None


def malformed(error: ValidationError) -> Malformed:
    """One refusal for all errors: which fields are wrong and why, without their values."""
    problems = error.errors(include_url=False, include_input=False)
    kinds = {problem["type"] for problem in problems}
    said = "; ".join(_say(problem) for problem in problems[:_MOST_PROBLEMS])
    if "json_invalid" in kinds:
        return Malformed("undecodable", f"{said}: send one JSON object")
    return Malformed("too_large" if "string_too_long" in kinds else "invalid", said)


def texts_in(body: bytes, *names: str) -> dict[str, str]:
    """The values of these names in a JSON object that may be invalid otherwise: non-empty texts that occur once."""
    try:
        said = json.loads(body, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return {}
    pairs = said if isinstance(said, tuple) else ()  # an array is a list
    given = {name: [value for key, value in pairs if key == name] for name in names}
    return {name: values[0] for name, values in given.items() if len(values) == 1 and _is_text(values[0])}


def count_names(body: bytes) -> int:
    """How many names the JSON body has in all its objects, or more: a text may look like one."""
    return len(_AFTER_NAME.findall(body))


def check_names(body: bytes) -> None:
    """Parse a JSON body strictly.

    Raises:
        Malformed: a name is given twice in one object, or a number is NaN or infinite.
    """
    _STRICT.decode(body.decode())


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not _LONE_SURROGATE.search(value)


def _say(problem: Mapping[str, Any]) -> str:
    where = ".".join(str(part)[:_MOST_CHARACTERS] for part in problem["loc"])
    return f"{where}: {reason(problem)}" if where else reason(problem)


def _once_each(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise Malformed("invalid", f"{name[:_MOST_CHARACTERS]!r} is given twice in one object: send it once")
        seen.add(name)


def _no_number(token: str) -> NoReturn:
    raise Malformed("undecodable", f"{token} is not JSON: send null, or leave it out")


_STRICT = json.JSONDecoder(object_pairs_hook=_once_each, parse_constant=_no_number)
