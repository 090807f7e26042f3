"""What cannot be answered is refused with the reason, with what to change, and with the whole original."""

import json

import pytest
from abstream import Abstract, Malformed, Publisher
from abstream.schemas.streams import MAX_EVENT_BYTES


def submitted(**data: object) -> dict[str, object]:
    return {"specversion": "1.0", "id": "1", "source": "test", "type": "abstream.abstract.submitted.v1", "data": data}


NO_TYPE = {name: value for name, value in submitted(abstract="Text.").items() if name != "type"}

BAD = {
    "not UTF-8": (b'{"data": "\xff\xfe"}', "undecodable", "UTF-8 at byte 10"),
    "not JSON": (b'{"specversion": "1.0"', "undecodable", "Invalid JSON"),
    "not an object": (b"[1, 2]", "invalid", "object"),
    "wrong types": (json.dumps(submitted(title=7, abstract=["a"])).encode(), "invalid", "data.title"),
    "empty text": (json.dumps(submitted(title=" ", abstract="")).encode(), "invalid", "both empty"),
    "too long an abstract": (json.dumps(submitted(abstract="a" * 50_001)).encode(), "too_large", "50000"),
    "an abstract of 10 MB": (json.dumps(submitted(abstract="a" * 10_000_000)).encode(), "too_large", "shorter"),
    "an unknown event type": (json.dumps(submitted(abstract="a") | {"type": "nope.v9"}).encode(), "invalid", "type"),
    "a field missing": (json.dumps(submitted(title="Title alone")).encode(), "invalid", "data.abstract"),
    "no type": (json.dumps(NO_TYPE).encode(), "invalid", "type"),
}


@pytest.mark.parametrize(("body", "reason", "said"), BAD.values(), ids=BAD.keys())
async def test_a_bad_event_is_refused_and_its_neighbours_are_answered(
    body, reason, said, redis, streams, publisher, subscriber, workers
):
    await publisher.publish(Abstract(title="A good one before", abstract=""), id="before")
    entry_id = await redis.xadd(streams.lane("interactive"), {"event": body})
    await publisher.publish(Abstract(title="A good one after", abstract=""), id="after")

    await workers.burst()

    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert refusal.data.reason == reason
    assert said in refusal.data.message
    assert refusal.data.original.entry_id == refusal.sequence == entry_id.decode()
    answered = {result.causationid async for _, result in subscriber.predictions(since="0", until_idle=0.1)}
    assert answered == {"before", "after"}
    assert await workers.pending() == 0


async def test_a_refusal_holds_the_whole_original(redis, streams, subscriber, workers):
    """So it can be inspected, mended and sent again, whatever bytes it contains."""
    await redis.xadd(streams.lane("interactive"), {"event": b"\xff\x00 not text", "note": "kept"})

    await workers.burst()

    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert refusal.data.original.encoding == "base64"
    assert refusal.data.original.fields == {"event": "/wAgbm90IHRleHQ=", "note": "a2VwdA=="}


TOLD = {
    "a sound envelope": ({"event": submitted(title=7)}, ("1", "test")),
    "no source": ({"event": submitted(title=7) | {"source": ""}}, ("1", None)),
    "no id": ({"event": submitted(title=7) | {"id": ""}}, (None, None)),
    "an id that is a number": ({"event": submitted(title=7) | {"id": 1}}, (None, None)),
    "another version": ({"event": submitted(abstract="Text.") | {"specversion": "0.3"}}, ("1", "test")),
    "an id given twice": ({"event": '{"id": "1", "id": "2", "source": "test", "data": {}}'}, (None, None)),
    "half a character": ({"event": r'{"id": "\ud800", "source": "test", "data": {}}'}, (None, None)),
    "no object": ({"event": '[["id", "1"]]'}, (None, None)),
    "an abstract that is too long": ({"event": submitted(abstract="a" * 50_001)}, ("1", "test")),
    "plain fields": ({"id": "7", "title": " "}, ("7", "urn:abstream:plain")),
    "plain fields without an id": ({"title": " "}, (None, None)),
    "plain fields whose id is no text": ({"id": b"\xff", "title": " "}, (None, None)),
}


@pytest.mark.parametrize(("fields", "cause"), TOLD.values(), ids=TOLD.keys())
async def test_a_refusal_carries_the_events_id_where_it_can_be_read(fields, cause, redis, streams, subscriber, workers):
    """So a publisher that waits for the answer to an id learns of the refusal."""
    sent = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in fields.items()}
    await redis.xadd(streams.lane("interactive"), sent)

    await workers.burst()

    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert (refusal.causationid, refusal.causationsource) == cause


async def test_the_refusal_of_an_entry_with_neither_event_nor_text_says_what_is_needed(
    redis, streams, subscriber, workers
):
    await redis.xadd(streams.lane("interactive"), {"colour": "blue"})

    await workers.burst()

    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert refusal.data.message == "the entry has neither a field 'event' nor plain fields 'title' or 'abstract'"


async def test_a_refusal_message_never_contains_the_text(redis, streams, subscriber, workers):
    """Refusal messages reach logs and dashboards; the abstract does not belong there."""
    secret = "patient Jane Roe"
    event = json.dumps(submitted(title=[secret], abstract={"a": secret}))
    await redis.xadd(streams.lane("interactive"), {"event": event})

    await workers.burst()

    [(_, refusal)] = [result async for result in subscriber.refusals(since="0", until_idle=0.1)]
    assert secret not in refusal.data.message
    assert secret in refusal.data.original.fields["event"]


def test_a_bad_abstract_cannot_even_be_built():
    with pytest.raises(Malformed, match="send at least one"):
        Abstract.parse({"title": "", "abstract": "  "})


async def test_the_publisher_rejects_what_no_worker_would_accept(server, namespace):
    metadata = {"blob": "x" * MAX_EVENT_BYTES}
    async with Publisher(server, namespace=namespace) as publisher:
        with pytest.raises(Malformed, match="limit"):
            await publisher.publish(Abstract(title="Title", abstract="", metadata=metadata))
