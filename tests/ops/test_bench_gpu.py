"""A tiny benchmark of a GPU runs through on a CPU, so that no GPU time is lost to errors."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.merging import Base
from abstream.ops.bench import gpu
from abstream.ops.bench.gpu import DRY_RUN, PHI3_MINI, ROWS, abstracts, measure, table
from abstream.ops.bench.random_phi3 import Form, write
from abstream.schemas import ONCOLOGY, AbstreamError

here = partial(ThreadPoolExecutor, 1)


def test_every_part_runs_and_fills_in_its_rows(tmp_path):
    found = measure(replace(DRY_RUN, abstract_tokens=20, streamed=10), tmp_path, lambda _: None, here)

    assert found["failed"] == {}
    only_on_gpus = {"ceiling_fp8", "engine_fp8", "fp8_to_bfloat16", "trained_peak_gib"}
    assert ROWS.keys() - found.keys() == only_on_gpus
    assert min(found[name] for name in ROWS.keys() & found.keys() - {"idle", "switch_pause"}) > 0
    assert sum(line.startswith("| ") for line in table(found)) == 1 + len(ROWS) - len(only_on_gpus)


def test_a_part_that_fails_is_reported_and_the_others_continue(monkeypatch, tmp_path):
    parts = {"model": gpu.model, "engine": lambda *_: 1 / 0, "ceiling": gpu.ceiling}
    monkeypatch.setattr(gpu, "PARTS", parts)

    found = measure(DRY_RUN, tmp_path, lambda _: None, here)

    assert found["ceiling_bfloat16"] > 0
    assert list(table(found))[-1] == "Not measured: engine: ZeroDivisionError: division by zero"


def test_a_batch_is_timed_from_the_end_of_the_one_before(monkeypatch):
    clock = iter([0.0, 1.0, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))

    class Engine:
        def classify(self, pack):
            pass

    assert gpu._batches(Engine, [], lambda done: done < 2) == [1, 3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_to_do(tmp_path):
    with pytest.raises(AbstreamError, match="--dry-run"):
        measure(PHI3_MINI, tmp_path, lambda _: None, here)


def test_the_abstracts_are_as_long_as_real_ones(tmp_path):
    folder = write(Form(16, 16, 1, 2, 12_288), tmp_path, torch.device("cpu"))
    encoder = Base(EngineConfig(model=str(folder), device="cpu")).encoder(ONCOLOGY)
    texts = abstracts(replace(DRY_RUN, abstract_tokens=468), 200)

    lengths = [one.body.stop - one.body.start for one in map(encoder.encode, texts)]

    assert sum(lengths) / len(lengths) == pytest.approx(468, rel=0.08)
