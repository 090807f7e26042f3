"""The benchmark of replicas: memory is measured once each has answered, and shared memory counts once."""

import sys
from pathlib import Path

import pytest
from abstream.ops.bench import replicas as bench
from abstream.ops.bench.replicas import Held, memory_of, replicas, table
from abstream.schemas import AbstreamError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("count", [1, 2])
def test_every_replica_is_measured_and_ends_afterwards(count, tmp_path):
    with replicas(count, ["--engine", "fake"], tmp_path) as processes:
        held = list(map(memory_of, processes))
    assert len(held) == len(set(processes)) == count
    assert all(0 < one.private <= one.share <= one.rss for one in held)
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


def test_replicas_that_do_not_start_are_reported(tmp_path):
    told = pytest.raises(AbstreamError, match=r"of 2 replicas, 0 answered: see .*2-replicas\.log")
    with told, replicas(2, ["--no-such-flag"], tmp_path):
        pass


def test_a_further_replica_costs_the_growth_of_the_total(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "replicas", lambda count, *_: _Started(count))
    monkeypatch.setattr(bench, "memory_of", lambda number: Held(300, 250 if number == 0 else 100, 80))

    found = bench.measure("nano", "float32", (1, 4), tmp_path, lambda _: None)

    assert found["further_mib"] == 100
    assert "| 4 | 550 | 80 | 300 |" in list(table(found))


class _Started:
    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> list[int]:
        return list(range(self._count))

    def __exit__(self, *_: object) -> None: ...
