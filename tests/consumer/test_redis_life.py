"""What a worker lives through with its Redis: each fault on a private server, and the same worker goes on after it."""

import asyncio
import os
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import pytest
from abstream import Abstract, Unavailable
from abstream.consumer.upkeep import Upkeep
from abstream.ops.embedded import embedded_redis, start_server, url_of
from abstream.ops.working import broker_at
from abstream.producer.connection import connect
from abstream.schemas import Shards
from abstream.schemas.streams import GROUP
from redis.exceptions import BusyLoadingError, ResponseError
from structlog.testing import capture_logs

from ..conftest import Workers, wait_until
from ..story.test_3_nothing_is_lost_nothing_is_repeated import SlowEngine, start_worker

LEASE_SECONDS = 0.3
LARGE_KEYS = 100  # Redis answers that it is loading once in 2 MB

# All that a worker asks of Redis, on the keys of its namespace.
CLIENT_RIGHTS = {
    "+evalsha", "+script|load", "+set", "+xadd", "+xgroup|create", "+xinfo|groups", "+xinfo|stream",
    "+xpending", "+xread", "+xreadgroup", "+xrevrange",
}  # fmt: skip
SCRIPT_RIGHTS = {
    "+exists", "+expire", "+sadd", "+sismember", "+time", "+type", "+xack", "+xadd", "+xclaim", "+xgroup|delconsumer",
    "+xgroup|setid", "+xinfo|consumers", "+xinfo|groups", "+xinfo|stream", "+xlen", "+xpending", "+xrange",
    "+xrevrange", "+xtrim", "+zadd", "+zrange", "+zremrangebyscore",
}  # fmt: skip
WORKER_RIGHTS = CLIENT_RIGHTS | SCRIPT_RIGHTS


@pytest.fixture
def server() -> Iterator[str]:
    """A server of the test's own, in the place of the one that all tests share."""
    with embedded_redis() as url:
        yield url


def some(*ids: object) -> list[tuple[str, Abstract]]:
    return [(str(id_), Abstract(title=f"Abstract {id_}", abstract="")) for id_ in ids]


async def ends_with(redis, streams, workers, *ids: object) -> None:
    """Return when exactly these are answered, once each, and nothing is pending."""

    async def are_there() -> bool:
        return await redis.xlen(streams.predictions) >= len(ids) and await workers.pending() == 0

    await wait_until(are_there, f"{len(ids)} results")
    assert await redis.xlen(streams.predictions) == len(ids)
    assert await redis.xlen(streams.refusals) == 0


async def is_blocked(redis) -> bool:
    """Whether a worker waits for new entries."""
    return any(client["cmd"] == "xreadgroup" for client in await redis.client_list())


async def delete_streams(redis, streams) -> None:
    await redis.delete(streams.lane("interactive"), streams.lane("bulk"), streams.predictions)


async def delete_groups(redis, streams) -> None:
    for lane in ("interactive", "bulk"):
        await redis.xgroup_destroy(streams.lane(lane), GROUP)
    await redis.delete(streams.predictions)


async def empty(redis, streams) -> None:
    await redis.flushall()


@pytest.mark.parametrize("lose", [delete_streams, delete_groups, empty])
async def test_a_worker_that_waits_for_work_heals_what_was_deleted_under_it(lose, redis, streams, publisher, workers):
    async with workers.running(lease_seconds=LEASE_SECONDS):
        await publisher.publish_many(some("before"))
        await ends_with(redis, streams, workers, "before")
        await wait_until(lambda: is_blocked(redis), "a worker that waits")
        await lose(redis, streams)
        await publisher.publish_many(some("after"))
        await ends_with(redis, streams, workers, "after")


async def test_leases_are_renewed_after_the_group_was_lost_too(redis, streams, publisher, workers):
    """The task that renews them must not end in silence: nobody takes over what is being worked on."""
    engine = SlowEngine()
    slow = workers.new("slow", engine, burst=False, lease_seconds=LEASE_SECONDS)
    await slow.source.create_groups()
    task = asyncio.create_task(slow.run())
    await publisher.publish_many(some(1))
    await engine.computing.wait()
    await delete_groups(redis, streams)
    await wait_until(lambda: holds_again(redis, streams), "the abstract in the new group")
    begun = time.monotonic()

    async with workers.running("idle", lease_seconds=LEASE_SECONDS) as idle:
        await wait_until(lambda: time.monotonic() - begun > 4 * LEASE_SECONDS)
    engine.go()
    await ends_with(redis, streams, workers, 1)
    slow.source.stop()
    await task

    for worker in (slow, idle):
        assert worker.metrics.registry.get_sample_value("abstream_redeliveries_total") == 0


async def holds_again(redis, streams) -> bool:
    try:
        return bool((await redis.xpending(streams.lane("interactive"), GROUP))["pending"])
    except ResponseError:
        return False  # there is no group yet


async def test_a_script_cache_that_is_flushed_again_and_again_is_made_anew(redis, streams, publisher, workers):
    async with workers.running():
        for number in range(30):
            await redis.script_flush()
            await publisher.publish_many(some(number))
        await ends_with(redis, streams, workers, *range(30))


