"""The bodies of requests and responses, as the OpenAPI document describes them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from ...schemas import Abstract, AbstractClassified, AbstractRefused
from ...schemas.events import MAX_ABSTRACT_CHARACTERS

MAX_ID_CHARACTERS = 1_000
Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARACTERS)]
_ENTRY_ID = r"[0-9]{1,19}(-[0-9]{1,19})?"
EntryId = Annotated[str, Field(pattern=rf"^{_ENTRY_ID}(@[0-9]{{1,4}})?$", examples=["1700000000000-0"])]
# An entry id; with several shards the ids of all shards, in their order, separated by commas.
Cursor = Annotated[
    str, Field(pattern=rf"^{_ENTRY_ID}(,{_ENTRY_ID})*$", max_length=50_000, examples=["1700000000000-0"])
]

EXAMPLE: dict[str, JsonValue] = {
    "id": "38048813",
    "title": "Adjuvant tamoxifen in early breast cancer",
    "abstract": "We followed 300 women with hormone receptor-positive breast cancer for ten years.",
    "identifiers": {"pmid": "38048813"},
    "year": 2023,
}


class NewAbstract(Abstract):
    """An abstract to be classified."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: Id | None = Field(None, description="Its own id; the same again, within a day, is answered once.")
    abstract: Annotated[str, StringConstraints(max_length=MAX_ABSTRACT_CHARACTERS)] = Field(
        "", description="May be left out where there is a title."
    )


class Accepted(BaseModel):
    """An abstract that was taken: its id, and its entry in the stream."""

    id: str
    entry_id: str


class BrokenRecord(BaseModel):
    """A record that was not taken."""

    position: str = Field(description="Its number in a list, from 1, or its place in a file.", examples=["2", "line 7"])
    detail: str


class Acceptance(BaseModel):
    """What became of many: those that were taken, in their order, and those that were not."""

    accepted: list[Accepted]
    problems: list[BrokenRecord]


class Standing(BaseModel):
    """How an abstract stands."""

    id: str
    entry_id: str | None = Field(description="Its entry in the stream, where it is known.")
    status: Literal["queued", "done", "refused"]
    prediction: AbstractClassified | None = Field(None, description="The event, when it is done.")
    refusal: AbstractRefused | None = Field(None, description="The event, when it is refused, with the reason.")


class PredictionEntry(BaseModel):
    entry_id: str
    event: AbstractClassified


class PredictionPage(BaseModel):
    """Predictions in the order of the stream; ``next`` is what to ask ``after`` for the page that follows."""

    predictions: list[PredictionEntry]
    next: Cursor


class RefusalEntry(BaseModel):
    entry_id: str
    replayed_as: str | None = Field(description="The entry that it became when it was replayed.")
    event: AbstractRefused


class RefusalPage(BaseModel):
    """Refusals in the order of the stream; ``next`` is what to ask ``after`` for the page that follows."""

    refusals: list[RefusalEntry]
    next: Cursor


class Replayed(BaseModel):
    """What became of a refusal that was to be replayed."""

    id: str = Field(description="Of the refusal's event.")
    result: Literal["replayed", "replayed before"]
    entry_id: str = Field(description="The entry that it was sent as.")


class Announced(BaseModel):
    """An adapter as it was announced."""

    entry_id: str
    name: str
    version: str
    digest: str
    action: str
    uri: str


class WorkerAdapter(BaseModel):
    """The last answer of a worker to an announcement."""

    worker: str
    entry_id: str
    result: Literal["activated", "rejected"]
    name: str
    version: str
    digest: str = Field(description="Of the announcement that it answers.")
    serves: str | None = Field(description="The digest that it has served since; null for the bare base.")
    reason: str | None


class Adapters(BaseModel):
    """The adapters of the fleet."""

    live: Announced | None = Field(
        description="What workers are asked to serve: the newest that is no shadow and none announced before."
    )
    known: list[Announced] = Field(description="Every announcement, oldest first.")
    workers: list[WorkerAdapter]


class Check(BaseModel):
    ok: bool
    detail: str


class Readiness(BaseModel):
    ready: bool
    checks: dict[str, Check]


class Health(BaseModel):
    alive: bool
