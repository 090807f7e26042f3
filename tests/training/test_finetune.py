"""From labelled files to an adapter that is measured, calibrated, sealed, and served."""

import json
from collections import Counter
from importlib.resources import files

import pytest
from abstream.consumer.engine import scoring
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.schemas import ONCOLOGY, Abstract
from abstream.schemas.artifacts import verify
from abstream.training import finetune as module
from abstream.training.config import TrainConfig
from abstream.training.data import DataInvalid, digest, load
from abstream.training.evaluate import measured
from abstream.training.finetune import Outcome, compare, finetune
from abstream.training.recipe import CHECKPOINT
from pydantic import ValidationError

from .conftest import ONE_CPU, TASK, records_of


@pytest.fixture(scope="module")
def sample_run(phi3_nano, tmp_path_factory) -> Outcome:
    """One epoch over the bundled sample with the shipped model, as ``abstream train`` does it, in seconds."""
    sample = files("abstream.ops.sample")
    names = {"data": "train", "validation": "validation", "test": "test"}
    sources = {knob: str(sample / f"{name}.jsonl") for knob, name in names.items()}
    config = TrainConfig(
        **sources, model=str(phi3_nano), rank=2, epochs=1, name="sample", **(ONE_CPU | {"precision": "auto"})
    )
    outcome = finetune(config, tmp_path_factory.mktemp("sample") / "run", lambda _: None)
    assert outcome
    return outcome


@pytest.fixture
def run_folder(sample_run):
    return sample_run.adapter.path.parent


def test_a_run_leaves_its_config_its_figures_and_the_adapter(sample_run, run_folder):
    """There is no checkpoint any more."""
    assert {path.name for path in run_folder.iterdir()} == {"adapter", "config.json", "metrics.json"}
    assert TrainConfig.model_validate_json((run_folder / "config.json").read_text()) == sample_run.config
    assert verify(run_folder / "adapter") == sample_run.adapter


def test_every_question_is_measured_before_and_after_and_beside_the_baselines(sample_run, run_folder):
    judges = ["before", "after", "majority", "cancer words", "TF-IDF + logistic regression"]
    written = json.loads((run_folder / "metrics.json").read_text())

    assert list(written) == ["cancer", "cancer_type"]
    assert [list(one) for one in written.values()] == [judges, judges]
    assert {one["n"] for one in written["cancer"].values()} == {len(sample_run.test)}


def test_the_manifest_is_of_this_data_and_says_what_was_measured(sample_run):
    manifest = sample_run.adapter.manifest

    assert manifest.data_digest == digest(load(sample_run.config.data, ONCOLOGY))
    assert manifest.metrics.dataset == "test.jsonl"
    assert manifest.metrics.after["cancer.accuracy"] == sample_run.comparisons["cancer"].metrics["after"].accuracy.value
    assert set(manifest.calibration) == {"cancer", "cancer_type"}
    assert set(manifest.thresholds) == {"cancer"}


def test_the_figures_after_are_those_of_the_adapter_in_service(sample_run, phi3_nano):
    engine = Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu"), adapter=sample_run.adapter)
    served = measured(engine, sample_run.test)

    assert served["cancer"].confusion == sample_run.comparisons["cancer"].metrics["after"].confusion
    assert served["cancer_type"].accuracy == sample_run.comparisons["cancer_type"].metrics["after"].accuracy


def test_the_manifest_says_how_the_validation_abstracts_are_answered_in_service(sample_run, phi3_nano):
    engine = Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu"), adapter=sample_run.adapter)
    tokens = [engine.encode(one.abstract) for one in load(sample_run.config.validation, ONCOLOGY)]
    answered = [scoring.score(engine.model, row)[0]["cancer"] for row in engine.classify(tokens).logits]
    known = sample_run.adapter.manifest.expected

    assert known.labels == {"cancer": Counter(one["label"] for one in answered)}  # too few are asked for their type
    assert sum(known.confidence["cancer"].counts) == sum(known.tokens.counts) == len(tokens)
    below = known.confidence["cancer"].bounds[0]
    assert known.confidence["cancer"].counts[0] == sum(one["confidence"] <= below + 1e-6 for one in answered)


def test_the_history_tells_the_loss_of_every_step_and_epoch(sample_run):
    *steps, epoch = sample_run.progress.history

    assert all(0 <= step["epoch"] < 1 and step["loss"] > 0 for step in steps)
    assert epoch == {"epoch": 1, "validation_loss": sample_run.progress.best_loss}


@pytest.fixture
def design(write, tmp_path):
    """The configuration of another task with its own questions, labels and data."""
    (tmp_path / "task.json").write_text(TASK.model_dump_json())

    def rows(numbers):
        return [
            {"id": one.id, "title": one.abstract.title, "text": one.abstract.abstract, **one.answers}
            for one in (records_of(60)[number] for number in numbers)
        ]

    return {
        "task": tmp_path / "task.json",
        "data": write("train.jsonl", rows(range(40))),
        "validation": write("validation.jsonl", rows(range(40, 60))),
    }


def knobs(tiny, **others):
    return {"model": str(tiny.path), "rank": 2, "epochs": 2, "batch_tokens": 1_000, **ONE_CPU, **others}


def test_another_task_is_a_file_and_no_code(design, tiny, tmp_path):
    """It has two questions, of which the second is asked if the first is answered yes, and is served like any other."""
    outcome = finetune(TrainConfig(**design, **knobs(tiny)), tmp_path / "run", lambda _: None)

    engine = Phi3Engine(EngineConfig(model=str(tiny.path), device="cpu"), adapter=outcome.adapter)
    [logits] = engine.classify([engine.encode(Abstract(title=None, abstract="Study of yes and drug."))]).logits
    answers, _ = scoring.answer(engine.model, logits)

    assert engine.model.task == TASK
    assert answers["trial"].label in ("yes", "no")
    assert ("arm" in answers) == (answers["trial"].label == "yes")
    assert {name: one.metrics["after"].n for name, one in outcome.comparisons.items()} == {"trial": 20, "arm": 5}


