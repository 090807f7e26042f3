"""Faults of Redis with a replica: the primary dies, and the replica takes its place."""

import asyncio

from .proxy import SlowLink
from .scene import AOF_EVERYSEC, Row, Scene
from .servers import Server, free_port, replica_options
from .waiting import until, within

LINK_SECONDS = 0.04  # there and back
_READ_ONLY_SECONDS = 0.3  # while clients reach the replica, and it is none yet that can be written
_SYNC_SECONDS = 30
_BACK_SECONDS = 3


async def failed_over(scene: Scene) -> str:
    """Each time the dead primary's place is taken, with what the replica had got by then, and a new replica follows."""
    slowest, unpublished = 0.0, 0
    replica = await _replica(scene)
    async with scene.under_load():
        async for _ in scene.moments():
            scene.server.kill()
            scene.network.lead_to(replica.folder)
            scene.server = replica
            await asyncio.sleep(_READ_ONLY_SECONDS)
            unpublished += await scene.unsee()
            await replica.promote()
            first_result = asyncio.create_task(scene.first_result())
            replica = await _replica(scene)
            slowest = max(slowest, await first_result)
    scene.limit(slowest, _BACK_SECONDS, "seconds to the first result after the replica had taken over")
    scene.expect_no_exits()
    return (
        f"first result at most {slowest:.1f} s after the replica had taken over; the publisher sent "
        f"{scene.load.repeated} × again; {unpublished} results seen, gone, given again"
    )


async def _replica(scene: Scene) -> Server:
    """A replica in sync, over a slow link."""
    link = await scene.stack.enter_async_context(SlowLink(scene.server.port, LINK_SECONDS / 2))
    replica = await scene.stack.enter_async_context(
        Server(*AOF_EVERYSEC, *replica_options(link.port), port=free_port())
    )
    scene.expect(await until(scene.server.has_replica, within(_SYNC_SECONDS)), "the replica did not follow")
    return replica


ROWS = (
    Row(
        "fail-over",
        "{faults} × the primary dies and its replica, over a link of 40 ms, takes its place; WAIT 1 on publishing",
        failed_over,
        faults=5,
        flags={"lease-seconds": 5},
        redis=(*AOF_EVERYSEC, "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"),
        through_proxy=True,
        replicated=True,
    ),
)
