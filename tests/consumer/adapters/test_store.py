"""An adapter is taken as it was announced, or not at all."""

from pathlib import Path

import pytest
from abstream.consumer.adapters.store import fetch
from abstream.schemas import ONCOLOGY, AdapterRefused, Task
from abstream.schemas.artifacts import list_files, seal
from abstream.schemas.events import AdapterUpdate
from abstream.training.release import describe

OTHER_TASK = Task(name="other", questions=ONCOLOGY.questions[:1])
NO_DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def adapter(make_adapter):
    return make_adapter()


@pytest.fixture
def update(adapter) -> AdapterUpdate:
    return describe(adapter, None, "activate")


def test_what_was_announced_is_there(adapter, update):
    assert fetch(update) == adapter


@pytest.mark.parametrize("uri", ["s3://bucket/adapter", "hf://someone/adapter", "https://example.org/a", "/no/scheme"])
def test_another_scheme_is_refused_and_the_message_says_which_is_read(update, uri):
    with pytest.raises(AdapterRefused, match=r"this version reads file:///… only"):
        fetch(update.model_copy(update={"uri": uri}))


def test_a_folder_of_another_machine_is_refused(update):
    with pytest.raises(AdapterRefused, match="file:///… only"):
        fetch(update.model_copy(update={"uri": "file://elsewhere/adapters/1"}))


def test_a_path_with_spaces_and_percent_signs_is_found(adapter, update, tmp_path):
    moved = adapter.path.rename(tmp_path / "100 % new")
    assert fetch(update.model_copy(update={"uri": moved.as_uri()})).path == moved


def test_a_folder_that_is_not_there_is_refused(update):
    with pytest.raises(AdapterRefused, match="is the store mounted here"):
        fetch(update.model_copy(update={"uri": "file:///not/mounted"}))


def test_another_adapter_in_its_place_is_refused(update, make_adapter):
    with pytest.raises(AdapterRefused, match="holds another adapter"):
        fetch(update.model_copy(update={"uri": make_adapter("2").path.as_uri()}))


def test_a_digest_that_is_not_that_of_the_files_is_refused(update):
    with pytest.raises(AdapterRefused, match="contradicts itself"):
        fetch(update.model_copy(update={"digest": NO_DIGEST}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", "9"),
        ("task", OTHER_TASK),
        ("prompt_digest", NO_DIGEST),
        ("base_model", {"id": "fake", "revision": "2"}),
    ],
)
def test_an_update_that_says_what_the_manifest_does_not_is_refused(update, field, value):
    other = AdapterUpdate.model_validate(update.model_dump() | {field: value})
    with pytest.raises(AdapterRefused, match=f"differ in {field}"):
        fetch(other)


def test_a_file_that_is_a_link_out_of_the_folder_is_refused(adapter, tmp_path):
    """It could be changed from there after it was verified."""
    weights = adapter.path / "adapter_model.safetensors"
    outside = weights.rename(tmp_path / "outside")
    weights.symlink_to(outside)
    resealed = seal_again(adapter.path, adapter.manifest)

    with pytest.raises(AdapterRefused, match=r"lead out of its folder: adapter_model\.safetensors"):
        fetch(describe(resealed, None, "activate"))


def seal_again(folder: Path, manifest):
    (folder / "abstream.json").unlink()
    return seal(folder, manifest)


def test_the_update_lists_every_file(adapter, update):
    assert update.files == list_files(adapter.path)
    assert {file.path for file in update.files} == {
        "abstream.json", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
