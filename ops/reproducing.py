"""``abstream reproduce EVENT_ID``: a past prediction once more, from its receipt."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..consumer.adapters.probes import ROUNDED, TOLERANCE
from ..consumer.engine import Engine
from ..consumer.engine.scoring import Scored, score
from ..producer.connection import connect_blocking
from ..schemas import Abstract, AbstractClassified, AbstreamError, Prompt, Shards, VerifiedAdapter
from ..schemas.events import ModelReceipt
from .choosing import choose
from .files import Tally, usable
from .fleet import table
from .past import Past

LoadEngine = Callable[[ModelReceipt, VerifiedAdapter | None], Engine]


@dataclass(frozen=True)
class Reproduced:
    """One prediction, then and now.

    Attributes:
        then: the event.
        now: the same questions, answered by the model of its receipt.
        tolerance: by how much a probability may differ: machines add in another order.
    """

    then: AbstractClassified
    now: dict[str, Scored]
    tolerance: float

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Each question with its label and confidence, then and now, and the largest difference of a probability."""
        answers = self.then.data.answers
        return [
            {
                "question": name,
                "then": answers[name].label if name in answers else None,
                "now": self.now[name]["label"] if name in self.now else None,
                "difference": self._difference(name),
            }
            for name in dict.fromkeys([*answers, *self.now])
        ]

    @property
    def same(self) -> bool:
        """Whether every question that was asked is answered as it was."""
        return all(row["difference"] is not None and row["difference"] <= self.tolerance for row in self.rows)

    def _difference(self, name: str) -> float | None:
        """None where only one of both asked it."""
        if name not in self.now or name not in self.then.data.answers:
            return None
        then, now = self.then.data.answers[name].probabilities, self.now[name]["probabilities"]
        return max(abs(then.get(label, 0) - now.get(label, 0)) for label in then.keys() | now.keys())


def reproduce(
    url: str, shards: Shards, event_id: str, data: tuple[str, ...], adapter: str | None, load_engine: LoadEngine
) -> Reproduced:
    """Find a prediction, its abstract and its model, and ask again.

    Args:
        url: of Redis.
        shards: of the namespace.
        event_id: of the prediction, or of the abstract.
        data: files that hold the abstract, where its entry was trimmed.
        adapter: where to find the adapter, if not by its digest.
        load_engine: makes an engine for a receipt and its adapter.

    Raises:
        AbstreamError: one of them is not to be found, or not what the receipt says.
    """
    then, abstract = _look_back(url, shards, event_id)
    abstract = abstract or _in_files(data, then)
    receipt = then.data.model
    engine = load_engine(receipt, choose(url, shards, adapter or receipt.adapter_digest or "none"))
    _same_model(receipt, engine.model.receipt)
    logits = engine.classify([engine.encode(abstract)]).logits[0]
    tolerance = ROUNDED.get(receipt.dtype, TOLERANCE)
    return Reproduced(then, score(engine.model, logits)[0], tolerance)


def _look_back(url: str, shards: Shards, event_id: str) -> tuple[AbstractClassified, Abstract | None]:
    """The prediction and its abstract, from whichever shard has them."""
    missing = AbstreamError("there are no shards")
    for streams in shards.all:
        with connect_blocking(url, streams) as redis:
            past = Past(redis, streams)
            try:
                then = past.prediction(event_id)
            except AbstreamError as error:
                missing = error
            else:
                return then, past.abstract(then)
    raise missing


def shown(found: Reproduced, *, as_json: bool) -> str:
    """For people, or for programs."""
    if as_json:
        model = found.then.data.model.model_dump()
        said = {"id": found.then.id, "causationid": found.then.causationid, "same": found.same}
        return json.dumps(said | {"tolerance": found.tolerance, "answers": found.rows, "model": model})
    verdict = "as it was" if found.same else "NOT as it was"
    return f"{table(found.rows, 'question', 'then', 'now', 'difference')}\n{verdict}, {found.tolerance:g} is allowed"


def _in_files(data: tuple[str, ...], then: AbstractClassified) -> Abstract:
    """The abstract whose text has the digest of the receipt."""
    for record in usable(data, "auto", Tally()):
        digest = hashlib.sha256(Prompt.body(record.abstract).encode()).hexdigest()
        if then.data.input.text_digest == f"sha256:{digest}":
            return record.abstract
    where = f"nor is it in {', '.join(data)}" if data else "give the file it came from with --data"
    raise AbstreamError(f"the abstract {then.causationid} is no longer in its stream: {where}")


def _same_model(then: ModelReceipt, now: ModelReceipt) -> None:
    names = ("base", "base_revision", "adapter_digest", "prompt_digest", "dtype")
    differing = [name for name in names if getattr(then, name) != getattr(now, name)]
    if differing:
        said = "; ".join(f"{name} {getattr(now, name)}, then {getattr(then, name)}" for name in differing)
        raise AbstreamError(f"this is not the model that answered then ({said}): see --model, --task and --dtype")
