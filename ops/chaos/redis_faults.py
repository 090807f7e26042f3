"""Faults of Redis: it dies, is emptied, forgets its scripts, or is full."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from ...consumer.tasks import end
from ...schemas.streams import GROUP, LANES
from .scene import AOF_ALWAYS, AOF_EVERYSEC, Row, Scene

LEASE = {"lease-seconds": 5}
_BACK_SECONDS = 3  # within which results come again: one pause of the longest, and a second
_FLUSH_SECONDS = 0.2
_UNSYNCED_SECONDS = 1.0
_WAITING_SECONDS = 0.2  # until a worker that found nothing waits for more
# All that a worker needs, on the keys of its namespace.
_RIGHTS = (
    "~{abstream}:* -@all +ping +client +evalsha +script|load +xreadgroup +xread +xack +xadd +xclaim +xpending +xrange "
    "+xrevrange +xinfo +xtrim +xlen +xgroup|create +xgroup|delconsumer +type +exists +sismember +sadd +expire +time "
    "+info +set"
)
_WORDS, _ROOM_BYTES = 400, 2_400  # of an abstract, which takes 3.4 kB, and for it: more than its result


async def killed(scene: Scene) -> str:
    slowest = 0.0
    async with scene.under_load():
        async for _ in scene.moments():
            scene.server.kill()
            await asyncio.sleep(scene.random.uniform(0.2, 1))
            slowest = max(slowest, await _back(scene))
    return f"first result at most {slowest:.1f} s after it was back"


async def away(scene: Scene) -> str:
    first = 0.0
    async with scene.under_load():
        async for _ in scene.moments():
            scene.server.kill()
            await asyncio.sleep(scene.seconds)
            first = await _back(scene)
    scene.expect_no_exits()
    return f"first result {first:.1f} s after it was back; {scene.load.repeated} × the publisher sent again"


async def _back(scene: Scene) -> float:
    """Restart Redis; returns the seconds until the next result."""
    await scene.server.start()
    return await _first_result(scene)


async def _first_result(scene: Scene) -> float:
    first = await scene.first_result()
    scene.limit(first, _BACK_SECONDS, "seconds to the first result after Redis was back")
    return first


async def killed_unwritten(scene: Scene) -> str:
    """With everysec, Redis answers before it writes while an fsync is under way; a kill takes what it did not write."""
    return await _forgetting(scene, scene.server.crash)


async def powerless(scene: Scene) -> str:
    """The machine loses power before the disk has what Redis wrote: with everysec, up to a second of it."""
    scene.load.most_unanswered = scene.total // 10  # so that something is sent in every second
    return await _forgetting(scene, partial(scene.server.lose_power, _UNSYNCED_SECONDS), _UNSYNCED_SECONDS)


async def _forgetting(scene: Scene, stop: Callable[[], float], after_seconds: float = 0) -> str:
    """Stop Redis while no worker moves, so that it is known which results it forgot.

    Args:
        stop: returns the moment up to which Redis forgets nothing.
        after_seconds: how long to wait before each stop.
    """
    forgiven, unpublished, slowest = 0, 0, 0.0
    async with _meanwhile(scene.server.watch_disk()), scene.under_load():
        async for _ in scene.moments():
            await asyncio.sleep(after_seconds)
            workers = await scene.workers.until_ready(scene.workers.count)
            for worker in workers:
                worker.freeze()
            forgiven += scene.ledger.forgive(stop())
            await scene.server.start()
            unpublished += await scene.unsee()
            for worker in workers:
                worker.thaw()
            slowest = max(slowest, await _first_result(scene))
    found = await scene.found()
    gone = forgiven - len((found.predictions.keys() | found.refusals.keys()) - scene.ledger.accepted.keys())
    return (
        f"of {forgiven} that it need not keep, {gone} are gone; {unpublished} results seen, gone, given again; "
        f"first result at most {slowest:.1f} s after it was back"
    )


async def flushed(scene: Scene) -> str:
    async def flush() -> None:
        await scene.server.redis.flushall()
        scene.ledger.forget()

    return await _while_waiting(scene, flush)


async def deleted(scene: Scene) -> str:
    async def delete() -> None:
        await scene.server.redis.delete(*map(scene.streams.lane, LANES))

    return await _while_waiting(scene, delete)


async def _while_waiting(scene: Scene, fault: Callable[[], Awaitable[None]]) -> str:
    """Perform the fault each time the workers have answered everything and wait; then send more."""
    submissions, slowest = scene.abstracts(), 0.0
    size = -(-len(submissions) // (scene.faults + 1))
    for start in range(0, len(submissions), size):
        async with scene.under_load(submissions[start : start + size]):
            slowest = max(slowest, await scene.first_result())
        if start + size < len(submissions):
            await asyncio.sleep(_WAITING_SECONDS)
            await fault()
    scene.limit(slowest, _BACK_SECONDS, "seconds to the first result after it")
    scene.expect_no_exits()
    return f"first result at most {slowest:.1f} s after more was sent, by the same workers"


async def ungrouped(scene: Scene) -> str:
    async with scene.under_load():
        async for _ in scene.moments():
            for lane in LANES:
                await scene.server.redis.xgroup_destroy(scene.streams.lane(lane), GROUP)
    scene.expect_no_exits()
    again = await scene.workers.metric("abstream_duplicates_total")
    return f"{again} were read and computed again, and not published again, by the same workers"


async def scripts_flushed(scene: Scene) -> str:
    flushes = 0

    async def flush() -> None:
        nonlocal flushes
        while True:
            await scene.server.redis.script_flush()
            flushes += 1
            await asyncio.sleep(_FLUSH_SECONDS)

    async with _meanwhile(flush()), scene.under_load():
        pass
    retried = await scene.workers.metric("abstream_redis_reconnects_total")
    scene.expect(retried == 0, f"{retried} calls failed visibly")
    return f"{flushes} flushes, no call failed"


async def full(scene: Scene) -> str:
    """Publish much faster than workers answer, into less memory than that takes."""
    memory: Any = await scene.server.redis.info("memory")
    limit = memory["used_memory"] + scene.total * _ROOM_BYTES
    await scene.server.redis.config_set("maxmemory", limit)
    await scene.server.redis.config_set("maxmemory-policy", "noeviction")
    scene.load.most_unanswered = scene.total
    async with scene.under_load(scene.abstracts(length=_WORDS)):
        pass
    scene.expect(scene.load.repeated > 0, "the memory was never full")
    scene.expect_no_exits()
    return f"publishers refused {scene.load.repeated} × in {limit >> 20} MiB, and taken when there was room"


async def restricted(scene: Scene) -> str:
    async with scene.under_load():
        pass
    await scene.workers.metric("abstream_stream_lag")  # asked of Redis when it is scraped
    denied: Any = await scene.server.redis.acl_log()
    scene.expect(not denied, f"denied: {sorted({entry['object'] for entry in denied})}")
    return f"{len(_RIGHTS.split()) - 2} commands are enough"


@asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await end([task])


ROWS = (
    Row("redis-kill", "{faults} × kill -9 of Redis, AOF always", killed, faults=10, flags=LEASE, redis=AOF_ALWAYS),
    Row(
        "redis-kill-everysec",
        "{faults} × kill -9 of Redis, AOF everysec; what it did not write may go",
        killed_unwritten,
        faults=10,
        flags=LEASE,
        redis=AOF_EVERYSEC,
    ),
    Row("redis-away", "Redis away for {seconds} s", away, seconds=60, flags=LEASE, redis=AOF_ALWAYS),
    Row(
        "power-loss",
        "{faults} × the machine of Redis loses power, AOF everysec; its last second and what it did not write may go",
        powerless,
        faults=5,
        milliseconds=10,
        flags=LEASE,
        redis=AOF_EVERYSEC,
    ),
    Row("flushall", "{faults} × FLUSHALL while the workers wait; only what came after counts", flushed, faults=5),
    Row("del-stream", "{faults} × DEL of both lanes while the workers wait", deleted, faults=5),
    Row("xgroup-destroy", "{faults} × XGROUP DESTROY of both lanes, in the middle of the work", ungrouped, faults=5),
    Row("script-flush", "SCRIPT FLUSH every 0.2 s", scripts_flushed),
    Row("acl", "a Redis user who may do what a worker needs and no more", restricted, rights=_RIGHTS),
    Row("full", "maxmemory reached, noeviction", full),
)
