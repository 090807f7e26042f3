"""The metrics of a gateway agree with what its clients did."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ...conftest import wait_until

SOUND = {"abstract": "A sound text."}


@pytest.fixture
def told(client):
    """The value of a metric, as a scrape reads it; 0 if it is missing."""

    async def value(name: str, **labels: str) -> float:
        text = (await client.get("/metrics")).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(one.value for one in samples if one.name == f"abstream_gateway_{name}" and one.labels == labels)

    return value


async def test_abstracts_are_counted_by_lane_and_broken_records_beside_them(client, told, redis, streams):
    await client.post("/v1/abstracts", json=[SOUND, SOUND, {"abstract": ""}])
    await client.post("/v1/abstracts", params={"lane": "bulk"}, json=SOUND)
    for lane in ("interactive", "bulk"):
        assert await told("abstracts_total", lane=lane) == await redis.xlen(streams.lane(lane)) > 0
    assert await told("broken_records_total") == 1


async def test_requests_are_counted_and_timed_by_route_never_by_what_was_asked_for(client, told):
    statuses = [(await client.get(f"/v1/abstracts/{id_}")).status_code for id_ in ("one", "two")]
    assert statuses == [404, 404]
    route = {"method": "GET", "route": "/v1/abstracts/{id:path}"}
    assert await told("requests_total", **route, status="404") == 2
    assert await told("request_seconds_count", **route) == 2
    assert await told("request_seconds_bucket", **route, le="+Inf") == 2


async def test_those_who_wait_and_those_who_listen_are_told_while_they_do(listening, following, workers):
    async with listening() as gateway:

        async def gauge(name: str) -> float:
            text = (await gateway.client.get("/metrics")).text
            found = {one.name: one.samples[0].value for one in text_string_to_metric_families(text) if one.samples}
            return found[f"abstream_gateway_{name}"]

        async with following(gateway.client):
            await wait_until(lambda: comes_to(gauge("subscribers"), 1), "the subscriber")
            waiting = asyncio.create_task(gateway.client.post("/v1/classify", json=SOUND))
            await wait_until(lambda: comes_to(gauge("waiting"), 1), "who waits")
            await workers.burst()
            assert (await waiting).status_code == 200
            assert await gauge("waiting") == 0
        await wait_until(lambda: comes_to(gauge("subscribers"), 0), "the subscriber to leave")


async def comes_to(gauge, expected: float) -> bool:
    return await gauge == expected
