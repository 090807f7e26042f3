"""What happens to Redis, and to the network before it."""

import asyncio

from .scene import AOF_ALWAYS, AOF_EVERYSEC, Row, Scene

_DROPPED_SHARE = 0.02
LEASE = {"lease-seconds": 5}


async def dropped(scene: Scene) -> str:
    scene.network.drop_replies(_DROPPED_SHARE)
    async with scene.under_load():
        pass
    return f"{scene.network.dropped} replies dropped; {scene.load.repeated} × the publisher sent again"


async def killed(scene: Scene) -> str:
    slowest = 0.0
    async with scene.under_load():
        async for _ in scene.moments():
            scene.server.kill()
            await asyncio.sleep(scene.random.uniform(0.2, 1))
            await scene.server.start()
            slowest = max(slowest, await scene.first_result())
    return f"first result at most {slowest:.1f} s after it was back"


async def away(scene: Scene) -> str:
    async with scene.under_load():
        async for _ in scene.moments():
            scene.server.kill()
            await asyncio.sleep(scene.seconds)
            await scene.server.start()
            first = await scene.first_result()
    return f"first result {first:.1f} s after it was back, no worker restarted: {not scene.workers.exits}"


ROWS = (
    Row(
        "dropped-replies",
        "1 in 50 replies of Redis lost after it did what was asked",
        dropped,
        flags={"lease-seconds": 2},
        through_proxy=True,
    ),
    Row("redis-kill", "{faults} × kill -9 of Redis, AOF always", killed, faults=10, flags=LEASE, redis=AOF_ALWAYS),
    Row(
        "redis-kill-everysec",
        "{faults} × kill -9 of Redis, AOF everysec",
        killed,
        faults=10,
        flags=LEASE,
        redis=AOF_EVERYSEC,
    ),
    Row("redis-away", "Redis away for {seconds} s", away, seconds=60, flags=LEASE, redis=AOF_ALWAYS),
)
