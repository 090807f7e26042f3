"""Faults of Redis, each on a private server; the same worker continues afterwards."""

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
from abstream import Unavailable
from abstream.consumer.upkeep import Upkeep
from abstream.ops.embedded import embedded_redis, start_server, url_of
from abstream.ops.working import broker_at
from abstream.producer.connection import connect
from abstream.schemas import Shards
from abstream.schemas.streams import GROUP
from redis.exceptions import BusyLoadingError, ResponseError
from structlog.testing import capture_logs

from ..conftest import Workers, has_length, numbered, wait_until
from ..story.test_3_nothing_is_lost_nothing_is_repeated import SlowEngine, start_worker

LEASE_SECONDS = 0.3
LARGE_KEYS = 100  # while loading, Redis answers clients once every 2 MB

# All commands that a worker needs, on the keys of its namespace.
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
    """A private server, in place of the one that the tests share."""
    with embedded_redis() as url:
        yield url


async def ends_with(redis, streams, workers, *ids: object) -> None:
    """Return once exactly these abstracts are answered, once each, and nothing is pending."""

    async def are_there() -> bool:
        return await redis.xlen(streams.predictions) >= len(ids) and await workers.pending() == 0

    await wait_until(are_there, f"{len(ids)} results")
    assert await redis.xlen(streams.predictions) == len(ids)
    assert await redis.xlen(streams.refusals) == 0


async def is_blocked(redis) -> bool:
    """Whether a worker blocks on a read of new entries."""
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
async def test_an_idle_worker_recreates_what_was_deleted(lose, redis, streams, publisher, workers):
    async with workers.running(lease_seconds=LEASE_SECONDS):
        await publisher.publish_many(numbered("before"))
        await ends_with(redis, streams, workers, "before")
        await wait_until(lambda: is_blocked(redis), "a worker that waits")
        await lose(redis, streams)
        await publisher.publish_many(numbered("after"))
        await ends_with(redis, streams, workers, "after")


async def test_leases_are_renewed_also_after_the_group_was_lost(redis, streams, publisher, workers):
    """The task that renews leases must survive, so that nobody takes over what is being computed."""
    engine = SlowEngine()
    slow = workers.new("slow", engine, burst=False, lease_seconds=LEASE_SECONDS)
    await slow.source.create_groups()
    task = asyncio.create_task(slow.run())
    await publisher.publish_many(numbered(1))
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
        return False  # the group does not exist yet


async def test_scripts_are_loaded_again_whenever_the_cache_is_flushed(redis, streams, publisher, workers):
    async with workers.running():
        for number in range(30):
            await redis.script_flush()
            await publisher.publish_many(numbered(number))
        await ends_with(redis, streams, workers, *range(30))


async def test_connections_cut_again_and_again_lose_and_repeat_nothing(server, redis, streams, publisher, workers):
    cutter = connect(server)
    async with workers.running(lease_seconds=LEASE_SECONDS) as worker:
        for round_ in range(10):
            await cutter.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await publish_in_spite(publisher, range(20 * round_, 20 * round_ + 20))
        await ends_with(cutter, streams, workers, *range(200))
    await cutter.aclose()

    assert worker.metrics.registry.get_sample_value("abstream_redis_reconnects_total") > 0


async def publish_in_spite(publisher, ids) -> None:
    """Publish, and retry after errors, which is harmless since the ids stay the same."""

    async def sent() -> bool:
        try:
            await publisher.publish_many(numbered(*ids))
        except Unavailable:
            return False
        return True

    await wait_until(sent, "the publisher")


async def become_replica(redis) -> None:
    await redis.replicaof("127.0.0.1", "1")  # nobody listens there, as during a fail-over


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
        await publisher.publish_many(numbered("before"))
        await ends_with(redis, streams, workers, "before")
        await begin(redis)
        await wait_until(lambda: worker.metrics.registry.get_sample_value("abstream_redis_reconnects_total"))
        with pytest.raises(Unavailable):
            await publisher.publish_many(numbered("meanwhile"))
        await end(redis)
        await publisher.publish_many(numbered("after"))
        await ends_with(redis, streams, workers, "before", "after")


async def test_a_redis_that_is_loading_its_data_is_waited_for(streams, monkeypatch):
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