async def test_connections_that_are_cut_again_and_again_lose_and_repeat_nothing(
    server, redis, streams, publisher, workers
):
    cutter = connect(server)
    async with workers.running(lease_seconds=LEASE_SECONDS) as worker:
        for round_ in range(10):
            await cutter.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await publish_in_spite(publisher, range(20 * round_, 20 * round_ + 20))
        await ends_with(cutter, streams, workers, *range(200))
    await cutter.aclose()

    assert worker.metrics.registry.get_sample_value("abstream_redis_reconnects_total") > 0


async def publish_in_spite(publisher, ids) -> None:
    """A publisher in doubt sends again: its ids make that harmless."""

    async def sent() -> bool:
        try:
            await publisher.publish_many(some(*ids))
        except Unavailable:
            return False
        return True

    await wait_until(sent, "the publisher")


async def become_replica(redis) -> None:
    await redis.replicaof("127.0.0.1", "1")  # nobody is there: as after a fail-over that is not over


async def become_primary(redis) -> None:
    await redis.replicaof("NO", "ONE")


async def miss_replicas(redis) -> None:
    await redis.config_set("min-replicas-to-write", 1)


async def need_no_replicas(redis) -> None:
    await redis.config_set("min-replicas-to-write", 0)


REFUSING = {"READONLY": (become_replica, become_primary), "NOREPLICAS": (miss_replicas, need_no_replicas)}


@pytest.mark.parametrize(("begin", "end"), REFUSING.values(), ids=REFUSING.keys())
async def test_a_redis_that_takes_no_writes_for_a_while_is_waited_for(begin, end, redis, streams, publisher, workers):
    async with workers.running(lease_seconds=LEASE_SECONDS) as worker:
        await publisher.publish_many(some("before"))
        await ends_with(redis, streams, workers, "before")
        await begin(redis)
        await wait_until(lambda: worker.metrics.registry.get_sample_value("abstream_redis_reconnects_total"))
        with pytest.raises(Unavailable):
            await publisher.publish_many(some("meanwhile"))
        await end(redis)
        await publisher.publish_many(some("after"))
        await ends_with(redis, streams, workers, "before", "after")


async def test_a_redis_that_loads_its_data_is_waited_for(streams, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="abstream-") as name:
        folder = Path(name)
        server = start_server(folder)
        redis = connect(url_of(folder))
        workers = Workers(redis, streams)
        try:
            async with workers.running(lease_seconds=LEASE_SECONDS) as worker:
                errors: list[Exception] = []
                monkeypatch.setattr(worker.metrics, "redis_away", lambda error, _: errors.append(error))
                for number in range(LARGE_KEYS):
                    await redis.set(f"key-{number}", os.urandom(100_000))
                await redis.save()
                server.kill()
                server.wait()
                server = await asyncio.to_thread(start_server, folder, "--key-load-delay", "5000")  # microseconds
                await redis.xadd(streams.lane("interactive"), {"title": "Abstract 1"})
                await ends_with(redis, streams, workers, 1)
        finally:
            await redis.aclose()
            server.kill()
            server.wait()

    assert any(isinstance(error, BusyLoadingError) for error in errors)


async def test_what_is_there_is_answered_though_the_memory_is_full(redis, streams, publisher, workers):
    """Only what is acknowledged can be trimmed; it is publishers that feel the pressure."""
    async with workers.running():
        await wait_until(lambda: is_blocked(redis), "a worker that waits")
        async with redis.pipeline() as at_once:
            at_once.xadd(streams.lane("interactive"), {"title": "Abstract 1"})
            at_once.config_set("maxmemory", 1)
            await at_once.execute()
        await ends_with(redis, streams, workers, 1)
        with pytest.raises(Unavailable, match="memory"):
            await publisher.publish_many(some(2))
        await redis.config_set("maxmemory", 0)
        await publisher.publish_many(some(2))
        await ends_with(redis, streams, workers, 1, 2)


async def test_a_worker_may_be_started_while_the_memory_is_full(redis, streams, publisher, workers):
    """It is what makes room."""
    await workers.new().source.create_groups()
    await publisher.publish_many(some(1, 2))
    await redis.config_set("maxmemory", 1)

    async with workers.running():
        await ends_with(redis, streams, workers, 1, 2)


async def test_a_full_memory_is_made_room_in(redis, streams, publisher, workers):
    await publisher.publish_many(some(1, 2, 3))
    worker = await workers.burst()
    await redis.config_set("maxmemory-policy", "noeviction")
    await redis.config_set("maxmemory", 1)

    upkeep = Upkeep(redis, streams, worker.config, worker.metrics)
    assert await upkeep.take_turn()
    await upkeep.trim()

    assert await redis.xlen(streams.lane("interactive")) == 0


