"""``abstream adapters list|show|status|rollback``."""

import json

import pytest
from abstream.ops.fleet import known


@pytest.fixture
def run(abstream):
    """Runs a command that must succeed, and reads its JSON."""

    def run(*arguments):
        done = abstream("adapters", *arguments)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run


@pytest.fixture
async def late(run, abstream, make_adapter, workers):
    """The fleet: version 1 was served by one worker, version 2 by two, and a third has never answered."""
    one, two = make_adapter("1"), make_adapter("2")
    abstream("adapters", "release", one.path)
    await workers.registry(workers.new("early")).catch_up()
    abstream("adapters", "release", two.path)
    for name in ("fast", "faster"):
        await workers.registry(workers.new(name)).catch_up()
    for name in ("early", "fast", "faster", "silent"):
        await workers.burst(name)
    return one, two


async def test_status_tells_how_many_serve_the_live_one_and_who_is_late(abstream, run, late):
    one, two = late
    found = run("status", "--json")
    assert (found["on_time"], found["at_work"], found["live"]["digest"]) == (2, 4, two.digest)
    workers = {worker["worker"]: worker for worker in found["workers"]}
    assert workers["fast"]["late_since"] is None
    assert (workers["early"]["serves"], workers["early"]["version"]) == (one.digest, "1")
    assert workers["early"]["late_since"] == found["live"]["time"]
    assert workers["early"]["why"].startswith("no answer yet")
    assert "never answered" in workers["silent"]["why"]

    summary, header, *_ = abstream("adapters", "status").stdout.decode().splitlines()
    assert summary == f"2 of 4 workers on oncology 2 {two.digest[:19]}"
    assert header.split() == ["worker", "version", "serves", "late_since", "why"]


async def test_status_tells_why_an_adapter_was_rejected(run, abstream, make_adapter, workers):
    bad = make_adapter("2", base_model={"id": "other", "revision": "7"})
    for adapter in (make_adapter("1"), bad):
        abstream("adapters", "release", adapter.path)
    registry = workers.registry(workers.new("one"))
    await registry.catch_up()
    abstream("adapters", "release", bad.path)
    await registry.catch_up()
    await workers.burst("one")

    [worker] = run("status", "--json")["workers"]
    assert (worker["version"], worker["late_since"] is None) == ("1", False)
    assert "was trained on other 7" in worker["why"]


async def test_a_rollback_names_the_one_before_and_is_another_announcement(run, late, workers, server, namespace):
    one, _ = late
    said = run("rollback", "--reason", "too many reviews")
    assert (said["digest"], said["action"], said["reason"]) == (one.digest, "rollback", "too many reviews")

    worker = workers.new("fast")
    await workers.registry(worker).catch_up()
    assert worker.engine.model.receipt.adapter_digest == one.digest
    assert known(server, namespace).live.entry_id == said["entry_id"]


async def test_a_rollback_to_a_version_that_is_named(run, late, abstream):
    one, two = late
    assert run("rollback", "--to", "1")["digest"] == one.digest
    assert run("rollback", "--to", two.digest)["digest"] == two.digest
    again = abstream("adapters", "rollback", "--to", "2")
    assert (again.returncode, b"nothing to roll back" in again.stderr) == (1, True)


def test_a_rollback_without_anything_to_go_back_to(abstream, make_adapter):
    nothing = abstream("adapters", "rollback")
    abstream("adapters", "release", make_adapter().path)
    single = abstream("adapters", "rollback")
    assert (nothing.returncode, single.returncode) == (1, 1)
    assert b"no adapter was announced yet" in nothing.stderr
    assert b"name one with --to" in single.stderr


async def test_show_tells_what_was_announced_and_who_serves_it(run, late, abstream):
    one, two = late
    live, older = run("show", "--json"), run("show", "1", "--json")
    assert (live["digest"], live["live"], live["workers"]) == (two.digest, True, ["fast", "faster"])
    assert (older["digest"], older["live"], older["workers"]) == (one.digest, False, ["early"])
    assert live["questions"] == ["cancer", "cancer_type"]
    assert two.digest in abstream("adapters", "show").stdout.decode()
    assert abstream("adapters", "show", "9").returncode == 1


async def test_list_marks_the_live_one(run, late, abstream):
    rows = run("list", "--json")
    assert [(row["version"], row["live"]) for row in rows] == [("1", None), ("2", "live")]
    _, first, second = abstream("adapters", "list").stdout.decode().splitlines()
    assert first.split()[1:4] == ["oncology", "1", "activate"]
    assert second.split()[-2] == "live"


@pytest.mark.parametrize("command", ["list", "status", "show", "rollback"])
def test_redis_out_of_reach_is_exit_code_5(abstream, monkeypatch, command):
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/redis.sock")
    assert abstream("adapters", command).returncode == 5
