"""``abstream train`` and ``abstream evaluate``, used as for retraining."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from abstream.ops import settings
from abstream.ops.cli import cli
from abstream.ops.exits import exit_code_of, explain
from abstream.training.config import TrainConfig
from click import Command, UsageError
from click.testing import CliRunner

SAMPLE = Path(settings.__file__).parent / "sample"


@pytest.fixture
def labelled(tmp_path) -> Path:
    """A folder with a few of the bundled abstracts, to train and to validate on."""
    for split in ("train", "validation"):
        with (SAMPLE / f"{split}.jsonl").open(encoding="utf-8") as lines:
            (tmp_path / f"{split}.jsonl").write_text("".join(islice(lines, 40)), encoding="utf-8")
    return tmp_path


QUICK = ("--epochs", "1", "--rank", "2", "--threads", "1", "--json")


def test_an_adapter_that_fails_its_gate_is_not_announced(abstream, labelled, tmp_path):
    done = abstream(
        *("train", "--data", labelled / "train.jsonl", "--validation", labelled / "validation.jsonl", *QUICK),
        *("--gate", "accuracy>=0.1,calibration_error<=-1", "--release"),
    )

    assert done.returncode == 4, done.stderr
    assert b"failed: calibration_error<=-1" in done.stderr
    assert b"Warning" not in done.stderr
    said = json.loads(done.stdout)
    assert said["gate"]["passed"] is False
    assert said["gate"]["rules"][0].startswith("passed: accuracy>=0.1, measured 0.")
    assert {"before", "after", "majority", "cancer words"} <= said["metrics"]["cancer"].keys()
    assert abstream("adapters", "list", "--json").stdout == b"[]\n"
    assert (tmp_path / "runs/train/report.html").exists()


def test_a_run_can_be_repeated_from_its_saved_config_and_released(abstream, labelled, tmp_path):
    """The second gate is relative to the first adapter, which is live by then, so an equal adapter does not pass it."""
    (tmp_path / "run.yaml").write_text("train:\n  data: train.jsonl\n  validation: validation.jsonl\n  epochs: 1\n")
    first = abstream("--config", "run.yaml", "train", "--rank", "2", "--gate", "accuracy>=+0", "--release", "--json")
    assert first.returncode == 0, first.stderr
    trained, released = map(json.loads, first.stdout.splitlines())
    assert trained["digest"] == released["digest"]
    saved = json.loads((tmp_path / "runs/train/config.json").read_text())
    assert saved["model"] == "phi3-nano", "wherever that lies on the machine that repeats it"

    again = abstream(
        *("--config", "runs/train/config.json", "train", "--out", "again", "--json"),
        *("--gate", "accuracy>=+0,macro_f1>=+0.001", "--release"),
    )

    assert again.returncode == 4, again.stderr
    assert json.loads(again.stdout)["digest"] == released["digest"], "the same seed gives the same bits"
    assert len(json.loads(abstream("adapters", "list", "--json").stdout)) == 1


@pytest.fixture
def refused(tmp_path, monkeypatch) -> Callable[..., str]:
    """Runs ``abstream …`` in this process, since one of its own would import torch first, and returns the error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def run(*arguments: str | Path) -> str:
        done = CliRunner().invoke(cli, [*map(str, arguments)])
        assert isinstance(done.exception, Exception)
        assert (exit_code_of(done.exception), done.stdout) == (1, "")
        assert not (tmp_path / "runs").exists()
        return explain(done.exception)

    return run


def test_invalid_data_is_an_error_before_anything_is_written(refused, tmp_path):
    rows = [{"id": "1", "text": "Text.", "label": "Cancer"}, {"id": "2", "text": "Text.", "label": "Maybe"}]
    (tmp_path / "wrong.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert "unknown label 'Maybe'" in refused("train", "--data", "wrong.jsonl")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), b"--data"),
        (("--data", "x.jsonl", "--dropout", "1.5"), b"--dropout: must be less than 1"),
        (("--data", "x.jsonl", "--name", "My Adapter!"), b"--name: must consist of letters, digits, '.', '_' and '-'"),
        (("--data", "x.jsonl", "--release"), b"--release needs --store"),
    ],
)
def test_an_invalid_flag_is_a_usage_error_that_names_it(abstream, arguments, said):
    done = abstream("train", *arguments, ABSTREAM_STORE="")
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("gate", "said"),
    [("accuracy is good", "'accuracy is good' is not a rule"), ("acuracy>=0.9", "there is no figure acuracy")],
)
def test_a_gate_that_cannot_be_checked_is_reported_before_any_training(refused, labelled, gate, said):
    assert said in refused("train", "--data", labelled / "train.jsonl", "--gate", gate)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [("--device", "cuda", "torch finds no GPU here"), ("--card-notes", "none.md", "there is no such file")],
)
def test_missing_inputs_are_reported_before_any_training(refused, labelled, flag, value, said):
    assert said in refused("train", "--data", labelled / "train.jsonl", flag, value)


def test_the_base_model_is_evaluated_beside_a_bag_of_words_baseline(abstream, tmp_path):
    """The report shows the command, but not its password."""
    done = abstream(
        *(
            "--redis-url=redis://me:s3cret@elsewhere",
            "evaluate",
            "--adapter",
            "none",
            "--data",
            SAMPLE / "test.jsonl",
            "--json",
        ),
        *("--report", "report.html", "--baseline-data", SAMPLE / "train.jsonl"),
    )

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["model"]["adapter"] is None
    assert said["metrics"]["cancer"]["before"] == said["metrics"]["cancer"]["after"]
    assert said["metrics"]["cancer"]["majority"]["accuracy"]["value"] == 0.5
    report = (tmp_path / "report.html").read_text()
    assert "TF-IDF + logistic regression" in report
    assert "--redis-url=redis://elsewhere evaluate" in report
    assert "s3cret" not in report


def test_every_field_of_the_config_has_a_flag_with_help():
    @settings.config_options(TrainConfig)
    def command() -> None: ...

    flags = {option.name: option for option in Command("train", params=command.__click_params__).params}
    assert flags.keys() == TrainConfig.model_fields.keys()
    assert all(option.help for option in flags.values())


def test_a_value_that_a_config_refuses_is_a_usage_error():
    with pytest.raises(UsageError, match=r"--epochs: .*greater than 0"):
        settings.build(TrainConfig, {"data": "x", "epochs": 0})
