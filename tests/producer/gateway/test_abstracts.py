"""Abstracts are submitted by HTTP, one, many or as a file, and the status of each can be looked up by its id."""

import asyncio
import time

import pytest
from abstream import Abstract, Publisher
from abstream.consumer.engine.fake import FakeEngine
from abstream.schemas.streams import from_fields
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from ...conftest import PATIENCE_SECONDS, wait_until
from .conftest import TAMOXIFEN, prediction_event, waiting


class Clumsy(FakeEngine):
    """Fails on the example abstract, so that it is refused."""

    def classify(self, batch):
        if self.encode(Abstract(**TAMOXIFEN)) in batch:
            raise RuntimeError("out of order")
        return super().classify(batch)


async def status(client, id):
    return (await client.get(f"/v1/abstracts/{id}")).json()["status"]


async def test_one_abstract_is_taken_and_told_its_place(client, redis, streams):
    answer = await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    assert answer.status_code == 202
    [event] = await waiting(redis, streams)
    [(entry_id, _)] = await redis.xrange(streams.lane("interactive"))
    assert answer.json() == {"id": "7", "entry_id": entry_id.decode()}
    assert answer.headers["location"] == "/v1/abstracts/7"
    assert (event.id, event.source) == ("7", "urn:abstream:gateway")
    assert event.data == Abstract(**TAMOXIFEN)


async def test_the_idempotency_key_is_the_id_and_a_repetition_gets_no_second_result(client, redis, streams, workers):
    first, second = [
        (await client.post("/v1/abstracts", json=TAMOXIFEN, headers={"Idempotency-Key": "k"})).json()["id"]
        for _ in range(2)
    ]
    await workers.burst()
    assert first == second == "k"
    assert await redis.xlen(streams.predictions) == 1


async def test_a_title_is_enough(client, redis, streams):
    assert (await client.post("/v1/abstracts", json={"title": "Tamoxifen"})).status_code == 202


async def test_bulk_is_asked_for_in_the_address(client, redis, streams):
    await client.post("/v1/abstracts?lane=bulk", json=TAMOXIFEN)
    assert len(await waiting(redis, streams, "bulk")) == 1


async def test_of_a_list_the_good_ones_are_taken_and_the_others_told_by_position(client, redis, streams):
    many = [TAMOXIFEN, {"abstract": " "}, 3, {**TAMOXIFEN, "id": "own"}, {**TAMOXIFEN, "id": 5}]
    answer = await client.post("/v1/abstracts", json=many)
    assert answer.status_code == 202
    body = answer.json()
    assert [one["id"] for one in body["accepted"]] == [event.id for event in await waiting(redis, streams)]
    assert body["accepted"][1]["id"] == "own"
    assert [one["position"] for one in body["problems"]] == ["2", "3", "5"]
    assert "both empty: send at least one" in body["problems"][0]["detail"]


async def test_a_list_in_which_nothing_is_good_is_a_problem(client):
    answer = await client.post("/v1/abstracts", json=[{"abstract": ""}])
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("None of the abstracts is valid.")
    assert [one["position"] for one in answer.json()["problems"]] == ["1"]


async def test_a_full_backlog_says_when_to_come_again_and_what_was_taken(gateway, redis, streams):
    async with gateway(max_backlog=256) as client:
        answer = await client.post("/v1/abstracts", json=[{**TAMOXIFEN, "id": str(number)} for number in range(300)])
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    body = answer.json()
    assert (body["waiting"], body["limit"]) == (256, 256)
    assert body["detail"].startswith("256 abstracts are already waiting. Try again in ")
    assert [one["id"] for one in body["accepted"]] == [str(number) for number in range(256)]
    assert body["unsure"] == [str(number) for number in range(256, 300)]


@pytest.mark.parametrize("path", ["/v1/abstracts", "/v1/classify"])
async def test_a_gateway_that_shuts_down_takes_nothing_and_does_not_blame_redis(listening, redis, streams, path):
    async with listening() as gateway:
        gateway.door.end()
        answer = await gateway.client.post(path, json=TAMOXIFEN)
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("The gateway is shutting down.")
    assert int(answer.headers["retry-after"]) > 0
    assert await waiting(redis, streams) == []


