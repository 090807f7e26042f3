"""An adapter is accepted exactly as it was released, or not at all."""

import json

import pytest
from abstream.schemas import ONCOLOGY, AdapterManifest, AdapterRefused, Prompt
from abstream.schemas.artifacts import seal, verify


@pytest.fixture
def manifest() -> AdapterManifest:
    base = {"id": "base", "revision": "1"}
    return AdapterManifest(
        name="x", version="1", base_model=base, task=ONCOLOGY, prompt_digest=Prompt(ONCOLOGY).digest, note="kept"
    )


@pytest.fixture
def folder(tmp_path, manifest):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    seal(tmp_path, manifest)
    return tmp_path


def test_a_sealed_adapter_is_admitted_under_one_digest(folder):
    assert verify(folder).digest == verify(folder).digest
    assert verify(folder).manifest.note == "kept"


def test_the_digest_does_not_depend_on_where_the_folder_is(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    folder.rename(elsewhere)
    moved = verify(elsewhere).digest
    elsewhere.rename(folder)
    assert moved == verify(folder).digest


def change_weights(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"other")


def lose_weights(folder):
    (folder / "adapter_model.safetensors").unlink()


def add_a_file(folder):
    (folder / "extra.txt").write_text("x")


def lose_the_manifest(folder):
    (folder / "abstream.json").unlink()


def break_the_manifest(folder):
    (folder / "abstream.json").write_text('{"name": "x"}')


def train_on_another_prompt(folder):
    manifest = json.loads((folder / "abstream.json").read_text())
    (folder / "abstream.json").write_text(json.dumps(manifest | {"prompt_digest": "sha256:" + "0" * 64}))


ONE_BIN = {"bounds": [], "counts": [1]}


def expect(folder, **changes):
    """Write what the adapter expects of live answers into its manifest."""
    manifest = json.loads((folder / "abstream.json").read_text())
    expected = {"labels": {}, "confidence": {}, "tokens": ONE_BIN, **changes}
    (folder / "abstream.json").write_text(json.dumps(manifest | {"expected": expected}))


def expect_labels_of_what_is_not_asked(folder):
    expect(folder, labels={"smoking": {"yes": 1}})


def expect_confidence_in_what_is_not_asked(folder):
    expect(folder, confidence={"smoking": ONE_BIN})


def expect_in_too_few_bins(folder):
    expect(folder, tokens={"bounds": [5], "counts": [1]})


def calibrate_what_is_not_asked(folder):
    manifest = json.loads((folder / "abstream.json").read_text())
    (folder / "abstream.json").write_text(json.dumps(manifest | {"calibration": {"smoking": 1.0}}))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (change_weights, r"changed after its release: adapter_model\.safetensors"),
        (lose_weights, r"lacks adapter_model\.safetensors"),
        (add_a_file, r"does not name: extra\.txt"),
        (lose_the_manifest, r"has no abstream\.json"),
        (break_the_manifest, r"abstream\.json: version: is missing"),
        (train_on_another_prompt, "another prompt"),
        (expect_labels_of_what_is_not_asked, "does not ask for: smoking"),
        (expect_confidence_in_what_is_not_asked, "does not ask for: smoking"),
        (calibrate_what_is_not_asked, "does not ask: smoking"),
        (expect_in_too_few_bins, r"expected\.tokens: .*one count more"),
    ],
)
def test_a_harmed_adapter_is_refused_with_the_reason(folder, harm, said):
    harm(folder)
    with pytest.raises(AdapterRefused, match=said):
        verify(folder)


def test_an_adapter_without_weights_is_refused_although_its_manifest_names_none(tmp_path, manifest):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterRefused, match=r"lacks adapter_model\.safetensors"):
        seal(tmp_path, manifest)


def test_hidden_files_and_folders_are_no_part_of_an_adapter(folder):
    """Such as the cache that a download from the hub leaves there."""
    digest = verify(folder).digest
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("x")
    (folder / ".DS_Store").write_text("x")
    assert verify(folder).digest == digest


def test_a_suffix_may_be_in_capitals(tmp_path, manifest):
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.MD"):
        (tmp_path / name).write_text("{}")
    assert seal(tmp_path, manifest) == verify(tmp_path)


def test_pickles_and_code_are_refused_even_if_sealed(tmp_path, manifest):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(AdapterRefused, match="only safetensors"):
        seal(tmp_path, manifest)
