"""An adapter is copied into a private cache exactly as it was announced, or not at all."""

import errno
import os
import shutil
import time

import pytest
from abstream.consumer.adapters.cache import ABANDONED_SECONDS, KEPT, Cache
from abstream.schemas import ONCOLOGY, AdapterRefused, Task, Unavailable
from abstream.schemas.artifacts import digest_of, list_files, seal
from abstream.schemas.events import AdapterUpdate, ArtifactFile
from abstream.training.release import describe

OTHER_TASK = Task(name="other", questions=ONCOLOGY.questions[:1])
NO_DIGEST = "sha256:" + "0" * 64


def with_files(update: AdapterUpdate, *files: ArtifactFile) -> AdapterUpdate:
    """The update with other files and their digest."""
    return update.model_copy(update={"files": files, "digest": digest_of(files)})


def test_an_announced_adapter_is_copied_into_the_cache(adapter, update, cache):
    fetched = cache.fetch(update)
    assert (fetched.digest, fetched.manifest) == (adapter.digest, adapter.manifest)
    assert fetched.path == cache.folder / adapter.digest.removeprefix("sha256:")
    assert list_files(fetched.path) == update.files
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_the_store_is_not_needed_again(adapter, update, cache):
    first = cache.fetch(update)
    shutil.rmtree(adapter.path)
    assert cache.fetch(update) == first


def test_a_copy_on_a_disk_that_is_read_only_is_served(adapter, update, cache, monkeypatch):
    first = cache.fetch(update)
    shutil.rmtree(adapter.path)

    def refused(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refused)
    assert cache.fetch(update) == first


def test_a_damaged_copy_is_fetched_again(update, cache):
    copy = cache.fetch(update).path / "adapter_model.safetensors"
    copy.write_text("x")
    assert cache.fetch(update).digest == update.digest
    assert copy.read_text() == "1"


def test_what_a_crash_left_behind_is_not_used_and_is_removed_later(update, cache):
    begun = cache.folder / f".{update.digest[7:]}-1"
    begun.mkdir(parents=True)
    cache.fetch(update)
    assert begun.exists(), "another worker may be at it"

    long_ago = time.time() - ABANDONED_SECONDS - 1
    os.utime(begun, (long_ago, long_ago))
    shutil.rmtree(cache.folder / update.digest[7:])
    cache.fetch(update)
    assert not begun.exists()


def test_a_fetch_that_fails_leaves_nothing(adapter, update, cache):
    (adapter.path / "adapter_model.safetensors").write_text("2")
    with pytest.raises(AdapterRefused):
        cache.fetch(update)
    assert list(cache.folder.iterdir()) == []


def test_another_worker_may_be_first(update, cache, monkeypatch):
    """Two workers share the folder and fetch the same adapter: one of the copies stays."""
    rename = type(cache.folder).rename

    def later(self, target):
        if not target.exists():
            shutil.copytree(self, target)
        return rename(self, target)

    monkeypatch.setattr(type(cache.folder), "rename", later)
    assert cache.fetch(update).digest == update.digest
    assert [path.name for path in cache.folder.iterdir()] == [update.digest[7:]]


def test_the_most_recently_used_copies_stay(make_adapter, cache):
    updates = [describe(make_adapter(str(number)), None, "activate") for number in range(KEPT)]
    for age, update in enumerate(updates):
        copy = cache.fetch(update).path
        os.utime(copy, (age, age))
    cache.fetch(updates[0])
    newest = describe(make_adapter("newest"), None, "activate")
    cache.fetch(newest)

    kept = {path.name for path in cache.folder.iterdir()}
    assert kept == {update.digest[7:] for update in [updates[0], *updates[2:], newest]}


def test_other_content_of_the_folder_is_left_alone(make_adapter, cache):
    """The folder may be a home or the store, and other folders there may be just as old."""
    others = [cache.folder / name for name in (".ssh", *map(str, range(KEPT)))]
    for place in others:
        place.mkdir(parents=True)
        os.utime(place, (0, 0))
    cache.fetch(describe(make_adapter(), None, "activate"))
    assert all(place.exists() for place in others)


def test_without_a_folder_the_copies_end_with_the_cache(update):
    cache = Cache(max_bytes=1_000_000)
    folder = cache.fetch(update).path
    assert folder.exists()
    del cache
    assert not folder.parent.exists()


