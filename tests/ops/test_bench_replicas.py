"""The benchmark of replicas: each is looked at when it has answered, and what they share counts once."""

import sys
from pathlib import Path

import pytest
from abstream.ops.bench import replicas as bench
from abstream.ops.bench.replicas import Held, memory_of, replicas, table
from abstream.schemas import AbstreamError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("count", [1, 2])
def test_so_many_processes_are_looked_at(count, tmp_path):
    with replicas(count, ["--engine", "fake"], tmp_path) as processes:
        held = list(map(memory_of, processes))
    assert len(held) == len(set(processes)) == count
    assert all(0 < one.private <= one.share <= one.rss for one in held)
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


def test_replicas_that_do_not_start_are_told_of(tmp_path):
    told = pytest.raises(AbstreamError, match=r"of 2 replicas, 0 answered: see .*2-replicas\.log")
    with told, replicas(2, ["--no-such-flag"], tmp_path):
        pass


def test_a_further_replica_is_what_all_together_grow_by(monkeypatch, tmp_path):
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
