"""The soak test: what counts as growth, that every false metric is found, and a small run of the whole."""

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
from abstream.ops.bench.soak import Load, Sample, Sent, checks, growth, measure, table

SAMPLE = Path(str(files("abstream.ops.sample") / "test.jsonl"))
SENT = Sent(good=4, repeated=1, broken=2)
SEEN = Counter({f"soak-{number}": 1 for number in range(4)} | {"1-0": 1, "2-0": 1})
TRUE = {
    **{"abstracts_received": 7, "predictions": 4, "end_to_end": 4, "refusals": 2, "duplicates": 1},
    **{"redeliveries": 0, "commits_lost": 0},
}


def samples(*memory: tuple[int, int]) -> list[Sample]:
    """Memory samples of one worker and Redis, taken every 10 s."""
    return [
        Sample(10.0 * number, (worker,), redis, identities=0, streams={})
        for number, (worker, redis) in enumerate(memory)
    ]


FLAT = samples(*[(100, 100)] * 10)


def missed(seen=SEEN, told=TRUE, samples=FLAT, failed=0) -> list[str]:
    found = checks(SENT, seen, told, samples, Load(minutes=1.0), failed)
    return [name for name, (value, limit) in found.items() if value > limit]


def test_a_sound_run_misses_no_target():
    assert missed() == []


@pytest.mark.parametrize("name", TRUE)
def test_a_false_metric_is_a_missed_target(name):
    assert missed(told=TRUE | {name: TRUE[name] + 1}) == [f"{name}_metric_off_by"]
    assert missed(told=TRUE | {name: TRUE[name] - 1}) == [f"{name}_metric_off_by"]


def test_lost_and_doubled_abstracts_and_failed_workers_are_missed_targets():
    assert missed(seen=SEEN - Counter(["soak-0"])) == ["lost"]
    assert missed(seen=SEEN + Counter(["soak-0"])) == ["doubled"]
    assert missed(failed=1) == ["workers_that_failed"]


def test_memory_may_grow_only_during_the_warm_up():
    assert missed(samples=samples((1, 1), (50, 50), *[(100, 100)] * 8)) == []
    assert missed(samples=samples(*[(100, 100)] * 8, (103, 100), (103, 100))) == ["worker_memory_growth"]
    assert missed(samples=samples(*[(100, 100)] * 8, (100, 103), (100, 103))) == ["redis_memory_growth"]


def test_growth_is_that_from_the_first_to_the_last_tenth():
    assert growth([100] * 10 + [500] * 80 + [110] * 10) == pytest.approx(0.1)


def test_in_a_small_run_nothing_is_lost_and_every_metric_is_true(tmp_path):
    """With both lanes, repeated and broken abstracts; so short a run says nothing of memory."""
    load = Load(0.02, 1, 0.7, 1.0, 0.1, {"engine": "chaos", "engine-milliseconds": 2})
    found = measure(load, SAMPLE, tmp_path, say=print)

    assert {name for name in found["missed"] if "growth" not in name} == set()
    assert found["results"] < found["entries"]
    assert found["capacity"] > found["rate"] > 0
    rows = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert len(rows) == len(found["memory_mib"]) > 2
    assert json.loads(rows[-1])["streams"]["{abstream}:predictions"] > 0
    assert any("| lost | 0 | 0 | met |" in line for line in table(found))
