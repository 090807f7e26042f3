"""Refusals are read and replayed, and adapters are shown, by HTTP."""

from abstream import Abstract
from abstream.consumer.engine.fake import FakeEngine
from abstream.training.release import release

from ...conftest import wait_until
from .conftest import documented_conflict

SOUND = {"id": "sound", "title": "Title", "abstract": "A sound text."}


class Clumsy(FakeEngine):
    """Fails on the valid abstract."""

    def classify(self, batch):
        if self.encode(Abstract(title=SOUND["title"], abstract=SOUND["abstract"])) in batch:
            raise RuntimeError("out of order")
        return super().classify(batch)


async def refused(client, workers):
    await client.post("/v1/abstracts", json=SOUND)
    await workers.burst(engine=Clumsy())
    [refusal] = (await client.get("/v1/refusals")).json()["refusals"]
    return refusal


async def test_a_page_holds_the_whole_original(client, redis, streams, workers):
    refusal = await refused(client, workers)
    assert (refusal["event"]["causationid"], refusal["replayed_as"]) == ("sound", None)
    assert refusal["event"]["data"]["original"]["fields"]


async def test_pages_of_refusals_follow_each_other(client, redis, streams, workers):
    for _ in range(12):
        await redis.xadd(streams.lane("interactive"), {"event": b"{"})
    await workers.burst()
    first = (await client.get("/v1/refusals?limit=10")).json()
    rest = (await client.get(f"/v1/refusals?after={first['next']}")).json()
    assert (len(first["refusals"]), len(rest["refusals"])) == (10, 2)
    assert (await client.get(f"/v1/refusals?after={rest['next']}")).json() == {"refusals": [], "next": rest["next"]}


async def test_a_replay_is_sent_once_and_its_abstract_waits_again(client, workers):
    refusal = await refused(client, workers)
    address = f"/v1/refusals/{refusal['entry_id']}/replay"
    first, second = await client.post(address), await client.post(address)
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json() == first.json() | {"result": "replayed before"}
    assert (await client.get("/v1/abstracts/sound")).json()["status"] == "queued"
    await workers.burst()

    async def done():
        return (await client.get("/v1/abstracts/sound")).json()["status"] == "done"

    await wait_until(done)


async def test_what_is_no_refusal_is_not_found(client):
    assert (await client.post("/v1/refusals/7-0/replay")).status_code == 404


async def test_what_was_trimmed_cannot_be_replayed(client, redis, streams, workers):
    await client.post("/v1/abstracts", json=SOUND)
    lane = streams.lane("interactive")
    await workers.new().source.create_groups()
    await redis.xreadgroup("classifiers", "dead", {lane: ">"})
    await redis.xtrim(lane, maxlen=0, approximate=False)
    await workers.burst(lease_seconds=0.001)
    [refusal] = (await client.get("/v1/refusals")).json()["refusals"]
    answer = await client.post(f"/v1/refusals/{refusal['entry_id']}/replay")
    assert answer.status_code == 409
    assert answer.json() == await documented_conflict(client, "post", "/v1/refusals/{entry_id}/replay")


async def test_adapters_tell_what_is_live_and_which_worker_serves_it(
    client, workers, redis, streams, make_adapter, tmp_path
):
    async with workers.following("worker-1"):
        await release(redis, streams, make_adapter("1").path, tmp_path / "store")

        async def served():
            return (await client.get("/v1/adapters")).json()["workers"]

        await wait_until(served)
    found = (await client.get("/v1/adapters")).json()
    [worker] = found["workers"]
    assert found["live"] == found["known"][0]
    assert (worker["worker"], worker["result"], worker["serves"]) == ("worker-1", "activated", found["live"]["digest"])


async def test_what_was_announced_before_is_known_and_not_live(client, redis, streams, make_adapter, tmp_path):
    """Workers do not follow an event twice, so its adapter is not the one to serve."""
    for version in ("1", "2"):
        await release(redis, streams, make_adapter(version).path, tmp_path / "store")
    [(_, first), _] = await redis.xrange(streams.output("adapters"))
    await redis.xadd(streams.output("adapters"), first)

    found = (await client.get("/v1/adapters")).json()

    assert [one["version"] for one in found["known"]] == ["1", "2", "1"]
    assert found["live"]["version"] == "2"


async def test_a_candidate_in_the_shadow_is_known_and_not_live(client, redis, streams, make_adapter, tmp_path):
    await release(redis, streams, make_adapter("1").path, tmp_path / "store")
    await release(redis, streams, make_adapter("2").path, tmp_path / "store", action="shadow")

    found = (await client.get("/v1/adapters")).json()

    assert [one["version"] for one in found["known"]] == ["1", "2"]
    assert found["live"]["version"] == "1"


async def test_a_worker_that_rejected_an_adapter_serves_the_one_before(
    client, workers, redis, streams, make_adapter, tmp_path
):
    """Beside an event of a later version, which is passed over."""
    good, bad = make_adapter("1"), make_adapter("2", base_model={"id": "other", "revision": "7"})
    worker = workers.new("worker-1")
    registry = workers.registry(worker)
    for adapter in (good, bad):
        await release(redis, streams, adapter.path, tmp_path / "store")
        await registry.catch_up()
    for output in ("adapters", "fleet"):
        await redis.xadd(streams.output(output), {"event": b'{"type": "abstream.adapter.updated.v9"}'})

    [told] = (await client.get("/v1/adapters")).json()["workers"]
    assert (told["result"], told["digest"], told["serves"]) == ("rejected", bad.digest, good.digest)
    assert "was trained on other" in told["reason"]


async def test_without_adapters_nothing_is_live(client):
    assert (await client.get("/v1/adapters")).json() == {"live": None, "known": [], "workers": []}
