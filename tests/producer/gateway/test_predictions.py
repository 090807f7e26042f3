"""Predictions are read in pages, or followed as they arrive."""

import asyncio
import json
import socket
import zlib

import pytest
from abstream.producer.cursor import parse_id, write
from abstream.producer.gateway.entries import Entry
from abstream.producer.gateway.tail import BEGIN_PACKED, Tail, as_sent

from ...conftest import wait_until
from .conftest import prediction_event


async def test_pages_follow_each_other_and_end(client, publish_results):
    entry_ids = await publish_results(5)
    found, after = [], "0"
    while page := (answer := (await client.get(f"/v1/predictions?after={after}&limit=2")).json())["predictions"]:
        found += [one["entry_id"] for one in page]
        after = answer["next"]
    assert found == entry_ids
    assert after == entry_ids[-1]


async def test_a_page_of_several_reads_has_no_more_predictions_than_were_asked_for(client, publish_results):
    entry_ids = await publish_results(300)
    page = (await client.get("/v1/predictions?limit=200")).json()
    assert [one["entry_id"] for one in page["predictions"]] == entry_ids[:200]
    assert page["next"] == entry_ids[199]


async def test_a_page_of_large_predictions_ends_early_and_the_next_goes_on(client, redis, streams):
    body = prediction_event(subject="x" * 1_000_000)
    entry_ids = [(await redis.xadd(streams.predictions, {"event": body})).decode() for _ in range(140)]
    pages, after = [], "0"
    while page := (answer := (await client.get(f"/v1/predictions?after={after}&limit=1000")).json())["predictions"]:
        pages.append([one["entry_id"] for one in page])
        after = answer["next"]
    assert [entry_id for page in pages for entry_id in page] == entry_ids
    assert len(pages) > 1


async def test_what_is_no_prediction_is_left_out_of_pages(client, redis, streams, publish_results):
    for body in (b"", b"[]", b"{", b"\xff", b'{"type": "another"}'):
        await redis.xadd(streams.predictions, {"event": body})
    await redis.xadd(streams.predictions, {"other": "field"})
    [entry_id] = await publish_results(1)
    assert [one["entry_id"] for one in (await client.get("/v1/predictions")).json()["predictions"]] == [entry_id]


@pytest.mark.parametrize("data", [None, [], "text", {"original": "text"}], ids=str)
async def test_a_result_that_is_none_does_not_end_the_reading_of_results(
    listening, redis, streams, publish_results, data
):
    async with listening() as gateway:
        for kind, stream in (("classified", streams.predictions), ("refused", streams.refusals)):
            await redis.xadd(stream, {"event": json.dumps({"type": f"abstream.abstract.{kind}.v1", "data": data})})
        [entry_id] = await publish_results(1)
        await wait_until(lambda: gateway.door.tail.newest == (parse_id(entry_id),) or not gateway.door.reads)
        assert gateway.door.reads


async def test_a_stream_begins_now_and_sends_each_once(listening, following, publish_results):
    await publish_results(3)
    async with listening() as gateway, following(gateway.client) as events:
        await wait_until(lambda: gateway.door.tail.subscribers == 1)
        entry_ids = await publish_results(200)
        await wait_until(lambda: len(events.ids) >= 200)
    assert events.ids == entry_ids


async def test_a_stream_goes_on_after_the_last_event_that_was_seen(listening, following, publish_results):
    before = await publish_results(300)  # more than one read
    async with listening() as gateway:
        live = await publish_results(10)
        async with following(gateway.client, last=before[4]) as events:
            await wait_until(lambda: len(events.ids) >= 305)
            live += await publish_results(10)
            await wait_until(lambda: len(events.ids) >= 315)
    assert events.ids == before[5:] + live


async def test_who_reconnects_goes_on_where_it_was_and_not_where_its_address_begins(
    listening, following, publish_results
):
    """A browser asks for the same address again."""
    entry_ids = await publish_results(3)
    async with (
        listening() as gateway,
        following(gateway.client, entry_ids[1], "/v1/predictions/stream?after=0") as events,
    ):
        await wait_until(lambda: events.ids)
    assert events.ids == entry_ids[2:]


