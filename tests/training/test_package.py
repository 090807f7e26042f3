"""An adapter can be loaded by plain PEFT, and has a manifest for serving and a model card for readers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.consumer.engine.reference import reference_logits
from abstream.consumer.engine.scoring import softmax
from abstream.schemas import Abstract, Prompt, Question, Task
from abstream.schemas.artifacts import MANIFEST, list_files, verify
from abstream.training.config import TrainConfig
from abstream.training.data import digest
from abstream.training.evaluate import Answers, Comparison
from abstream.training.package import PROBES, Calibrated, package
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import Phi3ForCausalLM

from .conftest import ONE_CPU, TASK, records_of

CONFIG = TrainConfig(data="in/some/folder/train.jsonl", test="in/some/folder/test.jsonl", name="design", version="3")
DATA_DIGEST = digest(records_of(16))


def comparison(question: Question, seed: int = 0) -> Comparison:
    """A base that is right by chance, an adapter that is mostly right, and two baselines."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(len(question.labels), size=40)

    def given(skill: float) -> Answers:
        probabilities = rng.dirichlet(np.ones(len(question.labels)), size=40)
        probabilities[np.arange(40), truth] += skill
        return Answers(
            question, tuple(map(str, range(40))), truth, probabilities / probabilities.sum(axis=1, keepdims=True)
        )

    return Comparison(given(0), given(2), {"majority": given(0), "TF-IDF + logistic regression": given(0.5)})


COMPARISONS = {question.name: comparison(question) for question in TASK.questions}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """What a run saves, with LoRA weights that visibly change the answers."""
    from abstream.training.recipe import Run, Splits

    folder = tmp_path_factory.mktemp("run")
    config = CONFIG.model_copy(update={**ONE_CPU, "rank": 2})
    run = Run(config, Splits(TASK, frozenset({"trial"}), records_of(4), records_of(4)), tiny, folder, lambda _: None)
    for name, weight in run.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    run.save(folder / "adapter")
    return folder / "adapter"


@pytest.fixture(scope="module")
def adapter(folder, tiny):
    draft = package(folder, CONFIG, TASK, tiny, DATA_DIGEST, Calibrated({}, {}), None, None, {})
    engine = Phi3Engine(EngineConfig(model=str(tiny.path), device="cpu"), adapter=draft)
    bare = Phi3Engine(EngineConfig(model=str(tiny.path), device="cpu"), task=TASK)
    calibrated = Calibrated({"trial": 1.5, "arm": 0.8}, {"trial": 0.6})
    return package(folder, CONFIG, TASK, tiny, DATA_DIGEST, calibrated, engine, bare, COMPARISONS)


def test_plain_peft_loads_it_on_the_plain_base_and_gives_the_engines_logits(adapter, tiny):
    plain = PeftModel.from_pretrained(Phi3ForCausalLM.from_pretrained(tiny.path, dtype=torch.float32), adapter.path)
    config = EngineConfig(model=str(tiny.path), device="cpu")
    engine, bare = Phi3Engine(config, adapter=adapter), Phi3Engine(config, task=TASK)
    tokens = engine.encode(Abstract(title="A title", abstract="A text of drug and diet."))

    [logits] = engine.classify([tokens]).logits

    for served, expected in zip(logits, reference_logits(plain.eval(), engine.encoder, tokens), strict=True):
        assert served == pytest.approx(expected, abs=1e-4)
    assert logits[0] != pytest.approx(bare.classify([tokens]).logits[0][0], abs=1e-2)


def test_it_names_its_base_and_no_place_on_this_machine(adapter, tiny):
    said = json.loads((adapter.path / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["revision"]) == (tiny.ref.id, tiny.ref.revision)
    for path in adapter.path.iterdir():
        assert str(tiny.path.parent).encode() not in path.read_bytes(), path.name
        assert b"in/some/folder" not in path.read_bytes(), path.name


def test_the_manifest_holds_all_that_serving_needs(adapter, tiny):
    manifest = verify(adapter.path).manifest

    assert (manifest.name, manifest.version, manifest.base_model) == ("design", "3", tiny.ref)
    assert (manifest.task, manifest.prompt_digest) == (TASK, Prompt(TASK).digest)
    assert (manifest.calibration, manifest.thresholds) == ({"trial": 1.5, "arm": 0.8}, {"trial": 0.6})
    assert manifest.data_digest == DATA_DIGEST
    assert manifest.files == list_files(adapter.path, skip=[MANIFEST])
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} == {file.path for file in manifest.files}


def test_the_manifest_holds_the_figures_before_and_after(adapter):
    metrics = adapter.manifest.metrics
    measured = COMPARISONS["trial"].metrics

    assert (metrics.dataset, metrics.n) == ("test.jsonl", 40)
    assert metrics.before["trial.accuracy"] == measured["before"].accuracy.value
    assert metrics.after["trial.accuracy"] == measured["after"].accuracy.value
    assert "arm.f1_surgery" in metrics.after


