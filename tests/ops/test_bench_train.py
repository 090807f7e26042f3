"""The benchmark of training: both learn from the same tokens, and the table names both."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from abstream.ops.bench import train as bench
from abstream.ops.bench.train import (
    CONTESTANTS,
    IGNORED,
    Turn,
    _padded,
    _prepared,
    _ratio,
    _with_labels,
    measure,
    table,
)
from accelerate.state import AcceleratorState

from ..tiny import tiny_phi3


@pytest.fixture
def tiny(monkeypatch, phi3_nano, tmp_path):
    folder = tiny_phi3(tmp_path / "phi3-tiny", phi3_nano)
    monkeypatch.setattr(bench, "model_folder", lambda *_: folder)
    monkeypatch.setattr(bench, "BATCH", 2)
    yield folder
    AcceleratorState._reset_state(reset_partial_state=True)  # else Trainer's precision would apply to the whole process


def test_trainer_learns_the_label_token_that_follows_each_slot(tiny):
    run, examples = _prepared(tiny, "float32")

    rows = [_with_labels(run, one) for one in examples]

    for one, row in zip(examples, rows, strict=True):
        told = {place: label for place, label in enumerate(row["labels"]) if label != IGNORED}
        slots = zip(run.encoder.slots, one.answers, strict=True)
        assert told == {len(one.tokens.ids) + slot.offset + 1: slot.labels[answer] for slot, answer in slots}
        assert row["input_ids"][:-1] == list(one.tokens.ids)
    padded = _padded(rows)
    assert padded["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in rows]
    assert (padded["labels"] != IGNORED).sum(1).tolist() == [2, 2]


@pytest.mark.parametrize("name", CONTESTANTS)
def test_a_step_of_either_contestant_changes_the_lora_weights(tiny, name):
    run, examples = _prepared(tiny, CONTESTANTS[name].base)
    step = CONTESTANTS[name].start(run, examples)
    before = {key: tensor.clone() for key, tensor in run.model.named_parameters() if "lora_B" in key}

    assert step().cpu_milliseconds > 0

    assert all(not torch.equal(run.model.get_parameter(key), tensor) for key, tensor in before.items())


def test_it_gives_a_table_and_a_value_for_programs(tiny, tmp_path):
    names = ["abstream float32", "Trainer float32"]
    found = measure(names, "nano", 1, tmp_path, lambda _: None, partial(ThreadPoolExecutor, 1))

    assert found["contestants"]["Trainer float32"]["ours_faster"]["abstream float32"] > 0
    lines = list(table(found))
    assert lines[0].startswith("nano: batches of 2, ")
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| abstream float32", "| Trainer float32"]


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    ours, theirs = ([Turn(one, 0) for one in each] for each in ((1.0, 10.0, 2.0), (3.0, 20.0, 8.0)))
    assert _ratio(ours, theirs) == 3