@pytest.mark.parametrize(
    ("taken", "sent"), [("br, GZIP;q=0.5", "gzip"), ("gzip;q=0", None), ("gzip; q=0.0, *", None), ("identity", None)]
)
async def test_a_stream_is_packed_for_who_takes_that(listening, following, publish_results, taken, sent):
    before = await publish_results(200)  # more than one read of what the tail does not hold
    headers = {"Accept-Encoding": taken}
    async with listening(heartbeat_seconds=0.01) as gateway, following(gateway.client, "0", **headers) as events:
        await wait_until(lambda: events.comments and len(events.ids) == 200)
        live = await publish_results(10)
        await wait_until(lambda: len(events.ids) == 210)
    assert (events.ids, events.encoding) == (before + live, sent)


async def test_a_stream_may_begin_at_an_address(listening, following, publish_results):
    entry_ids = await publish_results(2)
    async with (
        listening() as gateway,
        following(gateway.client, path="/v1/predictions/stream?after=0") as events,
    ):
        await wait_until(lambda: len(events.ids) == 2)
    assert events.ids == entry_ids


async def test_a_stream_without_news_shows_that_it_lives(listening, following):
    async with listening(heartbeat_seconds=0.01) as gateway, following(gateway.client) as events:
        await wait_until(lambda: events.comments >= 2)


async def test_who_leaves_is_no_subscriber_any_more(listening, following):
    async with listening() as gateway:
        async with following(gateway.client):
            await wait_until(lambda: gateway.door.tail.subscribers == 1)
        await wait_until(lambda: gateway.door.tail.subscribers == 0)