async def test_accepted_abstracts_are_answered_although_the_memory_is_full(redis, streams, publisher, workers):
    """Only acknowledged entries can be trimmed, so it is publishers that must be refused."""
    async with workers.running():
        await wait_until(lambda: is_blocked(redis), "a worker that waits")
        async with redis.pipeline() as at_once:
            at_once.xadd(streams.lane("interactive"), {"title": "Abstract 1"})
            at_once.config_set("maxmemory", 1)
            await at_once.execute()
        await ends_with(redis, streams, workers, 1)
        with pytest.raises(Unavailable, match="memory"):
            await publisher.publish_many(numbered(2))
        await redis.config_set("maxmemory", 0)
        await publisher.publish_many(numbered(2))
        await ends_with(redis, streams, workers, 1, 2)


async def test_a_worker_may_be_started_while_the_memory_is_full(redis, streams, publisher, workers):
    """It is the worker that makes room."""
    await workers.new().source.create_groups()
    await publisher.publish_many(numbered(1, 2))
    await redis.config_set("maxmemory", 1)

    async with workers.running():
        await ends_with(redis, streams, workers, 1, 2)


async def test_room_is_made_in_a_full_memory(redis, streams, publisher, workers):
    await publisher.publish_many(numbered(1, 2, 3))
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
            await publisher.publish_many(numbered(1))
            await wait_until(lambda: worker.metrics.registry.get_sample_value("abstream_redis_reconnects_total"))
            assert await workers.pending() == 1
            assert await redis.get(key) == b"somebody else's"
            await redis.delete(key)
            await ends_with(redis, streams, workers, 1)

    assert any(key in str(line) and "rename or delete it" in str(line) for line in logs)


@asynccontextmanager
async def restricted(server: str, redis, streams, rights: set[str]) -> AsyncIterator[tuple[str, Workers]]:
    """The URL and the workers of a user that has only these rights, on the keys of the namespace."""
    keys = f"~{{{streams.namespace}}}:*"
    await redis.execute_command("ACL", "SETUSER", "worker", "on", ">secret", "resetkeys", keys, "-@all", *rights)
    url = f"{server.replace('unix://', 'unix://worker@')}?password=secret"
    client = connect(url)
    yield url, Workers(client, streams)
    await client.aclose()


async def test_the_listed_rights_are_enough(server, redis, streams, publisher):
    """For answering, reclaiming, refusing, following adapters, upkeep of the streams and metrics."""
    async with restricted(server, redis, streams, WORKER_RIGHTS) as (url, workers), workers.following() as worker:
        await publisher.publish_many(numbered(1, 2))
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


def test_the_rights_of_the_scripts_are_exactly_their_commands():
    """This keeps the list above true."""
    scripts = [path.read_text() for path in files("abstream.consumer.scripts").iterdir() if path.name.endswith(".lua")]
    calls = {call for text in scripts for call in re.findall(r"redis\.call\('(\w+)'(?:, '(\w+)')?", text)}
    with_subcommand = {"XGROUP", "XINFO"}
    assert {
        f"+{name}|{first}".lower() if name in with_subcommand else f"+{name}".lower() for name, first in calls
    } == SCRIPT_RIGHTS


async def test_a_missing_right_ends_the_worker_with_an_error(server, redis, streams, publisher):
    """Waiting would not mend it."""
    await publisher.publish_many(numbered(1))
    async with restricted(server, redis, streams, WORKER_RIGHTS - {"+xack"}) as (_, workers):
        with pytest.raises(ResponseError, match=r"can't run this command|has no permissions|NOPERM"):
            await workers.burst()

    assert (await redis.xpending(streams.lane("interactive"), GROUP))["pending"] == 1
    assert await redis.xlen(streams.predictions) == 0


async def test_a_result_undone_by_a_failover_is_published_again_with_the_same_cause(
    redis, streams, publisher, subscriber, workers
):
    """So a subscriber that has seen the first result recognises the second."""
    await publisher.publish_many(numbered(1, 2))
    await workers.burst()
    seen = [result async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    await undo(redis, streams)

    await workers.burst()

    again = [result async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    known = Counter((result.causationsource, result.causationid) for result in [*seen, *again])
    assert known == {(publisher.source, "1"): 2, (publisher.source, "2"): 2}


async def undo(redis, streams) -> None:
    """Leave what a lagging replica would have: the abstracts without their answers."""
    await redis.delete(streams.predictions, *streams.seen(time.time()))
    for lane in ("interactive", "bulk"):
        await redis.xgroup_setid(streams.lane(lane), GROUP, "0")


async def test_a_second_sigterm_ends_a_worker_that_cannot_drain(
    server, namespace, redis, streams, publisher, workers, tmp_path
):
    """The first SIGTERM drains, and here waits for a Redis that does not answer; the second ends the worker at once."""
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
