"""Faults of the network between Redis and its clients: replies get lost, or nothing passes for a while."""

import asyncio

from .scene import Row, Scene

_DROPPED_SHARE = 0.02
_HEALED_SECONDS = 3  # within which results come again: one pause of the longest, and a second
_MOST_CPU_SHARE = 0.05  # of a worker that has nothing to do but wait for Redis


async def dropped(scene: Scene) -> str:
    scene.network.drop_replies(_DROPPED_SHARE)
    async with scene.under_load():
        pass
    scene.expect(scene.network.dropped > 0, "no reply was dropped")
    return f"{scene.network.dropped} replies dropped, to workers and to the publisher"


async def cut(scene: Scene) -> str:
    return await _partition(scene, requests=True)


async def half_open(scene: Scene) -> str:
    return await _partition(scene, requests=False)


async def _partition(scene: Scene, *, requests: bool) -> str:
    first = 0.0
    async with scene.under_load():
        async for _ in scene.moments():
            workers = await scene.workers.until_ready(scene.workers.count)
            before = sum(worker.cpu_seconds() for worker in workers)
            scene.network.partition(requests=requests, replies=True)
            await asyncio.sleep(scene.seconds)
            used = sum(worker.cpu_seconds() for worker in workers) - before
            scene.network.heal()
            first = await scene.first_result()
    share = used / len(workers) / scene.seconds
    scene.limit(first, _HEALED_SECONDS, "seconds to the first result after it healed")
    scene.limit(share, _MOST_CPU_SHARE, "share of a core that a worker used meanwhile")
    scene.expect_no_exits()
    return f"first result {first:.1f} s after it healed; a worker used {share:.1%} of a core meanwhile"


ROWS = (
    Row(
        "dropped-replies",
        "1 in 50 replies of Redis lost after it did what was asked",
        dropped,
        flags={"lease-seconds": 2},
        through_proxy=True,
    ),
    Row(
        "partition",
        "nothing passes to or from Redis for {seconds} s",
        cut,
        seconds=30,
        flags={"lease-seconds": 5},
        through_proxy=True,
    ),
    Row(
        "half-open",
        "requests reach Redis, replies do not come back, for {seconds} s",
        half_open,
        seconds=30,
        flags={"lease-seconds": 5},
        through_proxy=True,
    ),
)
