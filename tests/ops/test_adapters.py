"""``abstream adapters``, and workers that follow what it releases."""

import json

from abstream.ops.adapters import live_adapter
from abstream.schemas import Shards
from abstream.schemas.streams import from_fields


async def test_a_released_adapter_is_served_and_listed(abstream, make_adapter, publisher):
    adapter = make_adapter("7")
    released = abstream("adapters", "release", adapter.path)
    assert abstream("publish", "-", stdin=b'{"id": "1", "text": "Text."}\n').returncode == 0
    worked = abstream("work", "--engine", "fake", "--burst", "--name", "one")

    assert (released.returncode, worked.returncode) == (0, 0), worked.stderr
    announced = json.loads(released.stdout)
    assert (announced["name"], announced["version"], announced["digest"]) == ("oncology", "7", adapter.digest)
    result = json.loads(abstream("follow", "--since", "0", "--until-idle", "0.05").stdout)
    assert result["data"]["model"]["adapter_digest"] == adapter.digest

    [listed] = json.loads(abstream("adapters", "list", "--json").stdout)
    assert {name: listed[name] for name in announced} == announced
    assert (listed["action"], listed["uri"]) == ("activate", announced["uri"])


async def test_a_shadow_candidate_answers_nothing(abstream, make_adapter):
    live, candidate = make_adapter("1"), make_adapter("2")
    abstream("adapters", "release", live.path)
    released = abstream("adapters", "release", candidate.path, "--shadow")
    assert json.loads(released.stdout)["action"] == "shadow", released.stderr
    abstream("publish", "-", stdin=b'{"id": "1", "text": "Text."}\n')
    assert abstream("work", "--engine", "fake", "--burst").returncode == 0

    result = json.loads(abstream("follow", "--since", "0", "--until-idle", "0.05").stdout)
    assert result["data"]["model"]["adapter_digest"] == live.digest


async def test_a_worker_started_with_an_adapter_keeps_it(abstream, make_adapter):
    given, newer = make_adapter("1"), make_adapter("2")
    abstream("adapters", "release", newer.path)
    abstream("publish", "-", stdin=b'{"id": "1", "text": "Text."}\n')
    worked = abstream("work", "--engine", "fake", "--burst", "--adapter", given.path)

    assert worked.returncode == 0
    result = json.loads(abstream("follow", "--since", "0", "--until-idle", "0.05").stdout)
    assert result["data"]["model"]["adapter_digest"] == given.digest
    [worker] = json.loads(abstream("adapters", "status", "--json").stdout)["workers"]
    assert worker["serves"] is None
    assert worker["why"].endswith("is --adapter given?")


async def test_verify_describes_an_adapter_or_names_its_fault(abstream, make_adapter):
    adapter = make_adapter("1")
    sound = abstream("adapters", "verify", adapter.path)
    (adapter.path / "adapter_model.safetensors").write_text("harmed")
    harmed = abstream("adapters", "verify", adapter.path)

    assert sound.stdout.decode().split() == ["oncology", "1", adapter.digest]
    assert (sound.returncode, harmed.returncode) == (0, 1)
    assert b"changed after its release: adapter_model.safetensors" in harmed.stderr


async def test_a_signed_release_is_verified_by_the_command_and_by_workers(
    abstream, make_adapter, tmp_path, streams, redis
):
    made = abstream("adapters", "keygen", "key")
    again = abstream("adapters", "keygen", "key")
    released = abstream("adapters", "release", make_adapter("1").path, "--sign-key", "key")
    folder = json.loads(released.stdout)["uri"].removeprefix("file://")
    signed = abstream("adapters", "verify", folder, "--public-key", "key.pub")
    unsigned = abstream("adapters", "verify", make_adapter("2").path, "--public-key", "key.pub")
    worked = abstream("work", "--engine", "fake", "--burst", "--name", "one", "--adapter-public-key", "key.pub")

    assert (made.stdout, again.returncode) == (b"key.pub\n", 1)
    assert (signed.returncode, unsigned.returncode, worked.returncode) == (0, 1, 0), worked.stderr
    assert b"the adapter is not signed: there is no " in unsigned.stderr
    assert again.stderr == b"abstream: key: File exists\n"
    [_, fields] = (await redis.xrange(streams.output("fleet")))[0]
    assert from_fields(fields).type == "abstream.adapter.activated.v1"


async def test_the_store_can_be_set_in_a_config_file(abstream, make_adapter, tmp_path, monkeypatch):
    monkeypatch.delenv("ABSTREAM_STORE")
    (tmp_path / "abstream.toml").write_text('[adapters]\nstore = "from-file"\n')
    released = abstream("--config", "abstream.toml", "adapters", "release", make_adapter().path)
    assert "/from-file/oncology/" in json.loads(released.stdout)["uri"]


def test_the_live_adapter_is_the_last_one_announced_for_service(abstream, make_adapter, server, namespace):
    assert live_adapter(server, Shards(namespace)) is None
    adapter = make_adapter()
    abstream("adapters", "release", adapter.path)
    assert live_adapter(server, Shards(namespace)).digest == adapter.digest


def test_release_needs_a_store(abstream, tmp_path, monkeypatch):
    monkeypatch.delenv("ABSTREAM_STORE")
    done = abstream("adapters", "release", tmp_path)
    assert done.returncode == 2
    assert b"--store" in done.stderr


def test_release_without_redis_exits_5(abstream, make_adapter, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/redis.sock")
    done = abstream("adapters", "release", make_adapter().path)
    assert done.returncode == 5
    assert b"did not take the event" in done.stderr
