"""The doctor on a sound set-up and on broken ones: it finds each fault and no other, and shows no password."""

import json
import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.ops import doctor
from abstream.ops.embedded import embedded_redis
from abstream.schemas import ModelUnusable, Shards
from redis import Redis

SECRET = "pa55word"
SOUND = ("--appendonly", "yes", "--appendfsync", "always")
ALL_MAY = f"ACL SETUSER doctor on >{SECRET} ~* +@all"
FEW_MAY = f"ACL SETUSER doctor on >{SECRET} ~* +@all -xadd"


class SetUp:
    """What the doctor examines; tests break parts of it."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.adapter = folder / "adapter"
        self.cache = folder / "cache" / "adapters"
        shutil.copytree(model.parent / "phi3-nano-oncology", self.adapter)
        self.options: tuple[str, ...] = SOUND
        self.commands: tuple[str, ...] = (ALL_MAY,)
        self.password = SECRET

    def examine(self, out: Callable[[], str]) -> tuple[int, dict[str, str]]:
        """The exit code, and the verdicts other than ``ok`` by what was examined; a missing GPU is not a fault."""
        with embedded_redis(*self.options) as url:
            with Redis.from_url(url) as redis:
                for command in self.commands:
                    redis.execute_command(*command.split())
            return self.examine_at(url.replace("unix://", f"unix://doctor:{self.password}@"), out)

    def examine_at(self, url: str, out: Callable[[], str]) -> tuple[int, dict[str, str]]:
        code = doctor.examine(url, Shards(), str(self.model), self.adapter, self.cache, as_json=True)
        said = out()
        assert SECRET not in said
        findings = json.loads(said)
        assert all(bool(one["remedy"]) == (one["verdict"] != "ok") for one in findings)
        return code, {
            one["what"]: one["verdict"] for one in findings if one["verdict"] != "ok" and one["what"] != "GPU"
        }


@pytest.fixture
def set_up(phi3_nano, tmp_path) -> SetUp:
    return SetUp(phi3_nano, tmp_path)


@pytest.fixture
def out(capsys) -> Callable[[], str]:
    def out() -> str:
        captured = capsys.readouterr()
        assert SECRET not in captured.err
        return captured.out

    return out


def test_a_sound_set_up_has_nothing_to_mend(set_up, out):
    assert set_up.examine(out) == (0, {})


def redis_evicts(set_up: SetUp) -> None:
    set_up.options = (*SOUND, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")


def redis_keeps_nothing(set_up: SetUp) -> None:
    set_up.options = ("--appendonly", "no", "--save", "")


def a_key_is_somebody_elses(set_up: SetUp) -> None:
    set_up.commands = (ALL_MAY, "SET {abstream}:predictions x")


def the_user_may_not_publish(set_up: SetUp) -> None:
    set_up.commands = (FEW_MAY,)


def the_password_is_another(set_up: SetUp) -> None:
    set_up.commands = ("ACL SETUSER doctor on >other ~* +@all",)


def the_adapter_was_changed(set_up: SetUp) -> None:
    (set_up.adapter / "README.md").write_text("Another card.")


def the_adapter_is_half(set_up: SetUp) -> None:
    (set_up.adapter / "adapter_model.safetensors").unlink()


def the_model_is_half(set_up: SetUp) -> None:
    broken = set_up.folder / "model"
    shutil.copytree(set_up.model, broken)
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    set_up.model = broken


def there_is_no_model(set_up: SetUp) -> None:
    set_up.model = set_up.folder / "nowhere" / "model"


def the_cache_is_a_file(set_up: SetUp) -> None:
    set_up.cache.parent.write_text("not a folder")


MODEL = "model and adapter"


@pytest.mark.parametrize(
    ("harm", "code", "found"),
    [
        (redis_evicts, 1, {"Redis maxmemory-policy": "error"}),
        (redis_keeps_nothing, 0, {"Redis persistence": "warning"}),
        (a_key_is_somebody_elses, 1, {"Redis keys": "error"}),
        (the_user_may_not_publish, 1, {"Redis permissions": "error"}),
        (the_password_is_another, 1, {"Redis": "error"}),
        (the_adapter_was_changed, 1, {MODEL: "error"}),
        (the_adapter_is_half, 1, {MODEL: "error"}),
        (the_model_is_half, 1, {MODEL: "error"}),
        (there_is_no_model, 1, {MODEL: "error"}),
        (the_cache_is_a_file, 1, {"adapter cache": "error"}),
    ],
)
def test_every_fault_is_found_and_nothing_else(set_up, out, harm, code, found):
    harm(set_up)
    assert set_up.examine(out) == (code, found)


@pytest.mark.parametrize("url", [f"redis://doctor:{SECRET}@127.0.0.1:1/0", f"redis://127.0.0.1:1?password={SECRET}"])
def test_an_absent_redis_is_reported_as_out_of_reach(set_up, out, url):
    assert set_up.examine_at(url, out) == (5, {"Redis": "out of reach"})


def test_what_has_to_be_mended_here_goes_before_a_redis_that_is_out_of_reach(set_up, out):
    there_is_no_model(set_up)
    assert set_up.examine_at("redis://127.0.0.1:1", out) == (1, {"Redis": "out of reach", MODEL: "error"})


def test_a_library_that_is_not_installed_is_found(set_up, out, monkeypatch):
    def version(name: str) -> str:
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert set_up.examine(out) == (1, {"peft": "error"})


def test_a_model_that_loads_and_does_not_answer_is_found(set_up, out, monkeypatch):
    def fail(*_: object) -> None:
        raise ModelUnusable("no answer")

    monkeypatch.setattr(Phi3Engine, "classify", fail)
    assert set_up.examine(out) == (1, {MODEL: "error"})


def test_a_url_that_cannot_be_read_is_an_error(set_up, out):
    """The client library takes the text before the slash for a port, and would show it."""
    assert set_up.examine_at(f"redis://doctor:{SECRET}/x@127.0.0.1", out) == (1, {"Redis": "error"})


def test_a_read_only_cache_is_found(set_up, out, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda _, mode: not mode & os.W_OK)  # root may write anywhere
    assert set_up.examine(out) == (1, {"adapter cache": "error"})