@pytest.mark.parametrize("path", ["/v1/abstracts", "/v1/classify"])
async def test_if_it_is_unsure_whether_one_was_taken_its_id_is_told_so_that_it_can_be_sent_again(
    gateway, redis, streams, path
):
    async with gateway() as client:
        await redis.set(streams.lane("interactive"), "no stream")
        answer = await client.post(path, json=TAMOXIFEN)
        [own] = answer.json()["unsure"]
        await redis.delete(streams.lane("interactive"))
        again = await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": own})
    assert (answer.status_code, again.status_code, again.json()["id"]) == (503, 202, own)


async def test_how_an_abstract_stands_follows_it(client, workers):
    taken = await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "10.1000/x"})
    assert taken.headers["location"] == "/v1/abstracts/10.1000%2Fx"
    assert await status(client, "10.1000/x") == "queued"
    await workers.burst()
    await wait_until(lambda: is_status(client, "10.1000/x", "done"))
    done = (await client.get("/v1/abstracts/10.1000%2Fx")).json()
    assert done["prediction"]["causationid"] == "10.1000/x"
    assert done["prediction"]["sequence"] == done["entry_id"]


async def is_status(client, id, wanted):
    return await status(client, id) == wanted


async def test_a_refused_abstract_has_its_reason_until_it_is_sent_again(client, workers):
    await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    await workers.burst(engine=Clumsy())
    await wait_until(lambda: is_status(client, "7", "refused"))
    refused = (await client.get("/v1/abstracts/7")).json()
    assert refused["refusal"]["data"]["reason"] == "inference_error"
    await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    assert await status(client, "7") == "queued"
    await workers.burst()
    await wait_until(lambda: is_status(client, "7", "done"))


async def test_an_abstract_that_is_sent_again_after_its_prediction_is_done(client, workers):
    """Workers give it no second one."""
    for _ in range(2):
        await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
        await workers.burst()
        await wait_until(lambda: is_status(client, "7", "done"))


async def test_an_abstract_that_was_trimmed_unread_is_refused_too(client, redis, streams, workers):
    await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    lane = streams.lane("interactive")
    await workers.new().source.create_groups()
    await redis.xreadgroup("classifiers", "dead", {lane: ">"})
    await redis.xtrim(lane, maxlen=0, approximate=False)
    await workers.burst(lease_seconds=0.001)
    await wait_until(lambda: is_status(client, "7", "refused"))
    assert (await client.get("/v1/abstracts/7")).json()["refusal"]["data"]["reason"] == "trimmed"


async def test_another_gateway_knows_it_as_well_and_one_that_starts_later(gateway, workers):
    async with gateway() as first, gateway() as second:
        await first.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
        assert await status(second, "7") == "queued"
    await workers.burst()  # while no gateway runs
    async with gateway() as later:
        await wait_until(lambda: is_status(later, "7", "done"))


async def test_what_nobody_sent_here_is_not_known(client, publisher):
    await publisher.publish(Abstract(**TAMOXIFEN), id="7")
    assert (await client.get("/v1/abstracts/7")).status_code == 404


async def test_whose_result_is_no_longer_kept_is_gone(client, redis, streams, workers):
    await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    await workers.burst()
    await wait_until(lambda: is_status(client, "7", "done"))
    await redis.xtrim(streams.predictions, maxlen=0, approximate=False)
    assert (await client.get("/v1/abstracts/7")).status_code == 410


async def test_what_is_remembered_of_an_abstract_has_an_end(client, redis, streams, workers):
    await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    [key] = await redis.keys(f"{streams.standing('')}*")
    queued = await redis.ttl(key)
    await workers.burst()
    await wait_until(lambda: is_status(client, "7", "done"))
    assert 0 < await redis.ttl(key) < queued


