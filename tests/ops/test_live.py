"""``abstream adapters list|show|status|rollback``."""

import asyncio
import json

import pytest
from abstream import Abstract
from abstream.ops.cli import cli
from abstream.ops.fleet import look
from abstream.producer.connection import Shard
from abstream.schemas import AdapterRefused
from abstream.training.release import release
from click.testing import CliRunner


@pytest.fixture
def show(server, namespace):
    """A function that runs ``abstream adapters …`` in this process and returns what it printed."""

    async def show(*arguments: str) -> str:
        common = ["--redis-url", server, "--namespace", namespace, "adapters"]
        done = await asyncio.to_thread(CliRunner().invoke, cli, [*common, *arguments])
        if done.exception:
            raise done.exception
        return done.stdout

    return show


@pytest.fixture
def run(show):
    """As ``show``, with the output parsed as JSON."""

    async def run(*arguments: str):
        return json.loads(await show(*arguments))

    return run


@pytest.fixture
def at_work(publisher, workers):
    """A function that lets each worker answer an abstract, so that the fleet knows of it."""

    async def work(*names: str) -> None:
        for name in names:
            await publisher.publish(Abstract(title=name, abstract=""), id=name)
            await workers.burst(name)

    return work


@pytest.fixture
async def late(redis, streams, at_work, make_adapter, workers, tmp_path):
    """A fleet: one worker serves version 1, two serve version 2, and a fourth has announced nothing."""
    one, two = make_adapter("1"), make_adapter("2")
    await release(redis, streams, one.path, tmp_path)
    await workers.registry(workers.new("early")).catch_up()
    await release(redis, streams, two.path, tmp_path)
    for name in ("fast", "faster"):
        await workers.registry(workers.new(name)).catch_up()
    await at_work("early", "fast", "faster", "silent")
    return one, two


async def test_status_shows_how_many_workers_serve_the_live_adapter_and_which_are_late(show, run, late):
    one, two = late
    found = await run("status", "--json")
    assert (found["on_time"], found["at_work"], found["live"]["digest"]) == (2, 4, two.digest)
    workers = {worker["worker"]: worker for worker in found["workers"]}
    assert workers["fast"]["late_since"] is None
    assert (workers["early"]["serves"], workers["early"]["version"]) == (one.digest, "1")
    assert workers["early"]["late_since"] == found["live"]["time"]
    assert workers["early"]["why"].startswith("no answer yet")
    assert "never answered" in workers["silent"]["why"]

    summary, header, *_ = (await show("status")).splitlines()
    assert summary == f"2 of 4 workers on oncology 2 {two.digest[:19]}"
    assert header.split() == ["worker", "version", "serves", "late_since", "why"]


async def test_status_shows_why_an_adapter_was_rejected(redis, streams, run, at_work, make_adapter, workers, tmp_path):
    bad = make_adapter("2", base_model={"id": "other", "revision": "7"})
    for adapter in (make_adapter("1"), bad):
        await release(redis, streams, adapter.path, tmp_path)
    registry = workers.registry(workers.new("one"))
    await registry.catch_up()
    await release(redis, streams, bad.path, tmp_path)
    await registry.catch_up()
    await at_work("one")

    [worker] = (await run("status", "--json"))["workers"]
    assert (worker["version"], worker["late_since"] is None) == ("1", False)
    assert "was trained on other 7" in worker["why"]


async def test_a_rollback_announces_the_previous_adapter_again(redis, streams, run, late, workers):
    one, _ = late
    said = await run("rollback", "--reason", "too many reviews")
    assert (said["digest"], said["action"], said["reason"]) == (one.digest, "rollback", "too many reviews")

    worker = workers.new("fast")
    await workers.registry(worker).catch_up()
    assert worker.engine.model.receipt.adapter_digest == one.digest
    assert (await look(Shard(redis, streams), [Shard(redis, streams)])).live.entry_id == said["entry_id"]


async def test_a_rollback_can_name_its_version(run, late, show):
    one, two = late
    assert (await run("rollback", "--to", "1"))["digest"] == one.digest
    assert (await run("rollback", "--to", two.digest))["digest"] == two.digest
    with pytest.raises(AdapterRefused, match="nothing to roll back"):
        await run("rollback", "--to", "2")


async def test_a_rollback_without_a_previous_adapter_is_refused(redis, streams, run, make_adapter, tmp_path):
    with pytest.raises(AdapterRefused, match="no adapter has been announced yet"):
        await run("rollback")
    await release(redis, streams, make_adapter().path, tmp_path)
    with pytest.raises(AdapterRefused, match="no other adapter was announced before this one"):
        await run("rollback")


async def test_show_prints_what_was_announced_and_which_workers_serve_it(run, late, show):
    one, two = late
    live, older = await run("show", "--json"), await run("show", "1", "--json")
    assert (live["digest"], live["live"], live["workers"]) == (two.digest, True, ["fast", "faster"])
    assert (older["digest"], older["live"], older["workers"]) == (one.digest, False, ["early"])
    assert live["questions"] == ["cancer", "cancer_type"]
    assert two.digest in await show("show")
    with pytest.raises(AdapterRefused, match="no adapter 9"):
        await show("show", "9")


async def test_list_marks_the_live_adapter(run, late, show):
    rows = await run("list", "--json")
    assert [(row["version"], row["live"]) for row in rows] == [("1", None), ("2", "live")]
    _, first, second = (await show("list")).splitlines()
    assert first.split()[1:4] == ["oncology", "1", "activate"]
    assert second.split()[-2] == "live"


def test_redis_out_of_reach_exits_5(abstream, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/redis.sock")
    assert abstream("adapters", "status").returncode == 5
