"""The benchmark of starts: a worker without a result is not a measurement, and the table has medians."""

import pytest
from abstream.ops.bench import start as bench
from abstream.ops.bench.start import Start, first_result, run, table
from abstream.schemas import AbstreamError
from redis import Redis


def test_a_worker_is_timed_until_its_first_result_and_leaves_nothing_behind(server, tmp_path):
    with Redis.from_url(server) as redis:
        before = set(redis.keys())
        took = first_result(server, tmp_path, "--engine=fake")
        assert set(redis.keys()) <= before, "keys of other tests may expire meanwhile, and none may be new"
    assert min(took.seconds, took.cpu_seconds) > 0


def test_a_worker_without_a_result_is_reported(server, tmp_path):
    with pytest.raises(AbstreamError, match="ended with 2 and no result"):
        first_result(server, tmp_path, "--no-such-flag")


def test_a_command_that_fails_is_reported():
    with pytest.raises(AbstreamError, match="ended with 3"):
        run(["-c", "import sys; sys.exit(3)"])


def test_the_table_has_the_medians():
    taken = [Start(3.0, 2.0), Start(1.0, 9.0), Start(2.0, 1.0)]
    median = bench._median(taken)
    assert median == Start(2.0, 2.0)
    lines = list(table({"median": {bench.WORKER: vars(median)}, "wanted_seconds": bench.WANTED_SECONDS}))
    assert lines[-1] == "| worker's first result | 2.00 | 3.0 | 2.00 |"