@pytest.mark.parametrize("output", ["predictions", "refusals"])
async def test_a_result_key_of_the_wrong_type_is_waited_for_and_nothing_is_acknowledged(
    output, redis, streams, publisher, workers
):
    key = streams.output(output)
    await redis.set(key, "somebody else's")
    with capture_logs() as logs:
        async with workers.running(lease_seconds=LEASE_SECONDS) as worker:
            await publisher.publish_many(some(1))
            await wait_until(lambda: worker.metrics.registry.get_sample_value("abstream_redis_reconnects_total"))
            assert await workers.pending() == 1
            assert await redis.get(key) == b"somebody else's"
            await redis.delete(key)
            await ends_with(redis, streams, workers, 1)

    assert any(key in str(line) and "rename or delete it" in str(line) for line in logs)


@asynccontextmanager
async def restricted(server: str, redis, streams, rights: set[str]) -> AsyncIterator[tuple[str, Workers]]:
    """The URL and the workers of a user that may do only this, on the keys of the namespace."""
    keys = f"~{{{streams.namespace}}}:*"
    await redis.execute_command("ACL", "SETUSER", "worker", "on", ">secret", "resetkeys", keys, "-@all", *rights)
    url = f"{server.replace('unix://', 'unix://worker@')}?password=secret"
    client = connect(url)
    yield url, Workers(client, streams)
    await client.aclose()


async def test_few_rights_are_enough(server, redis, streams, publisher):
    """For answering, taking over, refusing, following, tending the streams and telling of them."""
    async with restricted(server, redis, streams, WORKER_RIGHTS) as (url, workers), workers.following() as worker:
        await publisher.publish_many(some(1, 2))
        await redis.xadd(streams.lane("bulk"), {"event": "no JSON"})
        await wait_until(lambda: redis.xlen(streams.refusals), "a refusal")
        await wait_until(lambda: has_length(redis, streams.predictions, 2), "two results")
        upkeep = Upkeep(workers.redis, streams, worker.config, worker.metrics)
        for step in (upkeep.take_turn, upkeep.trim, upkeep.report_losses, upkeep.reap):
            await step()
        assert await asyncio.to_thread(broker_at(url, Shards(streams.namespace)).backlogs)
        await workers.burst("heir", lease_seconds=0.001)

    denied = {entry["object"] for entry in await redis.acl_log()}
    assert not {name for name in denied if not name.startswith("client")}, "what only tells a client's name may fail"


def test_the_rights_are_those_of_the_scripts():
    """So that the list above stays true."""
    scripts = [path.read_text() for path in files("abstream.consumer.scripts").iterdir() if path.name.endswith(".lua")]
    calls = {call for text in scripts for call in re.findall(r"redis\.call\('(\w+)'(?:, '(\w+)')?", text)}
    with_subcommand = {"XGROUP", "XINFO"}
    assert {
        f"+{name}|{first}".lower() if name in with_subcommand else f"+{name}".lower() for name, first in calls
    } == SCRIPT_RIGHTS


async def has_length(redis, stream: str, length: int) -> bool:
    return await redis.xlen(stream) == length


async def test_a_missing_right_ends_the_worker_with_a_word_of_it(server, redis, streams, publisher):
    """No waiting would mend it."""
    await publisher.publish_many(some(1))
    async with restricted(server, redis, streams, WORKER_RIGHTS - {"+xack"}) as (_, workers):
        with pytest.raises(ResponseError, match=r"can't run this command|has no permissions|NOPERM"):
            await workers.burst()

    assert (await redis.xpending(streams.lane("interactive"), GROUP))["pending"] == 1
    assert await redis.xlen(streams.predictions) == 0


async def test_a_result_that_a_failover_undid_comes_again_with_the_identity_of_its_submission(
    redis, streams, publisher, subscriber, workers
):
    """So a subscriber that has seen it knows it again."""
    await publisher.publish_many(some(1, 2))
    await workers.burst()
    seen = [result async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    await undo(redis, streams)

    await workers.burst()

    again = [result async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    known = Counter((result.causationsource, result.causationid) for result in [*seen, *again])
    assert known == {(publisher.source, "1"): 2, (publisher.source, "2"): 2}


async def undo(redis, streams) -> None:
    """What a replica that lagged knows: the abstracts, and nothing of their answers."""
    await redis.delete(streams.predictions, *streams.seen(time.time()))
    for lane in ("interactive", "bulk"):
        await redis.xgroup_setid(streams.lane(lane), GROUP, "0")


async def test_a_second_sigterm_ends_a_worker_that_cannot_drain(
    server, namespace, redis, streams, publisher, workers, tmp_path
):
    """The first waits for what is in hand, here for a Redis that does not answer; what is left is for others."""
    log = tmp_path / "worker.log"
    process = start_worker(server, namespace, log)
    try:
        await wait_until(lambda: is_blocked(redis), "a worker that waits")
        await redis.execute_command("CLIENT", "PAUSE", 60_000)
        process.send_signal(signal.SIGTERM)
        await wait_until(lambda: "worker_draining" in log.read_text(), "the first signal's effect")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        await wait_until(lambda: process.poll() is not None, "the worker's end")
    finally:
        process.kill()
        process.wait()

    assert process.returncode == -signal.SIGTERM