def test_the_same_seed_gives_the_same_adapter(design, tiny, tmp_path):
    """Even the digests are equal, so that anyone can verify that a run was reproduced."""
    config = TrainConfig(**design, **knobs(tiny, epochs=1))
    first, second = (finetune(config, tmp_path / name, lambda _: None) for name in ("1", "2"))
    other = finetune(config.model_copy(update={"seed": 8}), tmp_path / "3", lambda _: None)

    assert first.adapter.digest == second.adapter.digest != other.adapter.digest


def test_it_says_how_far_it_is(design, tiny, tmp_path):
    told: list[float] = []
    finetune(TrainConfig(**design, **knobs(tiny)), tmp_path / "run", told.append)

    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)


def test_a_tenth_is_held_out_where_there_is_no_validation_data(design, tiny, tmp_path):
    config = TrainConfig(data=design["data"], task=design["task"], **knobs(tiny, epochs=1))
    outcome = finetune(config, tmp_path / "run", lambda _: None)

    assert len(outcome.test) == 4
    assert outcome.adapter.manifest.metrics.dataset == "a held-out tenth of train.jsonl"


def test_what_is_judged_by_is_not_learned_from(design, tiny, write, tmp_path):
    """A text that is in both files is left out of the training data, whatever its id."""
    learned = load(design["data"], TASK)
    leaked = [learned[0], learned[3]]
    rows = [{"id": f"x{one.id}", "text": one.abstract.abstract.upper(), **one.answers} for one in leaked]
    config = TrainConfig(**design, test=write("test.jsonl", rows), **knobs(tiny, epochs=1))

    outcome = finetune(config, tmp_path / "run", lambda _: None)

    assert outcome.adapter.manifest.data_digest == digest([one for one in learned if one not in leaked])


def test_a_question_that_the_data_answers_alike_is_neither_learned_nor_calibrated(design, tiny, write, tmp_path):
    """Trials alone say nothing about abstracts that are none, so the question gets no temperature."""
    arms = [{"id": n, "text": f"Study {n} of {arm}", "arm": arm} for n, arm in enumerate(("drug", "diet") * 10)]
    held = [{"id": n, "text": f"Later study {n} of {arm}", "arm": arm} for n, arm in enumerate(("drug", "diet") * 2)]
    sources = {"data": write("arms.jsonl", arms), "validation": write("held.jsonl", held), "task": design["task"]}

    manifest = finetune(TrainConfig(**sources, **knobs(tiny)), tmp_path / "run", lambda _: None).adapter.manifest

    assert set(manifest.calibration) == {"arm"}
    assert manifest.thresholds == {}


@pytest.mark.parametrize(
    ("validation", "told"),
    [
        (
            [{"text": "a", "trial": "yes"}, {"text": "b", "trial": "yes"}],
            r"v\.jsonl: one class only \(trial is always yes",
        ),
        (
            [{"text": "a", "arm": "drug"}, {"text": "b", "arm": "diet"}],
            r"v\.jsonl: answers no question that .* teaches",
        ),
        ([{"text": "a"}], "no label: fill 'label'"),
    ],
)
def test_data_that_cannot_judge_is_refused_before_any_training(design, tiny, write, tmp_path, validation, told):
    trials = [{"text": f"t {n}", "trial": label} for n, label in enumerate(("yes", "no") * 5)]
    sources = {"data": write("t.jsonl", trials), "validation": write("v.jsonl", validation), "task": design["task"]}

    with pytest.raises(DataInvalid, match=told):
        finetune(TrainConfig(**sources, **knobs(tiny)), tmp_path / "run", lambda _: None)
    assert not (tmp_path / "run").exists()


def test_a_run_killed_while_it_measures_goes_on_from_its_checkpoint(design, tiny, tmp_path, monkeypatch):
    config = TrainConfig(**design, **knobs(tiny, epochs=1))
    expected = finetune(config, tmp_path / "whole", lambda _: None).adapter.digest
    with monkeypatch.context() as patch:
        patch.setattr(module, "compare", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "killed", lambda _: None)
    assert (tmp_path / "killed" / CHECKPOINT).exists()

    steps: list[float] = []
    again = finetune(config, tmp_path / "killed", steps.append)

    assert again.adapter.digest == expected
    assert steps == [], "nothing was trained again"


def test_a_model_without_an_adapter_is_its_own_before_and_after(tiny):
    bare = Phi3Engine(EngineConfig(model=str(tiny.path), device="cpu"), task=TASK)
    compared = compare([], records_of(8), bare, bare, {})

    assert compared["trial"].metrics["before"] == compared["trial"].metrics["after"]
    assert compared["trial"].baselines == {}


def test_a_held_out_tenth_with_one_class_only_says_how_to_give_another(design, tiny, write, tmp_path):
    trials = [{"text": f"t {n}", "trial": "yes" if n else "no"} for n in range(12)]
    sources = {"data": write("t.jsonl", trials), "task": design["task"]}

    with pytest.raises(DataInvalid, match=r"held out for validation \(--validation gives another\): one class only"):
        finetune(TrainConfig(**sources, **knobs(tiny)), tmp_path / "run", lambda _: None)


@pytest.mark.parametrize("name", ["a/b", "", ".hidden", "two words"])
def test_a_name_that_no_store_takes_is_refused_before_any_training(name):
    with pytest.raises(ValidationError, match="name"):
        TrainConfig(data="d.jsonl", name=name)
