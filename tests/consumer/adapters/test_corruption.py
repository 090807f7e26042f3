"""Whatever is wrong with an adapter, it is refused for that reason and the old one stays in service."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from abstream.consumer.adapters import cache
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.consumer.engine.weights import BaseFolder, locate
from abstream.consumer.worker import PROBE
from abstream.schemas import ONCOLOGY, AdapterRejected, AdapterUpdated, Task, VerifiedAdapter
from abstream.schemas.artifacts import ADAPTER_FILES, MANIFEST, digest_of, list_files, seal, verify
from abstream.schemas.events import AdapterUpdate, ArtifactFile
from abstream.schemas.streams import from_fields, to_fields
from abstream.training.release import describe
from abstream.training.signing import generate, read_private_key, sign
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Phi3ForCausalLM

from ...sealing import answered_probes, seal_for
from ...tiny import tiny_phi3

CONFIG, WEIGHTS = ADAPTER_FILES
NOON, ONE = (datetime(2026, 1, 1, hour, tzinfo=timezone.utc) for hour in (12, 13))


@pytest.fixture(scope="module")
def base(phi3_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    return locate(str(tiny_phi3(tmp_path_factory.mktemp("base") / "phi3-tiny", phi3_nano)))


@pytest.fixture(scope="module")
def load(base: BaseFolder) -> Callable[[VerifiedAdapter | None], Phi3Engine]:
    return lambda adapter: Phi3Engine(EngineConfig(model=str(base.path), device="cpu"), adapter=adapter)


@pytest.fixture(scope="module")
def make(base, load, tmp_path_factory) -> Callable[[int], VerifiedAdapter]:
    """A function that makes a sound adapter, as PEFT saves it, with probes that tell it from the base."""

    def make(seed: int) -> VerifiedAdapter:
        folder = tmp_path_factory.mktemp("adapter")
        torch.manual_seed(seed)
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["o_proj", "down_proj"], init_lora_weights=False)
        get_peft_model(Phi3ForCausalLM.from_pretrained(base.path), lora).save_pretrained(folder)
        (folder / "README.md").unlink()
        draft = seal_for(load, folder, base.ref, version=str(seed), probes=())
        return seal(folder, draft.manifest.model_copy(update={"probes": answered_probes(load(draft), load(None))}))

    return make


@pytest.fixture(scope="module")
def old(make) -> VerifiedAdapter:
    return make(1)


@pytest.fixture(scope="module")
def serving(load, old) -> Phi3Engine:
    return load(old)


@pytest.fixture(scope="module")
def new(make) -> VerifiedAdapter:
    return make(2)


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        generate(folder / name)
    return folder


@dataclass
class Released:
    """A sound adapter in its store, with the update that would announce it."""

    folder: Path
    update: AdapterUpdate
    keys: Path

    def again(self, **changes: Any) -> AdapterUpdate:
        """The update that announces the files as they are now, without any check."""
        files = changes.setdefault("files", list_files(self.folder))
        return self.update.model_copy(update={"digest": digest_of(files), **changes})

    def resealed(self, **manifest: Any) -> AdapterUpdate:
        """As ``again``, after sealing the files with a new manifest."""
        about = verify_manifest(self.folder) | manifest
        about["files"] = [file.model_dump() for file in list_files(self.folder, skip=[MANIFEST])]
        (self.folder / MANIFEST).write_text(json.dumps(about))
        return self.again()

    def signed(self, key: str) -> AdapterUpdate:
        return sign(self.update, read_private_key(self.keys / key))


def verify_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text())


def flipped_byte(released: Released) -> AdapterUpdate:
    with (released.folder / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    return released.update


def missing_file(released: Released) -> AdapterUpdate:
    (released.folder / WEIGHTS).unlink()
    return released.update


def retensored(released: Released, change: Callable[[dict[str, torch.Tensor]], object]) -> AdapterUpdate:
    tensors = load_file(released.folder / WEIGHTS)
    change(tensors)
    save_file(tensors, released.folder / WEIGHTS)
    return released.resealed()


def extra_tensor(released: Released) -> AdapterUpdate:
    return retensored(
        released, lambda tensors: tensors.update({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 16)})
    )


def lacking_tensor(released: Released) -> AdapterUpdate:
    return retensored(released, lambda tensors: tensors.pop(min(tensors)))


def renamed_modules(released: Released) -> AdapterUpdate:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace("layers", "blocks")] = tensors.pop(name)

    return retensored(released, rename)


def no_number(released: Released) -> AdapterUpdate:
    return retensored(released, lambda tensors: tensors[min(tensors)].fill_(torch.nan))


def untrained(released: Released) -> AdapterUpdate:
    return retensored(
        released, lambda tensors: [tensor.zero_() for name, tensor in tensors.items() if "lora_B" in name]
    )


def answers_as_the_base(released: Released) -> AdapterUpdate:
    probes = verify_manifest(released.folder)["probes"]
    return released.resealed(probes=[probe | {"bare": probe["probabilities"]} for probe in probes])


def answers_otherwise(released: Released) -> AdapterUpdate:
    probes = verify_manifest(released.folder)["probes"]
    return released.resealed(probes=[probe | {"probabilities": probe["bare"]} for probe in probes])


def wrong_base(released: Released) -> AdapterUpdate:
    other = released.update.base_model.model_copy(update={"revision": "7"})
    return released.resealed(base_model=other.model_dump()).model_copy(update={"base_model": other})


def reconfigured(released: Released, **fields: Any) -> AdapterUpdate:
    path = released.folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return released.resealed()


def wrong_rank(released: Released) -> AdapterUpdate:
    lora = released.update.lora.model_copy(update={"r": 8})
    return reconfigured(released, r=8).model_copy(update={"lora": lora})


def other_rank_announced(released: Released) -> AdapterUpdate:
    return released.again(lora=released.update.lora.model_copy(update={"r": 8}))


def code(released: Released) -> AdapterUpdate:
    return reconfigured(released, auto_mapping={"parent_library": "os", "base_model_class": "system"})


def other_task(released: Released) -> AdapterUpdate:
    return released.again(task=Task(name="other", questions=ONCOLOGY.questions[:1]))


def other_prompt(released: Released) -> AdapterUpdate:
    digest = f"sha256:{'0' * 64}"
    return released.resealed(prompt_digest=digest).model_copy(update={"prompt_digest": digest})


def pickle_file(released: Released) -> AdapterUpdate:
    (released.folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    return released.resealed()


def pickle_by_another_name(released: Released) -> AdapterUpdate:
    (released.folder / WEIGHTS).write_bytes(b"\x80\x04.")
    return released.resealed()


def path_traversal(released: Released) -> AdapterUpdate:
    stray = ArtifactFile(path="../../etc/passwd", sha256="0" * 64, size=1)
    return released.again(files=(*released.update.files, stray))


def symlink(released: Released) -> AdapterUpdate:
    outside = (released.folder / WEIGHTS).rename(released.folder.parent / "outside")
    (released.folder / WEIGHTS).symlink_to(outside)
    return released.update


def truncated_download(released: Released) -> AdapterUpdate:
    with (released.folder / WEIGHTS).open("r+b") as file:
        file.truncate(100)
    return released.update


def store_unreachable(released: Released) -> AdapterUpdate:
    return released.again(uri="file:///not/mounted")


def file_of_20_gb(released: Released) -> AdapterUpdate:
    *others, last = released.update.files
    return released.again(files=(*others, last.model_copy(update={"size": 20_000_000_000})))


def unsigned(released: Released) -> AdapterUpdate:
    return released.update


def signed_by_a_stranger(released: Released) -> AdapterUpdate:
    return released.signed("theirs")


def signature_of_another_version(released: Released) -> AdapterUpdate:
    return released.signed("ours").model_copy(update={"version": "3"})


def replayed(released: Released, old: AdapterUpdate) -> list[AdapterUpdated]:
    return [event("1", released.update), event("2", old), event("1", released.update)]


def out_of_order(released: Released, old: AdapterUpdate) -> list[AdapterUpdated]:
    return [event("2", old, ONE), event("1", released.update, NOON)]


def event(id: str, update: AdapterUpdate, time: datetime | None = None) -> AdapterUpdated:
    return AdapterUpdated(id=id, source="test", time=time, data=update)


Corruption = Callable[[Released], AdapterUpdate]

TABLE: dict[Corruption, str] = {
    flipped_byte: "its bytes are others",
    missing_file: "the store lacks adapter_model.safetensors",
    extra_tensor: "tensors, 1 have no home in the base, such as base_model.model.lm_head.lora_A.weight",
    lacking_tensor: "tensors, 1 of its targets are lacking",
    renamed_modules: "; 8 of its targets are lacking",
    no_number: "the adapter's weights are not finite numbers",
    untrained: "the adapter changes nothing",
    answers_as_the_base: "the adapter has no effect",
    answers_otherwise: "the answers to the golden probes differ from those at the release",
    wrong_base: "the adapter was trained on phi3-tiny 7",
    wrong_rank: "at rank 8 in this base it would be",
    other_rank_announced: "the update announces LoraShape(r=8",
    code: "adapter_config.json sets auto_mapping",
    other_task: "update and manifest differ in task",
    other_prompt: "trained on another prompt",
    pickle_file: "never code or pickles: adapter_model.bin",
    pickle_by_another_name: "adapter_model.safetensors is no safetensors file",
    path_traversal: "would lead out of its folder",
    symlink: "adapter_model.safetensors is a link",
    truncated_download: "was cut off: 100 bytes of",
    store_unreachable: "is the store mounted here?",
    file_of_20_gb: "2000000000 at most",
    unsigned: "the adapter is not signed",
    signed_by_a_stranger: "signed with a key that this worker does not trust",
    signature_of_another_version: "the signature is not of this adapter's",
    replayed: "was announced before, and is not followed twice",
    out_of_order: "older than one that was announced before it",
}  # fmt: skip


@pytest.fixture
def released(new: VerifiedAdapter, keys: Path, tmp_path: Path) -> Released:
    folder = Path(shutil.copytree(new.path, tmp_path / "store" / "adapter"))
    return Released(folder, describe(verify(folder), None, "activate"), keys)


@pytest.fixture
def serve(redis, streams, publisher, subscriber, workers, load, serving, keys, tmp_path, monkeypatch):
    """A function that announces updates to a worker that serves the old adapter, and lets it answer an abstract.

    Returns the last event of the fleet, and the digest of the adapter that answered.
    """

    monkeypatch.setattr(cache, "PAUSES_SECONDS", ())

    async def serve(*events: AdapterUpdated, signed: bool = False) -> tuple[Any, str | None]:
        trusted = (keys / "ours.pub",) if signed else ()
        worker = workers.new(engine=serving, adapter_cache=tmp_path / "cache", adapter_public_key=trusted)
        registry = workers.registry(worker, load)
        for one in events:
            await redis.xadd(streams.output("adapters"), to_fields(one))
            await registry.catch_up()
        await publisher.publish(PROBE)
        await worker.source.create_groups()
        await worker.run()
        [(_, fields)] = await redis.xrevrange(streams.output("fleet"), count=1)
        [(_, result)] = [entry async for entry in subscriber.predictions(since="0", until_idle=0.1)]
        return from_fields(fields), result.data.model.adapter_digest

    return serve


@pytest.mark.parametrize("corrupt", TABLE, ids=lambda corrupt: corrupt.__name__)
async def test_a_corrupt_adapter_is_refused_for_its_own_reason_and_the_old_one_stays_in_service(
    corrupt, serve, released, old
):
    if corrupt in (replayed, out_of_order):
        events = corrupt(released, describe(old, None, "activate"))
    else:
        events = [event("1", corrupt(released))]

    said, answered_by = await serve(*events, signed="sign" in corrupt.__name__)

    assert isinstance(said, AdapterRejected)
    assert [one.__name__ for one, reason in TABLE.items() if reason in said.data.reason] == [corrupt.__name__]
    assert (said.data.previous_digest, answered_by) == (old.digest, old.digest)


@pytest.mark.parametrize("signed", [False, True])
async def test_a_sound_adapter_is_served(serve, released, signed):
    """Otherwise the refusals above would prove nothing."""
    update = released.signed("ours") if signed else released.update
    said, answered_by = await serve(event("1", update), signed=signed)
    assert answered_by == said.data.digest == update.digest, said.data.reason