def test_a_folder_that_cannot_be_written_is_reported(update, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"the folder of local copies, .*/file/cache, cannot be used"):
        Cache(tmp_path / "file" / "cache", max_bytes=1_000_000).fetch(update)


def test_an_adapter_announced_as_larger_than_allowed_is_not_read(update, tmp_path):
    shutil.rmtree(update.uri.removeprefix("file://"))
    with pytest.raises(AdapterRefused, match=r"bytes: 100 at most \(--max-adapter-bytes\)"):
        Cache(tmp_path / "cache", max_bytes=100).fetch(update)


def test_a_file_that_grew_is_read_no_further_than_it_was_announced(adapter, update, cache, monkeypatch):
    with (adapter.path / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(20_000_000_000)  # sparse: it takes no space
    with pytest.raises(AdapterRefused, match=r"adapter_model\.safetensors is longer than the 1 bytes"):
        cache.fetch(update)


def test_a_truncated_file_is_refused(adapter, update, cache):
    (adapter.path / "adapter_model.safetensors").write_text("")
    with pytest.raises(AdapterRefused, match=r"adapter_model\.safetensors was cut off: 0 bytes of 1"):
        cache.fetch(update)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../up",
        "a/../../b",
        "a//b",
        "a\\b",
        ".",
        "..",
        "a\0b",
        ".hidden",
        "a/.b",
        "C:b",
        "a\nb",
        "b.",
        "ä",
    ],
)
def test_a_path_that_might_lead_outside_the_folder_is_refused(update, cache, path):
    stray = ArtifactFile(path=path, sha256="0" * 64, size=1)
    with pytest.raises(AdapterRefused, match="would lead out of its folder"):
        cache.fetch(with_files(update, *update.files, stray))


def test_two_names_that_are_equal_on_some_file_systems_are_refused(update, cache):
    twin = update.files[0].model_copy(update={"path": update.files[0].path.upper()})
    with pytest.raises(AdapterRefused, match="have one name"):
        cache.fetch(with_files(update, *update.files, twin))


@pytest.mark.parametrize("path", ["model.bin", "model.PT", "code.py", "a.pkl", "b.pyc", "c.npy", "run.sh"])
def test_code_and_pickles_are_refused_by_name(update, cache, path):
    stray = ArtifactFile(path=path, sha256="0" * 64, size=1)
    with pytest.raises(AdapterRefused, match="only safetensors"):
        cache.fetch(with_files(update, *update.files, stray))


def test_too_many_files_are_refused(update, cache):
    many = [ArtifactFile(path=f"{number}.txt", sha256="0" * 64, size=0) for number in range(65)]
    with pytest.raises(AdapterRefused, match="68 files: 64 at most"):
        cache.fetch(with_files(update, *update.files, *many))


def test_a_digest_that_does_not_match_the_files_is_refused(update, cache):
    with pytest.raises(AdapterRefused, match="contradicts itself"):
        cache.fetch(update.model_copy(update={"digest": NO_DIGEST}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", "9"),
        ("task", OTHER_TASK),
        ("prompt_digest", NO_DIGEST),
        ("base_model", {"id": "fake", "revision": "2"}),
        ("calibration", {"cancer": 2.0}),
        ("thresholds", {"cancer": 0.9}),
    ],
)
def test_an_update_that_contradicts_the_manifest_is_refused(update, cache, field, value):
    other = AdapterUpdate.model_validate(update.model_dump() | {field: value})
    with pytest.raises(AdapterRefused, match=f"differ in {field}"):
        cache.fetch(other)


def test_an_update_that_announces_another_rank_is_refused(update, cache):
    other = update.lora.model_copy(update={"r": 8})
    with pytest.raises(AdapterRefused, match="the adapter's configuration says"):
        cache.fetch(update.model_copy(update={"lora": other}))


@pytest.mark.parametrize("field", ["auto_mapping", "modules_to_save", "rank_pattern", "future_field"])
def test_a_configuration_that_asks_for_more_than_plain_lora_is_refused(adapter, update, cache, field):
    config = adapter.path / "adapter_config.json"
    config.write_text(config.read_text().replace("{", f'{{"{field}": {{"a": "b"}}, ', 1))
    resealed = seal(adapter.path, adapter.manifest)
    changed = update.model_copy(update={"files": list_files(adapter.path), "digest": resealed.digest})
    with pytest.raises(AdapterRefused, match=f"sets {field}: only plain LoRA"):
        cache.fetch(changed)
