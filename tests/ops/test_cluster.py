"""A real Redis Cluster of six servers: every part of abstream finds each shard, also after it has moved.

The row ``cluster`` of ``abstream chaos`` tests that nothing is lost or repeated when a primary is killed under load.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from abstream import Abstract, Publisher, Subscriber, Unavailable
from abstream.consumer.shards import Shard
from abstream.consumer.worker import Worker
from abstream.ops.chaos.cluster import Cluster
from abstream.ops.chaos.servers import Server
from abstream.ops.redis_doctor import examine_redis
from abstream.ops.working import broker_at
from abstream.producer.connection import Connections
from abstream.schemas import Shards
from redis.crc import key_slot

from ..conftest import Workers, wait_until

ABSTRACTS = [(f"abstract-{number}", Abstract(abstract=f"Text {number}.")) for number in range(60)]
NAMES = Shards("abstream", 4)
ONE_OF_EACH = (0, 1, 3)  # shard 2 is on the same primary as shard 1, and nodes rarely vote twice on the same primary
MOVES = 1


class ClusterWorkers(Workers):
    """As ``Workers``, with each shard on the server that has it."""

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


async def settled(cluster: Cluster) -> None:
    """Return once all nodes agree on which node has which slots, which follows which, and on the epoch.

    Before that, a requested fail-over fails silently: a primary ignores a replica that it does not know as its own yet,
    and no node votes twice in an epoch. Redis gives up after 5 s.
    """

    async def view(node: Server) -> str:
        rows = await node.redis.execute_command("CLUSTER", "SLOTS")
        served = sorted((first, last, own[1], sorted(one[1] for one in others)) for first, last, own, *others in rows)
        info = await node.redis.execute_command("CLUSTER", "INFO")
        return f"{served} {[line for line in info.splitlines() if line.startswith(b'cluster_current_epoch')]}"

    async def is_settled() -> bool:
        return len({await view(node) for node in cluster.nodes}) == 1

    await wait_until(is_settled, "one view of the cluster")


async def fail_over(cluster: Cluster, shard: int) -> None:
    """Let a replica take its primary's place, as an operator would; the primary becomes its replica."""
    await settled(cluster)
    primary = await cluster.primary_of(NAMES.all[shard])
    [replica] = [node for node in cluster.nodes if await _follows(node, primary.port)]
    await replica.redis.execute_command("CLUSTER", "FAILOVER")
    await wait_until(lambda: _follows(primary, replica.port), "the replica to take over")


async def _follows(node: Server, port: int) -> bool:
    return (await node.redis.info("replication")).get("master_port") == port


async def move(source: Server, target: Server, slot: int) -> AsyncIterator[bytes]:
    """Move a slot to another primary, as ``redis-cli --cluster reshard`` does; yields each key after its move."""
    from_id, to_id = [await node.redis.execute_command("CLUSTER", "MYID") for node in (source, target)]
    await target.redis.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", from_id)
    await source.redis.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", to_id)
    while keys := await source.redis.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
        await source.redis.execute_command("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5_000)
        yield keys[0]
    for node in (target, source):  # which tell the others
        await node.redis.execute_command("CLUSTER", "SETSLOT", slot, "NODE", to_id)


async def move_shard(cluster: Cluster, shard: int, to: int, worker: Worker) -> None:
    """Move a shard to the primary of shard ``to``; during the move the worker's requests are refused."""
    source, target = [await cluster.primary_of(NAMES.all[one]) for one in (shard, to)]
    slot, moved = key_slot(NAMES.all[shard].predictions.encode()), set()
    async for key in move(source, target, slot):
        moved.add(key.decode())
        if len(moved) == 1:
            refused = reconnects(worker)
            await wait_until(lambda refused=refused: reconnects(worker) > refused, "a refusal")
    assert {NAMES.all[shard].lane("interactive"), NAMES.all[shard].predictions} < moved
    assert await target.redis.xlen(NAMES.all[shard].predictions)


def reconnects(worker: Worker) -> float:
    return worker.metrics.registry.get_sample_value("abstream_redis_reconnects_total")


async def publish(publisher: Publisher, abstracts: Sequence[tuple[str, Abstract]]) -> None:
    """Publish one by one, and retry those that were refused."""
    waiting = list(abstracts)
    while waiting:
        try:
            await publisher.publish_many(waiting[:1])
        except Unavailable:
            continue
        waiting.pop(0)


async def test_shards_are_found_on_every_node_and_after_they_move(cluster, abstream):
    async with (
        Connections(cluster.url, NAMES) as connections,
        Publisher(cluster.url, shards=NAMES.count, source="urn:one", wait_replicas=1) as publisher,
        Subscriber(cluster.url, shards=NAMES.count) as subscriber,
    ):
        workers, seen = ClusterWorkers(connections), Counter()

        async def follow() -> None:
            async for _, prediction in subscriber.predictions(since="0"):
                seen[prediction.causationid] += 1

        async with workers.running() as worker:
            following = asyncio.create_task(follow())
            await publisher.publish_many(ABSTRACTS[:30])
            await wait_until(lambda: len(seen) == 30, "the first answers")
            for shard in ONE_OF_EACH:
                await fail_over(cluster, shard)
            publishing = asyncio.create_task(publish(publisher, ABSTRACTS[20:]))
            await move_shard(cluster, MOVES, 0, worker)
            await publishing
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
