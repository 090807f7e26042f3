"""A submitted abstract as a worker reads it: validated like ``AbstractSubmitted``, without building the models.

pydantic builds dicts in about half the time of models. So typed dicts are derived from the fields of the models. An
event that does not validate is left to the models, which say why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import NotRequired, Required, TypedDict

from .decoding import check_names
from .events import CARRIED_OVER, REQUIRED, Abstract, AbstractSubmitted, Identifiers, check_text
from .parsing import received

Said = Mapping[str, Any]

_NONE: Said = {}


@dataclass(slots=True)  # not frozen, which takes four times as long to create
class Submission:
    """The parts of a submitted abstract that are needed to answer it.

    Attributes:
        id: of the event, like ``source``.
        title: as it was sent, like ``abstract``.
        identifiers: as they were sent, including unknown ones.
        mesh: headings, which are never shown to the model.
        metadata: is echoed.
        carried_over: attributes of the envelope that the answer takes over.
    """

    id: str
    source: str
    title: str | None
    abstract: str
    identifiers: Said = field(default_factory=dict)
    mesh: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    carried_over: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, event: AbstractSubmitted) -> "Submission":
        """The submission in an event."""
        return _submission(event.model_dump(exclude_unset=True))


def parse_submitted(body: bytes) -> Submission:
    """The submitted abstract in a JSON body; other types of events are refused.

    Raises:
        Malformed: not UTF-8, not JSON, another type, a field missing or wrong, or a name given twice.
    """
    try:
        said, known = _SAID.validate_json(body), True
    except ValidationError:
        said, known = received(AbstractSubmitted, body).model_dump(exclude_unset=True), False
    check_names(body, _names_known(said) if known else 0)
    return _submission(said)


def _submission(said: Said) -> Submission:
    data: Said = said["data"]
    get = data.get
    return Submission(
        said["id"],
        said["source"],
        get("title"),
        data["abstract"],
        get("identifiers", _NONE),
        get("mesh", ()),
        get("metadata", _NONE),
        _NONE if said.keys().isdisjoint(CARRIED_OVER) else _carried_over(said),
    )


def _carried_over(said: Said) -> dict[str, str]:
    return {name: value for name in CARRIED_OVER if (value := said.get(name)) is not None}


def _names_known(said: Said) -> int:
    """The number of names in the JSON body that belong to the contract or to the metadata."""
    data: Said = said["data"]
    identifiers = data.get("identifiers", _NONE).keys() & _IDENTIFIERS
    return len(said) + len(data) + len(identifiers) + len(data.get("metadata", _NONE))


def _as_dict(model: type[BaseModel], *required: str, extra: Literal["allow", "ignore"] = "ignore", **parts: Any) -> Any:
    """A typed dict with the fields of a model and their constraints.

    Args:
        model: its own validators are not included.
        required: required names, in addition to those of fields without a default.
        extra: whether unknown names are kept.
        parts: types for fields that are models themselves.
    """
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        ruled = _ruled(parts.get(name, info.annotation), *info.metadata)
        fields[name] = Required[ruled] if info.is_required() or name in required else NotRequired[ruled]
    made = _typed_dict(model.__name__, fields)
    made.__pydantic_config__ = ConfigDict(extra=extra)
    return made


def _ruled(kind: Any, *rules: Any) -> Any:
    together = (kind, *rules)
    return _annotated[together] if rules else kind


def _check_text(data: dict[str, Any]) -> dict[str, Any]:
    check_text(data.get("title"), data["abstract"])
    return data


_typed_dict: Any = TypedDict  # a type checker cannot follow types that are built at runtime
_annotated: Any = Annotated
_IDENTIFIERS = Identifiers.model_fields.keys()
_DATA = _ruled(_as_dict(Abstract, identifiers=_as_dict(Identifiers, extra="allow")), AfterValidator(_check_text))
_SAID = TypeAdapter(_as_dict(AbstractSubmitted, *REQUIRED, data=_DATA)).validator
