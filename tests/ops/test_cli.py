"""The command line: exit codes, data on stdout, everything else on stderr."""

import asyncio
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from abstream.consumer.config import WorkerConfig
from abstream.ops.__main__ import main as console_script
from abstream.ops.cli import cli
from abstream.ops.exits import exit_code_of, explain
from abstream.schemas import EVENTS
from click.testing import CliRunner
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

NOWHERE = "unix:///nowhere/redis.sock"


def json_lines(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "good.jsonl"
    path.write_text(
        "".join(json.dumps({"id": str(n), "title": f"Title {n}", "text": "Text."}) + "\n" for n in range(5))
    )
    return path


def test_publish_work_follow(abstream, good):
    published = abstream("publish", good)
    worked = abstream("work", "--engine", "fake", "--burst")
    followed = abstream("follow", "--since", "0", "--until-idle", "0.05")

    assert [done.returncode for done in (published, worked, followed)] == [0, 0, 0]
    assert [entry["id"] for entry in json_lines(published.stdout)] == list("01234")
    assert worked.stdout == b""
    assert sorted(event["causationid"] for event in json_lines(followed.stdout)) == list("01234")


def test_publish_reads_standard_input(abstream):
    published = abstream("publish", "-", stdin=b'{"id": "piped", "text": "Text."}\n')
    assert [entry["id"] for entry in json_lines(published.stdout)] == ["piped"]


def test_a_broken_file_names_each_line_and_exits_3(abstream, tmp_path):
    (tmp_path / "broken.jsonl").write_bytes(b'{"id": "a", "text": "Text."}\n{"id":\n\xff\n')

    done = abstream("publish", "broken.jsonl")

    assert done.returncode == 3
    assert [entry["id"] for entry in json_lines(done.stdout)] == ["a"]
    assert b"broken.jsonl: line 2: is not JSON" in done.stderr
    assert b"broken.jsonl: line 3: is not UTF-8" in done.stderr
    assert b"1 published, 2 broken, left out" in done.stderr


def test_a_file_with_nothing_usable_exits_1(abstream, tmp_path):
    (tmp_path / "broken.jsonl").write_bytes(b"no\n")
    assert abstream("publish", "broken.jsonl").returncode == 1


@pytest.mark.parametrize("command", ["publish", "classify"])
def test_a_missing_file_exits_1_with_a_message(abstream, command):
    done = abstream(command, "none.jsonl", *(["-o", "-", "--engine", "fake"] if command == "classify" else []))
    assert done.returncode == 1
    assert done.stderr.strip() == b"abstream: cannot read none.jsonl: No such file or directory"


@pytest.mark.parametrize("command", ["publish FILE", "work --engine fake", "follow --since 0", "publish FILE --wait"])
def test_without_redis_every_command_exits_5_at_once(abstream, good, command):
    done = abstream(*(str(good) if word == "FILE" else word for word in command.split()), REDIS_URL=NOWHERE)
    assert done.returncode == 5
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("usage", ["publish", "work --burts", "follow nothing", "nonsense", "--namespace {x} follow"])
def test_wrong_usage_exits_2(abstream, usage):
    assert abstream(*usage.split()).returncode == 2


def test_publish_wait_gives_up_with_a_message_where_no_worker_runs(abstream, good):
    done = abstream("publish", good, "--wait", "--patience-seconds", "0.2")
    assert done.returncode == 1
    assert b"5 of 5 abstracts have no result" in done.stderr


def test_publish_wait_finds_what_was_answered_before(abstream, good):
    """With a fixed source, publishing the same file again computes nothing and gives the same results."""
    abstream("publish", good, "--source", "mine")
    abstream("work", "--engine", "fake", "--burst")

    done = abstream("publish", good, "--source", "mine", "--wait", "--patience-seconds", "5")

    assert done.returncode == 0
    assert sorted(event["causationid"] for event in json_lines(done.stdout)) == list("01234")


def test_classify_keeps_the_order_of_the_file_and_leaves_no_partial_file(abstream, good, tmp_path):
    done = abstream("classify", good, "-o", "out.jsonl", "--engine", "fake")
    assert (done.returncode, done.stdout) == (0, b"")
    assert [line["id"] for line in json_lines((tmp_path / "out.jsonl").read_bytes())] == list("01234")
    assert not list(tmp_path.glob("*.part"))


def test_classify_keeps_its_log_out_of_its_results(good, tmp_path, monkeypatch):
    """Here the fake engine's dtype is treated as an eight-bit one that was not admitted."""
    code = "from abstream.ops import admitting, cli; admitting.GATED = ('float64',); cli.main()"
    arguments = ["classify", good, "-o", "-", "--engine", "fake"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # a cache in which nothing is admitted
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)
    assert b"dtype_not_admitted" in done.stderr
    assert [line["id"] for line in json_lines(done.stdout)] == list("01234")


def test_a_config_file_gives_defaults_that_flags_override(abstream, good, namespace, tmp_path, monkeypatch):
    """Including the flags before the command, such as the namespace."""
    (tmp_path / "abstream.toml").write_text(f'namespace = "{namespace}"\n[work]\nengine = "fake"\nburst = true\n')
    config = ["--config", "abstream.toml"]

    monkeypatch.delenv("ABSTREAM_NAMESPACE")

    assert abstream(*config, "publish", good).returncode == 0
    assert abstream(*config, "work", "--drain-seconds", "1").returncode == 0
    follow = ("follow", "--since", "0", "--until-idle", "0.05")
    assert len(json_lines(abstream("--namespace", namespace, *follow).stdout)) == 5
    assert abstream(*config, "--namespace", f"{namespace}-other", *follow).stdout == b""


def test_a_config_file_with_an_unknown_key_is_an_error(abstream, tmp_path):
    (tmp_path / "abstream.toml").write_text("[work]\nengin = 'fake'\n")
    done = abstream("--config", "abstream.toml", "work")
    assert done.returncode == 2
    assert b"work.engin" in done.stderr


def test_the_default_numbers_of_work_are_those_of_its_config():
    flags = {flag.name: flag.default for flag in cli.commands["work"].params}
    numbers = {
        name: knob.default for name, knob in WorkerConfig.model_fields.items() if type(knob.default) in (int, float)
    }
    assert "read_count" in numbers
    assert {name: flags[name] for name in numbers} == numbers


def test_every_flag_says_what_it_is_for():
    def silent(command: click.Command, name: str) -> list[str]:
        subcommands = command.commands.items() if isinstance(command, click.Group) else ()
        flags = [flag for flag in command.params if isinstance(flag, click.Option) and not (flag.help or flag.hidden)]
        found = [f"{name} {flag.opts[0]}" for flag in flags]
        return found + [said for other, one in subcommands for said in silent(one, f"{name} {other}")]

    assert silent(cli, "abstream") == []


@pytest.mark.parametrize("group", ["", "adapters", "refusals", "streams"])
def test_in_a_list_of_commands_no_summary_is_cut(group):
    shown = CliRunner().invoke(cli, [*group.split(), "--help"], terminal_width=80).output
    _, commands = shown.split("Commands:")
    assert "..." not in commands


@pytest.mark.parametrize("command", ["follow", "refusals list"])
@pytest.mark.parametrize("since", ["yesterday", "5@x", "99999999999999999999"])
def test_since_that_is_neither_id_nor_time_is_a_usage_error(abstream, command, since):
    done = abstream(*command.split(), "--since", since)
    assert done.returncode == 2
    assert b"ISO 8601" in done.stderr


def test_doctor_finds_redis_and_the_model_sound(abstream):
    done = abstream("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0
    assert findings["Redis"]["verdict"] == findings["model"]["verdict"] == "ok"
    assert findings["Redis persistence"] | {"found": ""} == {
        "what": "Redis persistence",
        "verdict": "warning",
        "found": "",
        "remedy": "CONFIG SET appendonly yes, or a restart loses everything since the last snapshot",
    }


def test_doctor_names_what_is_wrong_and_shows_no_password(abstream, tmp_path):
    done = abstream("doctor", "--model", tmp_path, REDIS_URL="redis://:secret@127.0.0.1:1/0")
    assert done.returncode == 1
    assert b"holds no readable config.json" in done.stdout
    assert b"start Redis" in done.stdout
    assert b"secret" not in done.stdout + done.stderr


def test_schema_export_writes_a_file_for_each_event_and_lists_them(abstream, tmp_path):
    done = abstream("schema", "export", "-o", "schemas")
    assert done.returncode == 0
    written = {path.name for path in (tmp_path / "schemas").iterdir()}
    assert {f"{name}.json" for name in EVENTS} <= written
    assert {Path(line).name for line in done.stdout.decode().splitlines()} == written


def test_the_url_of_redis_can_be_read_from_a_file(abstream, tmp_path, good):
    (tmp_path / "url").write_text(f"{NOWHERE}\n")
    done = abstream("--redis-url", "", "--redis-url-file", "url", "publish", good)
    assert done.returncode == 5
    assert b"/nowhere/redis.sock" in done.stderr


def test_two_urls_of_redis_are_a_usage_error(abstream, tmp_path, good):
    (tmp_path / "url").write_text(NOWHERE)
    done = abstream("--redis-url", NOWHERE, "--redis-url-file", "url", "publish", good)
    assert done.returncode == 2
    assert b"give one" in done.stderr


@pytest.mark.parametrize("command", [("publish", "good.jsonl"), ("streams", "info"), ("work", "--engine", "fake")])
def test_no_command_shows_the_password(abstream, server, good, command):
    """Neither where the server is away nor where it does not know the user."""
    for url in ("redis://somebody:s3cret@127.0.0.1:1/0", server.replace("unix://", "unix://somebody:s3cret@")):
        done = abstream("--redis-url", url, *command)
        assert done.returncode not in (0, 2)
        assert b"s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [("publish", "good.jsonl"), ("streams", "info"), ("doctor",)])
def test_a_redis_url_that_cannot_be_read_is_a_usage_error_that_shows_nothing_of_it(abstream, good, command):
    done = abstream("--redis-url", "redis://somebody:s3cret/2@127.0.0.1", *command)
    assert done.returncode == 2
    assert b"%2F" in done.stderr
    assert b"s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("work --engine fake --metrics-port", b"--metrics-port %d: "),
        ("gateway --port", b"cannot listen on 127.0.0.1:%d: "),
    ],
)
def test_the_error_for_a_port_in_use_names_the_port(abstream, command, said):
    """The error must not be mistaken for Redis being out of reach."""
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        done = abstream(*command.split(), port)
    assert done.returncode == 1
    assert done.stderr.startswith(b"abstream: " + said % port)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RedisConnectionError("Refused."), r"Redis is out of reach \(Refused\): is it running, and is --redis-url "),
        (AuthenticationError("no"), r"Redis does not let this user in \(no\): .* redis://USER:PASSWORD@HOST"),
        (ResponseError("WRONGTYPE Operation"), r"Redis refused: WRONGTYPE Operation; `abstream doctor` checks"),
        (FileNotFoundError(2, "No such file or directory", "x"), "x: No such file or directory"),
    ],
)
def test_errors_of_libraries_are_explained(error, said):
    assert re.match(said, explain(error))


def test_ctrl_c_before_the_command_begins_shows_no_traceback(monkeypatch):
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "abstream.ops.cli", Interrupted("abstream.ops.cli"))
    with pytest.raises(SystemExit, match="Aborted"):
        console_script()


def test_a_system_error_exits_1_and_an_unexpected_one_shows_a_traceback():
    assert exit_code_of(OSError(28, "No space left on device")) == 1
    assert exit_code_of(asyncio.TimeoutError()) is None
    assert exit_code_of(KeyError()) is None
