"""The benchmark of whole workers: they are measured while they answer, on the cores they were given."""

import asyncio
import os
from random import Random

import pytest
from abstream.ops.bench import worker as bench
from abstream.ops.bench.worker import ALONE, LANES, ONE_WORKER, REPLICAS, Turn, only_on, own_mib, table
from abstream.ops.chaos.workers import Workers
from abstream.schemas import AbstreamError


async def test_workers_are_timed_while_they_answer(redis, server, monkeypatch, namespace, tmp_path):
    monkeypatch.setenv("ABSTREAM_NAMESPACE", namespace)
    monkeypatch.setattr(bench, "STREAMS", bench.Streams(namespace))
    monkeypatch.setattr(bench, "LOOK_SECONDS", 0.01)
    async with Workers(server, 1, {"engine-milliseconds": 4}, tmp_path, Random(1)) as workers:
        turn = await bench.answered(redis, workers.ready(), 100)
        memory = own_mib(workers.ready()[0])
        assert await workers.stop() == [0]

    assert turn.per_second > 0
    assert turn.waits < 1, "some of the time it computes"
    assert 10 < memory < 1_000


async def test_workers_that_do_not_answer_are_reported(redis, monkeypatch, streams):
    monkeypatch.setattr(bench, "STREAMS", streams)
    monkeypatch.setattr(bench, "PATIENCE_SECONDS", 0)
    with pytest.raises(AbstreamError, match="answered 0 of 5 abstracts"):
        await asyncio.wait_for(bench._seen(redis, [], 5), 10)


def test_the_process_is_bound_to_its_cores_only_within_the_block():
    before = os.sched_getaffinity(0)
    with only_on(sorted(before)[:1]):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_ratios_are_computed_within_rounds_and_printed_below_the_table():
    rounds = {ALONE: [100, 10, 1], ONE_WORKER: [90, 9.5, 0.97], LANES: [1, 1, 1], REPLICAS: [180, 18, 1.8]}
    found = {
        "median": {name: vars(bench._median([Turn(rate, 1, 0) for rate in rates])) for name, rates in rounds.items()},
        "memory_mib": {ONE_WORKER: 340},
        "cores": 2,
        "worker_to_engine": bench._ratio(rounds[ONE_WORKER], rounds[ALONE]),
        "lanes_to_one": 1.75,
        "replicas_to_one": bench._ratio(rounds[REPLICAS], rounds[ONE_WORKER]),
    }
    *rows, _, one, lanes, replicas = table(found)

    assert rows[-3] == f"| {ONE_WORKER} | 9.5 | 1.00 | 0.0% | 340 |"
    assert one == "One worker to the engine alone: 0.950."
    assert lanes + replicas == "On 2 cores to one core: one worker 1.75, a worker for each 1.89."