async def test_what_workers_give_no_second_answer_has_its_first_for_as_long(client, redis, streams, workers):
    """Sent again a day later, it is a duplicate: without its first answer it would seem queued for a week."""
    await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    await workers.burst()
    await wait_until(lambda: is_status(client, "7", "done"))
    [standing] = await redis.keys(f"{streams.standing('')}*")
    [seen, *_] = streams.seen(time.time())
    assert await redis.ttl(standing) >= await redis.ttl(seen)


async def test_to_classify_is_to_submit_and_wait(client, workers):
    async with workers.running():
        answer = await client.post("/v1/classify", json={**TAMOXIFEN, "id": "7"})
        assert answer.status_code == 200
        assert answer.json()["prediction"]["causationid"] == "7"
        again = await client.post("/v1/classify", json={**TAMOXIFEN, "id": "7"})
    assert again.json() == answer.json()


async def test_many_wait_at_once_and_each_has_its_own(client, workers):
    async with workers.running():
        answers = await asyncio.gather(
            *(client.post("/v1/classify", json={**TAMOXIFEN, "id": str(number)}) for number in range(50))
        )
    assert [answer.json()["prediction"]["causationid"] for answer in answers] == [str(number) for number in range(50)]


async def test_who_waits_in_vain_is_told_where_to_look_later(client, workers):
    asking = client.post("/v1/classify?wait_seconds=0.01", json=TAMOXIFEN)
    answer = await asyncio.wait_for(asking, PATIENCE_SECONDS)
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    await workers.burst()
    await wait_until(lambda: is_status(client, answer.json()["id"], "done"))
    assert (await client.get(answer.headers["location"])).json()["status"] == "done"


async def test_nobody_waits_longer_than_the_gateway_allows(gateway):
    async with gateway(max_wait_seconds=0.01) as client:
        answer = await client.post("/v1/classify?wait_seconds=3600", json=TAMOXIFEN)
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


async def test_who_waits_for_what_was_refused_before_gets_the_new_answer(client, workers):
    await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    await workers.burst(engine=Clumsy())
    async with workers.running():
        answer = await client.post("/v1/classify", json={**TAMOXIFEN, "id": "7"})
    assert answer.json()["status"] == "done"


async def test_another_ones_prediction_with_the_entry_id_of_a_refusal_is_not_taken_for_its_result(
    client, redis, streams, workers
):
    await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    await workers.burst(engine=Clumsy())
    await wait_until(lambda: is_status(client, "7", "refused"))
    [(entry_id, _)] = await redis.xrange(streams.refusals)
    others = prediction_event(causationid="8", causationsource="elsewhere")
    await redis.xadd(streams.predictions, {"event": others}, id=entry_id)
    answer = await client.post("/v1/classify?wait_seconds=0.01", json={**TAMOXIFEN, "id": "7"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


async def test_a_refusal_ends_the_wait_as_well(client, workers):
    async with workers.running(engine=Clumsy()):
        answer = await client.post("/v1/classify", json=TAMOXIFEN)
    assert (answer.status_code, answer.json()["status"]) == (200, "refused")


async def test_a_source_of_ones_own_can_be_looked_up_by_it(gateway, server, namespace):
    async with gateway(source="urn:hospital") as client, Publisher(server, namespace=namespace) as publisher:
        answer = await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
        assert answer.status_code == 202
        assert (await client.get("/v1/abstracts/7?source=urn:hospital")).status_code == 200
        assert (await client.get(f"/v1/abstracts/7?source={publisher.source}")).status_code == 404


async def test_a_request_that_is_part_of_a_trace_makes_its_abstract_part_of_it(gateway, redis, streams, monkeypatch):
    """FastAPI opens the span of the request, and that of the publisher is within it."""
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with gateway() as client:
        headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
        await client.post("/v1/abstracts", json={"abstract": "x"}, headers=headers)
    [(_, fields)] = await redis.xrange(streams.lane("interactive"))
    assert from_fields(fields).traceparent.split("-")[1] == trace_id
