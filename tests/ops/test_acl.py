"""The Redis users in ``ops/redis/users.acl``: each one can do its job and nothing else."""

from pathlib import Path

import abstream as package
import httpx2
import pytest
from abstream import Abstract, Publisher, Subscriber, Unavailable
from abstream.consumer.membership import Membership
from abstream.consumer.metrics import Metrics
from abstream.ops.embedded import embedded_redis
from abstream.ops.gateway import backlog_gauges
from abstream.producer.connection import connect
from abstream.producer.gateway.app import build
from abstream.producer.gateway.config import GatewayConfig
from abstream.schemas import Shards, Streams
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..conftest import Workers, wait_until

USERS = Path(package.__file__).parent / "ops" / "redis" / "users.acl"
NAMES = [line.split()[1] for line in USERS.read_text().splitlines() if not line.startswith("user default")]
SYSTEM = Streams()

# Redis 7 and newer refuse DEBUG to everyone before they look at the user's rights.
NO = r"(?i)no permissions|can't run|can't access|NOPERM|DEBUG command not allowed"
NOBODYS_JOB = """
    FLUSHALL
    KEYS *
    CONFIG SET maxmemory 1
    DEBUG SLEEP 0
    SHUTDOWN
    ACL LIST
    CLIENT LIST
    CLIENT KILL ID 0
    CLIENT PAUSE 1
    MODULE LIST
    REPLICAOF NO ONE
    GET somebody-elses
    EVAL return 0
"""
OTHERS_JOB = {
    "publisher": """
        XADD {abstream}:predictions * event x
        XADD {abstream}:adapters * event x
        XRANGE {abstream}:predictions - +
        XRANGE {abstream}:abstracts - +
    """,
    "subscriber": """
        XADD {abstream}:abstracts * event x
        XADD {abstream}:predictions * event x
        XTRIM {abstream}:predictions MAXLEN 0
        DEL {abstream}:predictions
    """,
    "worker": """
        DEL {abstream}:predictions
        CONFIG GET *
    """,
    "gateway": """
        DEL {abstream}:predictions
        XTRIM {abstream}:predictions MAXLEN 0
        XACK {abstream}:abstracts classifiers 0-1
    """,
    "operator": """
        CONFIG SET appendonly no
    """,
}


@pytest.fixture
def server(tmp_path):
    """A server with these users; the default user may do everything, for the test's own checks."""
    (tmp_path / "users.acl").write_text(
        USERS.read_text().replace("user default off", "user default on nopass ~* &* +@all")
    )
    with embedded_redis("--aclfile", str(tmp_path / "users.acl")) as url:
        yield url


@pytest.fixture
def namespace() -> str:
    return SYSTEM.namespace


@pytest.fixture
def url(server):
    return lambda name: server.replace("unix://", f"unix://{name}:change-me-{name}@")


async def denied(redis: Redis) -> list[str]:
    """What any user was denied, except for naming its client, for which Redis 6.2 has no right."""
    log = await redis.acl_log()
    return [f"{entry['username']}: {entry['object']}" for entry in log if entry["object"] != "client"]


async def test_each_user_can_do_its_job(redis, url, make_adapter, tmp_path, abstream, server):
    async with Publisher(url("publisher")) as publisher:
        await publisher.publish(Abstract(title="T", abstract="A."), id="1")
        await publisher.publish(Abstract(title="", abstract="B."), id="2", lane="bulk")
    async with Publisher(url("publisher"), wait_replicas=1, source="urn:careful") as careful:
        with pytest.raises(Unavailable, match="replicas"):
            await careful.publish(Abstract(title="T", abstract="A."), id="3")
    (tmp_path / "file.jsonl").write_text('{"id": "4", "text": "A."}\n')
    for how in ((), ("--resume",)):
        done = abstream("publish", "file.jsonl", *how, REDIS_URL=url("publisher"))
        assert done.returncode == 0, done.stderr
    await redis.xadd(SYSTEM.lane("interactive"), {"event": "broken"})

    operator = {"REDIS_URL": url("operator"), "ABSTREAM_NAMESPACE": SYSTEM.namespace}
    for command in (("streams", "init"), ("streams", "info"), ("adapters", "release", make_adapter().path)):
        done = abstream(*command, **operator)
        assert done.returncode == 0, done.stderr
    worked = abstream("work", "--engine", "fake", "--burst", "--metrics-port", "0", REDIS_URL=url("worker"))
    assert worked.returncode == 0, worked.stderr

    async with Subscriber(url("subscriber")) as subscriber:
        results = [result async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
        refusals = [refusal async for _, refusal in subscriber.refusals(since="0", until_idle=0.1)]
    assert {result.causationid for result in results} == {"1", "2", "3", "4"}
    assert len(refusals) == 1
    reader = connect(url("subscriber"))
    await reader.xgroup_create(SYSTEM.predictions, "registry", "0")
    [(_, entries)] = await reader.xreadgroup("registry", "one", {SYSTEM.predictions: ">"})
    assert await reader.xack(SYSTEM.predictions, "registry", *[entry_id for entry_id, _ in entries]) == 4
    await reader.aclose()

    for command in ("refusals list", "refusals replay --reason undecodable", "streams trim", "adapters status"):
        done = abstream(*command.split(), **operator)
        assert done.returncode == 0, done.stderr
    assert await denied(redis) == []


async def test_the_gateway_user_can_do_its_job(redis, url, workers):
    gauges = [backlog_gauges(url("gateway"), Shards(SYSTEM.namespace))]
    app = build(url("gateway"), Shards(SYSTEM.namespace), GatewayConfig(), gauges)
    async with app.router.lifespan_context(app), workers.running():
        await wait_until(lambda: app.state.door.tail.newest is not None, "the reader to begin")
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.post("/v1/classify", json={"id": "1", "title": "T", "abstract": "A."})
            assert answer.status_code == 200, answer.text
            for path in ("/v1/abstracts/1", "/v1/predictions", "/v1/refusals", "/v1/adapters", "/readyz", "/metrics"):
                assert (await client.get(path)).status_code == 200, path
    assert await denied(redis) == []


@pytest.mark.parametrize("name", NAMES)
async def test_no_user_can_do_what_is_not_its_job(name, redis, url):
    async with connect(url(name)) as client:
        assert await client.ping()
        for command in map(str.split, filter(str.strip, (NOBODYS_JOB + OTHERS_JOB[name]).splitlines())):
            with pytest.raises(ResponseError, match=NO):
                await client.execute_command(*command)


async def test_each_user_can_do_its_job_in_every_shard(redis, url):
    names = Shards(SYSTEM.namespace, 2)
    common = {"namespace": names.namespace, "shards": names.count}
    async with Publisher(url("publisher"), **common) as publisher:
        await publisher.publish_many([(str(number), Abstract(title="T", abstract="A.")) for number in range(8)])
    client = connect(url("worker"))
    workers = Workers(client, SYSTEM, names.count)
    member = Membership(client, SYSTEM, "worker", workers.new().source, Metrics("test"))
    await member.join()
    await workers.burst()
    await member.sign_off()
    async with Subscriber(url("subscriber"), **common) as subscriber:
        assert len([one async for one in subscriber.predictions("0", until_idle=0.1)]) == 8
    assert await denied(redis) == []
    await client.aclose()
