"""Whatever an entry contains, it ends exactly once: as a result, or as a refusal with the whole original."""

import json
import math
from collections.abc import Iterable
from itertools import islice
from random import Random
from typing import get_args

from abstream.schemas import AbstractClassified, AbstractRefused
from abstream.schemas.errors import RefusalReason
from abstream.schemas.originals import from_original
from abstream.schemas.streams import from_fields

from .mutations import Fields, mutated, worst

COUNT = 10_000
SEED = 4
OF_THE_SENDER = {"undecodable", "invalid", "too_large"}


def entries() -> list[Fields]:
    chance = Random(SEED)
    return [*worst(), *(mutated(chance) for _ in range(COUNT))]


async def send(redis, stream: str, entries: Iterable[Fields]) -> dict[str, Fields]:
    """Add the entries in pipelined chunks, and return them by entry id."""
    sent: dict[str, Fields] = {}
    entries = iter(entries)
    while some := list(islice(entries, 250)):
        async with redis.pipeline(transaction=False) as pipeline:
            for fields in some:
                pipeline.xadd(stream, dict(fields.items()))
            sent |= zip((entry_id.decode() for entry_id in await pipeline.execute()), some, strict=True)
    return sent


async def published(redis, stream: str) -> list:
    return [from_fields(fields) for _, fields in await redis.xrange(stream)]


async def test_ten_thousand_bad_entries_end_once_each(redis, streams, workers):
    sent = await send(redis, streams.lane("interactive"), entries())

    await workers.burst(read_count=512)

    results = await published(redis, streams.predictions)
    refusals = await published(redis, streams.refusals)
    assert sorted(event.sequence for event in [*results, *refusals]) == sorted(sent)
    assert await workers.pending() == 0
    assert len(results) > COUNT / 10, "too little of what was sent can be answered for this to say much"
    for result in results:
        check_result(result, sent[result.sequence])
    for refused in refusals:
        check_refusal(refused, sent[refused.sequence])


def check_result(result: AbstractClassified, fields: Fields) -> None:
    """Unknown fields are kept: here, the publisher's own identifiers."""
    if b"event" in fields:
        event = json.loads(fields[b"event"], parse_float=finite)
        echoed = json.loads(result.to_json())["data"]["identifiers"]
        assert result.causationid == event["id"]
        assert echoed == echoed | event["data"].get("identifiers", {})


def finite(number: str) -> float | None:
    """The number, or None where it is infinite, which JSON cannot represent."""
    return float(number) if math.isfinite(float(number)) else None


def check_refusal(refused: AbstractRefused, fields: Fields) -> None:
    assert refused.data.reason in OF_THE_SENDER < set(get_args(RefusalReason))
    assert 10 < len(refused.data.message) < 500
    assert from_original(refused.data.original) == fields
    assert not refused.data.retryable
