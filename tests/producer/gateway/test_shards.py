"""A gateway of a namespace with several shards."""

from collections import Counter

import pytest
from abstream.schemas import Shards

from ...conftest import Workers, wait_until
from .conftest import documented_conflict, prediction_event

SHARDS = 3
IDS = [f"abstract-{number}" for number in range(60)]
LIST = [{"id": id_, "abstract": f"Text of {id_}."} for id_ in IDS]


@pytest.fixture
def names(namespace) -> Shards:
    return Shards(namespace, SHARDS)


@pytest.fixture
def workers(redis, streams) -> Workers:
    return Workers(redis, streams, SHARDS)


@pytest.fixture
def publish_results(redis, names):
    """Adds predictions to the shards in turn, each with a number of its own, and returns the numbers."""
    published = 0

    async def publish(count: int) -> list[str]:
        nonlocal published
        numbers = [str(number) for number in range(published, published + count)]
        published += count
        for number in numbers:
            body = prediction_event(causationid=number, causationsource="elsewhere")
            await redis.xadd(names.all[int(number) % SHARDS].predictions, {"event": body})
        return numbers

    return publish


def seen(events) -> Counter[str]:
    """How often each abstract was answered in a stream of server-sent events."""
    return Counter(data.partition('"causationid": "')[2].partition('"')[0] for data in events.data)


async def test_what_is_sent_is_answered_wherever_it_went(client, workers):
    assert (await client.post("/v1/abstracts", json=LIST)).status_code == 202
    await workers.burst()

    async def done() -> bool:
        return all([(await client.get(f"/v1/abstracts/{id_}")).json()["status"] == "done" for id_ in IDS])

    await wait_until(done, "all to be done")


async def test_of_a_list_without_ids_a_repetition_after_a_partial_failure_doubles_nothing(
    client, redis, names, workers
):
    """The ids that the gateway gave are told, also of those that it does not know to be taken."""
    out_of_order = names.all[1].lane("interactive")
    await redis.set(out_of_order, "no stream")
    nameless = [{"abstract": f"Text {number}."} for number in range(30)]
    body = (await client.post("/v1/abstracts", json=[*nameless[:7], {}, *nameless[7:]])).json()
    assert (body["status"], body["accepted"]) == (503, [])
    assert [one["position"] for one in body["problems"]] == ["8"]

    await redis.delete(out_of_order)
    repeated = [{**one, "id": own} for one, own in zip(nameless, body["unsure"], strict=True)]
    assert (await client.post("/v1/abstracts", json=repeated)).status_code == 202
    await workers.burst()
    assert sum([await redis.xlen(streams.predictions) for streams in names.all]) == len(nameless)


async def test_submit_and_wait_needs_no_more_than_with_one(client, workers):
    async with workers.running():
        for id_ in IDS[:6]:
            answer = await client.post("/v1/classify", json={"id": id_, "abstract": "Text."})
            assert answer.json()["status"] == "done"


async def test_pages_go_through_all_shards_oldest_first_and_give_each_once(client, publish_results):
    numbers = await publish_results(50)
    found, after = [], "0"
    while page := (await client.get("/v1/predictions", params={"after": after, "limit": 7})).json():
        if not page["predictions"]:
            break
        found += [one["event"]["causationid"] for one in page["predictions"]]
        after = page["next"]
    assert Counter(found) == Counter(numbers)
    assert (await client.get("/v1/predictions", params={"after": after})).json()["next"] == after


@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/predictions/stream", "/v1/refusals"])
async def test_a_place_in_other_shards_is_a_problem(client, path):
    answer = await client.get(path, params={"after": "1700000000000-0,0-0"})
    assert answer.status_code == 409
    assert answer.json() == await documented_conflict(client, "get", path)


async def test_a_stream_gives_what_comes_in_any_shard_once(listening, following, publish_results):
    await publish_results(5)
    async with listening() as gateway, following(gateway.client) as events:
        await wait_until(lambda: gateway.door.tail.subscribers == 1)
        numbers = await publish_results(200)
        await wait_until(lambda: len(events.data) >= 200)
    assert seen(events) == Counter(numbers)


async def test_a_stream_goes_on_at_any_gateway_after_the_last_event_that_was_seen(
    listening, following, publish_results
):
    """Even if that gateway saw the shards in another order, and the first predictions not at all."""
    before = await publish_results(400)
    async with listening() as one:
        async with following(one.client, last="0") as events:
            await wait_until(lambda: len(events.data) >= 150)
        first, last = seen(events), events.ids[-1]
        live = await publish_results(9)
        async with listening() as other, following(other.client, last=last) as more:
            await wait_until(lambda: len(more.data) + first.total() >= 409)
            live += await publish_results(30)
            await wait_until(lambda: len(more.data) + first.total() >= 439)
        assert first + seen(more) == Counter(before + live)


async def test_a_stream_goes_past_what_was_trimmed(listening, following, publish_results, redis, names):
    numbers = await publish_results(9)
    async with listening() as gateway:
        await redis.xtrim(names.all[1].predictions, maxlen=0, approximate=False)
        async with following(gateway.client, last="0") as events:
            await wait_until(lambda: len(events.data) >= 6)
            live = await publish_results(6)
            await wait_until(lambda: len(events.data) >= 12)
    assert seen(events) == Counter([number for number in numbers if int(number) % SHARDS != 1] + live)


async def test_a_refusal_is_known_by_its_entry_and_its_shard_and_is_replayed_there(client, redis, names, workers):
    await workers.new().source.create_groups()
    for streams in names.all:
        await redis.xadd(streams.lane("interactive"), {"title": "", "abstract": ""}, id="7-0")
    await workers.burst()

    refusals = (await client.get("/v1/refusals")).json()["refusals"]
    assert {one["entry_id"].partition("@")[2] for one in refusals} == {"0", "1", "2"}
    one = next(one for one in refusals if one["entry_id"].endswith("@2"))
    assert (await client.post(f"/v1/refusals/{one['entry_id']}/replay")).json()["result"] == "replayed"
    assert [await redis.xlen(streams.lane("interactive")) for streams in names.all] == [1, 1, 2]
    assert (await client.post("/v1/refusals/7-0@3/replay")).status_code == 404