def test_the_probes_are_invented_and_answered_at_temperature_one(adapter, tiny):
    """A worker that loads the adapter can verify by them that it computes what was released."""
    engine = Phi3Engine(EngineConfig(model=str(tiny.path), device="cpu"), adapter=adapter)

    assert [(one.title, one.abstract) for one in adapter.manifest.probes] == [
        (one.title, one.abstract) for one in PROBES
    ]
    for probe, abstract in zip(adapter.manifest.probes, PROBES, strict=True):
        [logits] = engine.classify([engine.encode(abstract)]).logits
        for question, row in zip(TASK.questions, logits, strict=True):
            assert list(probe.probabilities[question.name]) == list(question.labels)
            assert list(probe.probabilities[question.name].values()) == pytest.approx(softmax(row), abs=1e-5)


def test_packaging_again_gives_the_same_digest(adapter, tiny):
    engine = Phi3Engine(EngineConfig(model=str(tiny.path), device="cpu"), adapter=adapter)
    bare = Phi3Engine(EngineConfig(model=str(tiny.path), device="cpu"), task=TASK)
    calibrated = Calibrated(adapter.manifest.calibration, adapter.manifest.thresholds)
    again = package(adapter.path, CONFIG, TASK, tiny, DATA_DIGEST, calibrated, engine, bare, COMPARISONS)
    assert again.digest == adapter.digest


def test_the_card_is_valid_hugging_face_metadata(adapter, tiny):
    data = ModelCard.load(adapter.path / "README.md").data

    assert (data.base_model, data.library_name, data.pipeline_tag) == (tiny.ref.id, "peft", "text-classification")
    assert {"lora", f"base_model:adapter:{tiny.ref.id}"} <= set(data.tags)
    figures = {(one.task_name, one.metric_type): one.metric_value for one in data.eval_results}
    for question, each in COMPARISONS.items():
        after = each.metrics["after"]
        assert figures[question, "accuracy"] == pytest.approx(after.accuracy.value, abs=1e-4)
        assert figures[question, "f1"] == pytest.approx(after.macro_f1.value, abs=1e-4)
    assert {one.dataset_name for one in data.eval_results} == {"test.jsonl"}


def test_a_card_of_nothing_measured_is_valid_too(folder, tiny, tmp_path):
    from abstream.training.card import card

    (tmp_path / "README.md").write_text(card(CONFIG, TASK, tiny.ref, {}))
    assert ModelCard.load(tmp_path / "README.md").data.base_model == tiny.ref.id


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables as rows of cells, without the line below the heading."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.replace("\\|", "¦")[1:-1].split("|")])
        elif found[-1]:
            found.append([])
    return [[rows[0], *rows[2:]] for rows in found if rows]


def test_the_card_shows_every_judge_beside_before_and_after(adapter):
    trial, arm = tables((adapter.path / "README.md").read_text())

    for rows, question in ((trial, "trial"), (arm, "arm")):
        metrics = COMPARISONS[question].metrics
        assert rows[0] == ["", "before", "after", "improvement", "majority", "TF-IDF + logistic regression"]
        accuracy = dict(zip(rows[0], rows[1], strict=True))
        assert [accuracy[name] for name in metrics] == [str(one.accuracy) for one in metrics.values()]
        gained = 100 * (metrics["after"].accuracy.value - metrics["before"].accuracy.value)
        assert accuracy["improvement"] == f"{gained:+.2f}"
        assert {len(row) for row in rows} == {6}
    assert [row[0] for row in trial[1:]] == ["Accuracy", "F1 yes", "F1 no", "Macro-F1", "Calibration error"]


def test_no_name_or_label_can_break_a_card(tiny, tmp_path):
    from abstream.training.card import card

    labels = ('yes: "sure" | really', "- no, 'never' #{{ 1 }}")
    question = Question(name="odd", text='Is: it "odd" | or: not? {% raw %}', labels=labels)
    config = CONFIG.model_copy(update={"name": 'a: "b" #c | {{ d }}', "test": "x: 'y'.jsonl"})
    measured = {"odd": comparison(question)}
    base = replace(tiny).ref.model_copy(update={"id": "of: me/'it'"})

    (tmp_path / "README.md").write_text(card(config, Task(name="t", questions=(question,)), base, measured))

    read = ModelCard.load(tmp_path / "README.md")
    assert (read.data.model_name, read.data.base_model) == (config.name, base.id)
    assert read.data.eval_results[0].dataset_name == "x: 'y'.jsonl"
    assert labels[1] in read.text
    [rows] = tables(read.text)
    assert {len(row) for row in rows} == {6}
    assert len(rows) == 6
