"""An adapter is announced only when it is complete in the store."""

import json
import shutil
from pathlib import Path

import pytest
from abstream.producer.connection import connect
from abstream.schemas import AdapterRefused, AdapterUpdated, Unavailable
from abstream.schemas.artifacts import list_files, seal, verify
from abstream.schemas.events import Gate, LoraShape, Metrics
from abstream.schemas.streams import from_fields
from abstream.training.release import SOURCE, release
from abstream.training.store import keep


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def adapter(make_adapter):
    metrics = Metrics(dataset="test.jsonl", n=4, before={"accuracy": 0.5}, after={"accuracy": 0.75})
    return make_adapter("3", calibration={"cancer": 1.5}, thresholds={"cancer": 0.8}, metrics=metrics)


def files_in(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


async def test_the_event_says_everything_about_the_adapter(redis, streams, adapter, store):
    gate = Gate(passed=True, rules=("accuracy >= 0.7",))

    released = await release(redis, streams, adapter.path, store, gate)

    [(entry_id, fields)] = await redis.xrange(streams.output("adapters"))
    assert (entry_id.decode(), from_fields(fields)) == (released.entry_id, released.event)
    assert isinstance(released.event, AdapterUpdated)
    assert (released.event.subject, released.event.source) == ("adapter:oncology", SOURCE)
    assert released.event.time is not None
    update, manifest = released.event.data, adapter.manifest
    for said in ("name", "version", "base_model", "task", "prompt_digest", "calibration", "thresholds", "metrics"):
        assert getattr(update, said) == getattr(manifest, said)
    assert (update.digest, update.files) == (adapter.digest, list_files(adapter.path))
    assert update.lora == LoraShape(r=4, alpha=8, target_modules=("o_proj",))
    assert (update.gate, update.action, update.signature) == (gate, "activate", None)


async def test_the_store_holds_it_under_name_and_digest(redis, streams, adapter, store):
    released = await release(redis, streams, adapter.path, store)

    folder = store / "oncology" / adapter.digest.removeprefix("sha256:")
    assert released.event.data.uri == folder.as_uri()
    assert verify(folder).digest == adapter.digest
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing temporary is left"


async def test_the_original_may_go_after_its_release(redis, streams, adapter, store):
    released = await release(redis, streams, adapter.path, store)
    shutil.rmtree(adapter.path)
    assert (await release(redis, streams, store / "oncology" / adapter.digest[7:], store)).event.data == (
        released.event.data
    )


async def test_releasing_twice_copies_once_and_announces_twice(redis, streams, adapter, store):
    await release(redis, streams, adapter.path, store)
    kept = store / "oncology" / adapter.digest[7:] / "adapter_model.safetensors"
    written = kept.stat().st_mtime_ns

    await release(redis, streams, adapter.path, store)

    assert kept.stat().st_mtime_ns == written
    assert await redis.xlen(streams.output("adapters")) == 2


async def test_a_folder_may_be_named_from_where_one_is(redis, streams, adapter, store, monkeypatch):
    monkeypatch.chdir(adapter.path.parent)
    released = await release(redis, streams, Path(adapter.path.name), store)
    assert released.event.data.uri == (store / "oncology" / adapter.digest[7:]).as_uri()


async def test_hidden_files_stay_behind(redis, streams, adapter, store):
    (adapter.path / ".DS_Store").write_text("x")
    await release(redis, streams, adapter.path, store)
    assert files_in(store / "oncology" / adapter.digest[7:]) == {file.path for file in list_files(adapter.path)}


def harm_the_original(adapter, store):
    (adapter.path / "adapter_model.safetensors").write_text("harmed")


def harm_the_copy(adapter, store):
    (keep(adapter, store).path / "adapter_model.safetensors").write_text("harmed")


def no_lora(adapter, store):
    reseal(adapter, "adapter_config.json", json.dumps({"r": 4}))


def impossible_calibration(adapter, store):
    reseal(adapter, "abstream.json", calibration={"cancer": 0.0})


def a_name_that_leads_out(adapter, store):
    reseal(adapter, "abstream.json", name="../../elsewhere")


def reseal(adapter, file: str, content: str = "", **manifest: object) -> None:
    if content:
        (adapter.path / file).write_text(content)
    seal(adapter.path, adapter.manifest.model_copy(update=manifest))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (harm_the_original, r"changed after its release: adapter_model\.safetensors"),
        (harm_the_copy, "is not sound: .*; delete it and release again"),
        (no_lora, "is no LoRA configuration of PEFT"),
        (impossible_calibration, "cannot be announced: calibration.cancer"),
        (a_name_that_leads_out, r"'\.\./\.\./elsewhere' cannot be kept"),
    ],
)
async def test_where_anything_is_wrong_nothing_is_announced(redis, streams, adapter, store, harm, said):
    harm(adapter, store)
    with pytest.raises(AdapterRefused, match=said):
        await release(redis, streams, adapter.path, store)
    assert await redis.exists(streams.output("adapters")) == 0


def test_another_adapter_in_its_place_in_the_store_is_not_taken_for_it(adapter, store):
    kept = keep(adapter, store).path
    seal(kept, adapter.manifest.model_copy(update={"version": "another"}))
    with pytest.raises(AdapterRefused, match="is another adapter"):
        keep(adapter, store)


async def test_what_did_not_pass_its_gate_is_not_released(redis, streams, adapter, store):
    with pytest.raises(AdapterRefused, match=r"gate was not passed \(accuracy >= 0\.9\)"):
        await release(redis, streams, adapter.path, store, Gate(passed=False, rules=("accuracy >= 0.9",)))
    assert not store.exists()
    assert await redis.exists(streams.output("adapters")) == 0


async def test_a_store_that_cannot_be_written_is_out_of_reach(redis, streams, adapter, store):
    store.write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match=r"the store .* is out of reach"):
        await release(redis, streams, adapter.path, store)
    assert await redis.exists(streams.output("adapters")) == 0


async def test_without_redis_it_is_kept_and_may_be_released_again(redis, streams, adapter, store):
    nowhere = connect("unix:///nowhere/redis.sock")
    with pytest.raises(Unavailable, match="in the store, but Redis did not take the event"):
        await release(nowhere, streams, adapter.path, store)
    await nowhere.aclose()

    await release(redis, streams, adapter.path, store)
    assert await redis.xlen(streams.output("adapters")) == 1
