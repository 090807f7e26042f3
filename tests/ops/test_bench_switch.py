"""The benchmark of switches: what counts as during a switch, and a small run of the whole benchmark."""

import pytest
from abstream.ops.bench import switching
from abstream.ops.bench.switching import Load, growth, latency, measure, table
from abstream.ops.sample import __file__ as sample


def test_an_abstract_that_waited_during_a_switch_is_counted_as_such():
    windows = [(1_000.0, 1_500.0), (3_000.0, 3_500.0)]
    during = [(900.0, 1_010.0), (1_200.0, 1_310.0), (3_490.0, 3_600.0)]
    calm = [(2_000.0, 2_010.0), (1_500.0, 1_510.0), (4_000.0, 4_010.0)]
    warming_up = [(0.0, 900.0)]

    found = latency(windows, [*during, *calm, *warming_up])

    assert (found["switching_abstracts"], found["calm_abstracts"]) == (3, 3)
    assert (found["switching_p99_ms"], found["calm_p99_ms"], found["p99_ratio"]) == (110, 10, 11)


def test_memory_growth_is_measured_after_the_first_switches():
    assert growth([1] * 10 + [100] * 10 + [110] * 10) == pytest.approx(0.1)


def test_a_small_run_loses_and_repeats_nothing_and_every_answer_is_that_of_its_adapter(tmp_path, monkeypatch):
    monkeypatch.setattr(switching, "WARM_UP_SECONDS", 0.2)
    found = measure(Load(2, 1, 20.0, 0.2), (tmp_path / sample).parent / "test.jsonl", tmp_path, say=print)

    assert (found["lost"], found["duplicated"], found["not_of_the_receipts_adapter"]) == (0, 0, 0)
    assert found["abstracts"] > 0
    assert found["told_apart"] > 0.5
    assert len(found["memory_mib"]) == 2
    assert any("release to the last of 1 workers" in line for line in table(found))