async def test_one_that_does_not_read_holds_up_nobody_and_misses_nothing(listening, following, publish_results):
    """Its connection is full long before the tail drops predictions that it has not received."""
    async with listening() as gateway:
        gateway.door.tail._max_bytes = 1_000
        host, port = gateway.address.removeprefix("http://").split(":")
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)  # larger than the buffer, it waits for a timer
        slow.connect((host, int(port)))
        slow.sendall(b"GET /v1/predictions/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        async with following(gateway.client) as fast:
            await wait_until(lambda: gateway.door.tail.subscribers == 2)
            entry_ids = await publish_results(2_000)
            await wait_until(lambda: len(fast.ids) == 2_000, "the fast one")
        slow.setblocking(False)
        received = b""
        while entry_ids[-1].encode() not in received:
            received += await asyncio.get_running_loop().sock_recv(slow, 1 << 16)
        slow.close()
        await wait_until(lambda: gateway.door.tail.subscribers == 0)
    assert received.count(b"id: ") == 2_000


async def test_there_are_no_more_streams_than_may_be(listening, following):
    async with listening(max_subscribers=1) as gateway, following(gateway.client):
        await wait_until(lambda: gateway.door.tail.subscribers == 1)
        refused = await gateway.client.get("/v1/predictions/stream")
        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")


async def test_at_the_end_streams_and_waits_end_cleanly(listening, following):
    async with listening() as gateway, following(gateway.client) as events:
        waiting = asyncio.create_task(gateway.client.post("/v1/classify?wait_seconds=60", json={"title": "T"}))
        await wait_until(lambda: len(gateway.door.waiting) == 1 and gateway.door.tail.subscribers == 1)
        gateway.server.should_exit = True
        assert (await waiting).status_code == 202
        await wait_until(lambda: events.ended)


async def test_a_gateway_that_shuts_down_begins_no_stream(listening):
    """Nothing would end it."""
    async with listening() as gateway:
        gateway.door.end()
        refused = await gateway.client.get("/v1/predictions/stream")
    assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")


@pytest.mark.parametrize("seen", ["x", "-1", "1-", "99999999999999999999"])
async def test_a_last_event_that_is_none_is_a_problem(client, seen):
    answer = await client.get("/v1/predictions/stream", headers={"Last-Event-ID": seen})
    assert answer.status_code == 422
    assert "Last-Event-ID" in answer.json()["detail"]


def entry(number: int, body: bytes = prediction_event()) -> Entry:
    return Entry("predictions", f"{number}-0", {}, body)


def test_line_ends_within_an_event_do_not_end_it():
    assert as_sent("1-0", entry(1, b'{"a":\n1}')) == b'id: 1-0\nevent: prediction\ndata: {"a":\ndata: 1}\n\n'


def test_a_tail_tells_what_it_no_longer_holds():
    tail = Tail(max_bytes=2 * len(as_sent("1-0", entry(1))))
    tail.begin(((0, 0),))
    assert tail.after(((0, 0),)) == (b"", ((0, 0),))
    tail.append([entry(number) for number in range(1, 5)])
    assert tail.after(((1, 0),)) is None
    assert tail.after(((2, 0),)) == (as_sent("3-0", entry(3)) + as_sent("4-0", entry(4)), ((4, 0),))
    assert tail.after(((4, 0),)) == (b"", ((4, 0),))
    assert write(tail.newest) == "4-0"


def test_what_was_joined_for_one_place_is_not_sent_at_another_once_the_oldest_are_dropped():
    tail = Tail(max_bytes=2 * len(as_sent("1-0", entry(1))))
    tail.begin(((0, 0),))
    tail.append([entry(1), entry(2)])
    assert tail.after(((0, 0),)) == (as_sent("1-0", entry(1)) + as_sent("2-0", entry(2)), ((2, 0),))
    tail.append([entry(3)])
    assert tail.after(((1, 0),)) == (as_sent("2-0", entry(2)) + as_sent("3-0", entry(3)), ((3, 0),))


def test_a_tail_holds_the_newest_prediction_however_large_it_is():
    tail = Tail(max_bytes=1)
    tail.begin(((0, 0),))
    tail.append([entry(1), entry(2)])
    assert tail.after(((1, 0),)) == (as_sent("2-0", entry(2)), ((2, 0),))


def test_a_tail_of_several_shards_knows_only_places_where_it_has_been():
    """At another gateway the shards came in another order: what is missing there cannot be told from here."""
    tail = Tail()
    tail.begin(((0, 0), (0, 0)))
    tail.append([entry(1)], shard=0)
    tail.append([entry(1)], shard=1)
    assert tail.after(((0, 0), (1, 0))) is None
    assert tail.after(((1, 0), (0, 0)))[1] == ((1, 0), (1, 0))


def test_whatever_parts_one_is_sent_are_one_gzip_stream():
    tail = Tail()
    tail.begin(((0, 0),))
    tail.append([entry(1), entry(2)])
    early, _ = tail.after(((0, 0),), pack=True)
    late, _ = tail.after(((1, 0),), pack=True)
    tail.append([entry(3)])
    last, _ = tail.after(((2, 0),), pack=True)
    for part, sent in ((early, [1, 2, 3]), (late, [2, 3])):
        plain = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(BEGIN_PACKED + part + last)
        assert plain == b"".join(as_sent(f"{number}-0", entry(number)) for number in sent)


async def test_many_predictions_share_a_waking_while_much_comes():
    tail = Tail()
    tail.begin(((0, 0),))
    with tail.subscriber() as subscriber:
        tail.append([entry(1)])
        await wait_until(subscriber.news.is_set)
        subscriber.news.clear()
        tail._rests_until = asyncio.get_running_loop().time() + 1_000
        tail.append([entry(2)])
        tail.append([entry(3)])
        assert (tail._waking.when(), subscriber.news.is_set()) == (tail._rests_until, False)
        tail._waking.cancel()


def test_a_tail_gives_no_more_at_a_time_than_a_chunk():
    tail = Tail()
    tail.begin(((0, 0),))
    large = b"x" * 100_000
    tail.append([entry(number, large) for number in range(1, 6)])
    sent, last = tail.after(((0, 0),))
    assert (sent.count(b"id: "), last) == (2, ((2, 0),))
    assert tail.after(last)[1] == ((4, 0),)
