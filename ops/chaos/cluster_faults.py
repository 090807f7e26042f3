"""What happens in a Redis Cluster: the primary of some shards dies, and its replica takes its place."""

import asyncio
import time

from .scene import AOF_EVERYSEC, Row, Scene
from .servers import Server
from .waiting import until, within

_OUTAGE_SECONDS = 5  # of a shard: the nodes' timeout, an election, and a pause of the longest between two tries
_REPLACED_SECONDS = 30


async def primary_killed(scene: Scene) -> str:
    """Kill another primary each time; it comes back as a replica of the node that took its place."""
    longest, unpublished = 0.0, 0
    async with scene.under_load():
        async for _ in scene.moments():
            shard = scene.random.randrange(scene.names.count)
            victim = await scene.cluster.primary_of(scene.names.all[shard])
            killed = time.monotonic()
            victim.kill()
            await _replaced(scene, shard, victim)
            back = asyncio.create_task(scene.cluster.restart(victim))
            await _first_result(scene, shard)
            longest = max(longest, time.monotonic() - killed)
            await back
            unpublished += await scene.unsee()
    scene.limit(longest, _OUTAGE_SECONDS, "seconds without a result of a shard whose primary was killed")
    scene.expect_no_exits()
    return (
        f"shards without a result for at most {longest:.1f} s, all together for {scene.watch.longest_gap_seconds:.1f}; "
        f"the publisher sent {scene.load.repeated} × again; {unpublished} results seen, gone, given again"
    )


async def _replaced(scene: Scene, shard: int, victim: Server) -> None:
    async def is_replaced() -> bool:
        return await scene.cluster.primary_of(scene.names.all[shard]) is not victim

    scene.expect(await until(is_replaced, within(_REPLACED_SECONDS)), "a primary that was killed was not replaced")


async def _first_result(scene: Scene, shard: int) -> None:
    """Wait for a shard's first result; none comes where all were answered."""
    seen = scene.watch.seen_of_shard[shard]
    await scene.until(lambda: scene.watch.seen_of_shard[shard] > seen or len(scene.watch.seen) >= scene.total)


ROWS = (
    Row(
        "cluster",
        "{faults} × a primary of a Redis Cluster killed, nodes' timeout 2 s, 6 shards; WAIT 1 on publishing",
        primary_killed,
        faults=5,
        flags={"lease-seconds": 5},
        redis=AOF_EVERYSEC,
        replicated=True,
        shards=6,
    ),
)
