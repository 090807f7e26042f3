"""Names of streams, groups and fields, and how an event becomes a stream entry. The only place for these names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from .decoding import texts_in
from .errors import Malformed
from .events import PLAIN_SOURCE, Abstract, Event
from .parsing import parse_event
from .submission import Submission, parse_submitted

GROUP = "classifiers"
EVENT_FIELD = "event"
_EVENT = EVENT_FIELD.encode()  # as Redis gives it
PLAIN_FIELDS = ("title", "abstract", "id", "pmid")
# In an entry that is sent again, beside the original fields: the refusal's event id, and for plain fields without an id
# the entry whose id they had.
REPLAY_FIELD, REPLAYED_ENTRY_FIELD = "replay_of", "replayed_entry"

# The contract's largest abstract is 50 000 characters, at most 300 kB as escaped JSON; the rest is metadata.
MAX_EVENT_BYTES = 1 << 20

# A submission seen again within this window is the same abstract. Each window has a set of identities. The current and
# the previous one are consulted, so that an identity is remembered for one to two windows, and also the next one, which
# a worker whose clock is ahead may have begun.
DEDUPE_WINDOW_SECONDS = 24 * 3600

Lane = Literal["interactive", "bulk"]
LANES: tuple[Lane, ...] = get_args(Lane)
Output = Literal["predictions", "refusals", "adapters", "fleet"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
CONTROL: tuple[Output, ...] = ("adapters", "fleet")  # a namespace has these once, however many shards it has


@dataclass(frozen=True)
class Streams:
    """The keys of a namespace, or of one of its shards. They share a hash tag, so a script can access all of them."""

    namespace: str = "abstream"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", self.namespace):
            raise ValueError(f"namespace {self.namespace!r}: use 1 to 64 of A-Z a-z 0-9 . _ : -")

    def _key(self, name: str) -> str:
        return f"{{{self.namespace}}}:{name}"

    def lane(self, lane: Lane) -> str:
        """The stream of submitted abstracts of a lane."""
        return self._key("abstracts" if lane == "interactive" else "abstracts:bulk")

    def output(self, output: Output) -> str:
        """The stream of predictions, refusals, adapter updates or the fleet's answers."""
        return self._key(output)

    @property
    def predictions(self) -> str:
        return self._key("predictions")

    @property
    def refusals(self) -> str:
        return self._key("refusals")

    def published(self, call: str) -> str:
        """The answer to a publisher's call, so that the call may be repeated if its reply was lost."""
        return self._key(f"published:{call}")

    def run(self, files: str) -> str:
        """The last publishing of files with this digest, which may be resumed."""
        return self._key(f"run:{files}")

    @property
    def turn(self) -> str:
        """The worker whose turn it is to do the upkeep; it expires."""
        return self._key("turn")

    @property
    def workers(self) -> str:
        """The workers of a namespace with several shards, by their last heartbeat."""
        return self._key("workers")

    @property
    def replayed(self) -> str:
        """The refusals that were replayed, each with its new entry."""
        return self._key("replayed")

    def standing(self, digest: str) -> str:
        """The status of an abstract that came through a gateway: its own entry, and the entry of its answer."""
        return self._key(f"standing:{digest}")

    @property
    def noted(self) -> str:
        """The entries up to which gateways have recorded results."""
        return self._key("noted")

    @property
    def superseding(self) -> str:
        """The results that replace earlier ones, by their event ids."""
        return self._key("superseding")

    def scratch(self, name: str) -> str:
        """A key that nothing else uses, to try things out on."""
        return self._key(f"scratch:{name}")

    def seen(self, epoch_seconds: float) -> tuple[str, str, str]:
        """The sets of identities answered in the current dedupe window, the previous one, and the next one."""
        window = int(epoch_seconds // DEDUPE_WINDOW_SECONDS)
        return self._key(f"seen:{window}"), self._key(f"seen:{window - 1}"), self._key(f"seen:{window + 1}")


def to_fields(event: Event) -> dict[str, bytes]:
    """The fields of the stream entry that carries ``event``."""
    return {EVENT_FIELD: event.to_json()}


def from_fields(fields: Mapping[bytes, bytes]) -> Event:
    """The event in an entry of an output stream.

    Raises:
        Malformed: the entry holds no event of a known type.
    """
    return parse_event(fields[_EVENT]) if _EVENT in fields else _no_event()


def submitted_from_fields(lane: Lane, entry_id: str, fields: Mapping[bytes, bytes]) -> Submission:
    """The submitted abstract in an entry of a lane, as an event or as plain fields.

    Plain fields without an id get that of their entry, which is unique only in its lane.

    Raises:
        Malformed: with the reason and what the sender must change.
    """
    size = size_of(fields)
    if size > MAX_EVENT_BYTES:
        raise Malformed(
            "too_large", f"the entry has {size} bytes, more than {MAX_EVENT_BYTES}: send a shorter abstract"
        )
    if (body := fields.get(_EVENT)) is not None:
        return parse_submitted(body)
    plain = {name: _utf8(name, value) for name in PLAIN_FIELDS if (value := fields.get(name.encode())) is not None}
    if "title" not in plain and "abstract" not in plain:
        _no_event()
    identifiers = {"pmid": plain["pmid"]} if "pmid" in plain else {}
    data = Abstract.parse(
        {"title": plain.get("title"), "abstract": plain.get("abstract", ""), "identifiers": identifiers}
    )
    if plain.get("id"):
        return Submission(plain["id"], PLAIN_SOURCE, data.title, data.abstract, identifiers)
    id_ = _utf8(REPLAYED_ENTRY_FIELD, fields.get(REPLAYED_ENTRY_FIELD.encode(), b"")) or entry_id
    return Submission(id_, f"{PLAIN_SOURCE}:{lane}", data.title, data.abstract, identifiers)


def cause_in(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """The attributes that link a refusal to an invalid event: its id and source, as far as they can be read."""
    if size_of(fields) > MAX_EVENT_BYTES:
        return {}
    if (body := fields.get(_EVENT)) is not None:
        said = texts_in(body, "id", "source")
        return {f"causation{name}": value for name, value in said.items()} if "id" in said else {}
    try:
        id_ = fields.get(b"id", b"").decode()
    except UnicodeDecodeError:
        return {}
    return {"causationid": id_, "causationsource": PLAIN_SOURCE} if id_ else {}


def size_of(fields: Mapping[bytes, bytes]) -> int:
    """The size of an entry's fields in bytes, including their names."""
    size = 0
    for name, value in fields.items():  # usually one, for which ``sum`` takes twice as long
        size += len(name) + len(value)
    return size


def _utf8(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Malformed("undecodable", f"field {name!r} is not UTF-8 at byte {error.start}: send UTF-8") from error


def _no_event() -> Event:
    raise Malformed("invalid", "the entry has neither a field 'event' nor plain fields 'title' or 'abstract'")
