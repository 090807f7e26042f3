"""``abstream adapters diff A B``: which answers would change."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.resources import files
from itertools import islice
from typing import Any, NamedTuple

from redis import Redis

from ..consumer.adapters.comparison import Answers, Comparison, labels
from ..consumer.engine import Engine
from ..consumer.engine.packing import classify_all
from ..consumer.engine.scoring import score
from ..producer.connection import connect_blocking
from ..producer.cursor import place_before, split
from ..schemas import Abstract, AbstractClassified, Answer, Shards, Streams
from ..schemas.events import ModelReceipt, Review
from .choosing import choose
from .files import Tally, usable
from .fleet import table
from .following import moment
from .live import SOURCE
from .past import Past
from .working import load_engine

_CHUNK = 256  # abstracts in hand at a time

_REMEMBERED_SECONDS = 30 * 86_400


@dataclass(frozen=True)
class Asked:
    """An abstract, under its id, and the prediction that it got, and in which shard, if it is a past one."""

    name: str
    abstract: Abstract
    prediction: AbstractClassified | None = None
    shard: int = 0


@dataclass(frozen=True)
class Change:
    """An abstract that the second model answers otherwise: the labels of both, and all that the second says."""

    asked: Asked
    first: dict[str, str]
    second: dict[str, str]
    answers: Answers
    review: Review


class Shelf(NamedTuple):
    """The streams of one shard, and a blocking client of the server that has them."""

    redis: Redis
    streams: Streams


@dataclass
class Difference:
    """What two models answer to the same abstracts."""

    seen: Comparison = field(default_factory=Comparison)
    changes: list[Change] = field(default_factory=list)


def run(
    url: str,
    shards: Shards,
    wanted: tuple[str, str],
    data: tuple[str, ...],
    since: str | None,
    flags: dict[str, Any],
    tally: Tally,
    *,
    publishing: bool,
) -> str:
    """Compare two adapters, as people call them, on files or on what was answered, and say what was found.

    ``tally`` counts the abstracts, and the broken records of the files.
    """
    chosen = [choose(url, shards, one) for one in wanted]
    first, second = (load_engine(flags | {"adapter": "none"}, adapter=adapter) for adapter in chosen)
    with ExitStack() as clients:
        shelves = [Shelf(clients.enter_context(connect_blocking(url, one)), one) for one in shards.all]
        places = _places(since, shards.count) if since else []
        answered = Answered(shelves, places, first.model.receipt.adapter_digest) if since else None
        asked = answered or (Asked(record.id, record.abstract) for record in usable(data, "auto", tally))
        found = compare(first, second, asked, flags["max_batch_tokens"])
        tally.done = found.seen.abstracts
        published = publish(shelves, found.changes, second.model.receipt, SOURCE) if publishing else None
    return shown(found, answered.gone if answered else 0, published, as_json=flags["json"])


def _places(since: str, shards: int) -> list[str]:
    at = moment(since)
    return split(at if isinstance(at, str) else place_before(at), shards)


def compare(first: Engine, second: Engine, asked: Iterable[Asked], max_batch_tokens: int) -> Difference:
    """Ask both models about every abstract."""
    found, asked = Difference(), iter(asked)
    while chunk := list(islice(asked, _CHUNK)):
        abstracts = [one.abstract for one in chunk]
        both = zip(*(_answers(one, abstracts, max_batch_tokens) for one in (first, second)), strict=True)
        for one, ((before, _), (after, review)) in zip(chunk, both, strict=True):
            if found.seen.add(before, after):
                found.changes.append(Change(one, labels(before), labels(after), after, review))
    return found


class Answered:
    """What one adapter or the bare base answered since an entry, as far as Redis still has the texts.

    One shard comes after the other, and each from its oldest on.
    """

    def __init__(self, shelves: Sequence[Shelf], since: Sequence[str], digest: str | None) -> None:
        """
        Args:
            shelves: of all shards.
            since: an entry of each.
            digest: of the adapter; None for the bare base.
        """
        self._pasts = [Past(*shelf) for shelf in shelves]
        self._since = since
        self._digest = digest
        self.gone = 0

    def __iter__(self) -> Iterator[Asked]:
        for shard, (past, since) in enumerate(zip(self._pasts, self._since, strict=True)):
            for prediction in past.predictions(since):
                if prediction.data.model.adapter_digest != self._digest:
                    continue
                if abstract := past.abstract(prediction):
                    yield Asked(prediction.causationid or prediction.id, abstract, prediction, shard)
                else:
                    self.gone += 1


def publish(shelves: Sequence[Shelf], changes: Iterable[Change], receipt: ModelReceipt, source: str) -> int:
    """Publish the second model's answer in the place of each changed prediction, once, and return how many are new.

    The attribute ``supersedes`` is the id of the event whose place it takes, in whose shard the new one is too.
    """
    text = (files("abstream.ops") / "supersede.lua").read_text(encoding="utf-8")
    scripts = [shelf.redis.register_script(text) for shelf in shelves]
    published = 0
    for change in changes:
        if change.asked.prediction:
            event = _in_place_of(change.asked.prediction, change, receipt, source)
            streams = shelves[change.asked.shard].streams
            keys = [streams.predictions, streams.superseding]
            published += bool(scripts[change.asked.shard](keys, [event.id, event.to_json(), _REMEMBERED_SECONDS]))
    return published


def _in_place_of(old: AbstractClassified, change: Change, receipt: ModelReceipt, source: str) -> AbstractClassified:
    answers = {name: Answer(**one) for name, one in change.answers.items()}
    data = old.data.model_copy(update={"answers": answers, "review": change.review, "model": receipt})
    digest = (receipt.adapter_digest or "none").removeprefix("sha256:")[:12]
    said = {name: getattr(old, name) for name in ("causationid", "causationsource", "sequence", "subject")}
    return AbstractClassified(
        id=f"{old.id}-{digest}",
        source=source,
        time=datetime.now(timezone.utc),
        data=data,
        supersedes=old.id,
        **said,
    )


def shown(found: Difference, gone: int, published: int | None, *, as_json: bool) -> str:
    """For people, or for programs.

    Args:
        found: the difference.
        gone: how many more were answered, whose texts are gone.
        published: how many answers took an earlier one's place; None where none should.
    """
    summary = {name: one.model_dump() for name, one in found.seen.summary().items()}
    if as_json:
        said = {"abstracts": found.seen.abstracts, "changed": found.seen.changed, "gone": gone, "published": published}
        changes = [{"id": one.asked.name, "first": one.first, "second": one.second} for one in found.changes]
        return json.dumps(said | {"questions": summary, "changes": changes})
    flips = [
        {"question": name, "first": first, "second": second, "abstracts": count}
        for name, one in summary.items()
        for first, row in one["flips"].items()
        for second, count in sorted(row.items(), key=lambda each: -each[1])
    ]
    lines = [table(flips, "question", "first", "second", "abstracts")] if flips else []
    lines.append(f"{found.seen.changed} of {found.seen.abstracts} abstracts would be answered otherwise")
    if gone:
        lines.append(f"{gone} more were answered, but their texts are no longer in the stream: give --data")
    if published is not None:
        lines.append(f"{published} answers were published in the place of earlier ones")
    return "\n".join(lines)


def _answers(engine: Engine, abstracts: list[Abstract], max_batch_tokens: int) -> list[tuple[Answers, Review]]:
    prompts = [engine.encode(abstract) for abstract in abstracts]
    return [score(engine.model, logits) for logits in classify_all(engine, prompts, max_batch_tokens)]
