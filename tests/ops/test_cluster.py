"""A real Redis Cluster of six servers: every part of abstream finds each shard where it is, also when that changes.

That nothing is lost or doubled when a primary is killed under load, the row ``cluster`` of ``abstream chaos`` tries.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from abstream import Abstract, Publisher, Subscriber
from abstream.consumer.shards import Shard
from abstream.ops.chaos.cluster import Cluster
from abstream.ops.chaos.servers import Server
from abstream.ops.redis_doctor import examine_redis
from abstream.ops.working import broker_at
from abstream.producer.connection import Connections
from abstream.schemas import Shards

from ..conftest import Workers, wait_until

ABSTRACTS = [(f"abstract-{number}", Abstract(abstract=f"Text {number}.")) for number in range(60)]
NAMES = Shards("abstream", 4)
ASK_AGAIN_SECONDS = 6.0  # Redis gives a fail-over up after 5 s, as where a vote came too late
ONE_OF_EACH = (0, 1, 3)  # shard 2 is on the same primary as shard 1; the nodes vote on each but once in a while


class ClusterWorkers(Workers):
    """As ``Workers``, each shard at the server that has it."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections.control.redis, NAMES.control, NAMES.count)
        self._shards = [Shard(*shard) for shard in connections.shards]

    @property
    def shards(self) -> list[Shard]:
        return self._shards


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster("--appendonly", "no", node_timeout_milliseconds=1_000) as cluster:
        yield cluster


async def fail_over(cluster: Cluster, shard: int) -> None:
    """Let a replica take its primary's place, as an operator does; the primary lives on as its replica."""
    primary = await cluster.primary_of(NAMES.all[shard])
    replicas: list[Server] = []

    async def has_replica() -> bool:
        replicas.extend([node for node in cluster.nodes if await _follows(node, primary.port)])
        return bool(replicas)

    await wait_until(has_replica, "a replica")
    replica, asked_at = replicas[0], -ASK_AGAIN_SECONDS

    async def is_replaced() -> bool:
        nonlocal asked_at
        if await _follows(primary, replica.port):
            return True
        if time.monotonic() - asked_at > ASK_AGAIN_SECONDS:
            asked_at = time.monotonic()
            await replica.redis.execute_command("CLUSTER", "FAILOVER")
        return False

    await wait_until(is_replaced, "the replica to take over")


async def _follows(node: Server, port: int) -> bool:
    return (await node.redis.info("replication")).get("master_port") == port


async def test_shards_are_found_wherever_they_are_and_wherever_they_go(cluster, abstream):
    async with (
        Connections(cluster.url, NAMES) as connections,
        Publisher(cluster.url, shards=NAMES.count, source="urn:one", wait_replicas=1) as publisher,
        Subscriber(cluster.url, shards=NAMES.count) as subscriber,
    ):
        workers, seen = ClusterWorkers(connections), Counter()

        async def follow() -> None:
            async for _, prediction in subscriber.predictions(since="0"):
                seen[prediction.causationid] += 1

        async with workers.running():
            following = asyncio.create_task(follow())
            await publisher.publish_many(ABSTRACTS[:30])
            await wait_until(lambda: len(seen) == 30, "the first answers")
            for shard in ONE_OF_EACH:
                await fail_over(cluster, shard)
            await publisher.publish_many(ABSTRACTS[20:])
            await wait_until(lambda: len(seen) == 60, "all answers")
            following.cancel()
        assert seen == Counter(id_ for id_, _ in ABSTRACTS)

    await _the_commands_see_all_of_it(cluster, abstream)


async def _the_commands_see_all_of_it(cluster: Cluster, abstream) -> None:
    def run(*command: str) -> bytes:
        return abstream("--redis-url", cluster.url, "--namespace", "abstream", "--shards", "4", *command).stdout

    info = json.loads(await asyncio.to_thread(run, "streams", "info", "--json"))
    results = [row["length"] for row in info if row["stream"].endswith(":predictions")]
    assert (len(results), sum(results)) == (4, 60)
    assert {row["lag"] for row in info if row["stream"].endswith(("abstracts", "bulk"))} == {0}
    findings = await asyncio.to_thread(lambda: list(examine_redis(cluster.url, NAMES)))
    assert [finding.found for finding in findings if finding.what == "shards"] == ["4, on 3 servers"]
    broker = broker_at(cluster.url, NAMES)
    backlog = (await asyncio.to_thread(broker.backlogs))["interactive"]
    assert (backlog.lag, backlog.pending) == (0, 0)
    broker.close()
