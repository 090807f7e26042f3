"""The benchmark of starts: a worker that gives no result is no measurement, and medians stand in the table."""

import pytest
from abstream.ops.bench import start as bench
from abstream.ops.bench.start import Start, first_result, run, table
from abstream.schemas import AbstreamError
from redis import Redis


def test_a_worker_is_timed_until_its_first_result_and_leaves_nothing(server, tmp_path):
    with Redis.from_url(server) as redis:
        before = set(redis.keys())
        took = first_result(server, tmp_path, "--engine=fake")
        assert set(redis.keys()) <= before, "keys of other tests may expire meanwhile, and none may be new"
    assert min(took.seconds, took.cpu_seconds) > 0


def test_a_worker_that_gives_no_result_is_told_of(server, tmp_path):
    with pytest.raises(AbstreamError, match="ended with 2 and no result"):
        first_result(server, tmp_path, "--no-such-flag")


def test_a_command_that_fails_is_told_of():
    with pytest.raises(AbstreamError, match="ended with 3"):
        run(["-c", "import sys; sys.exit(3)"])


def test_the_table_has_the_medians():
    taken = [Start(3.0, 2.0), Start(1.0, 9.0), Start(2.0, 1.0)]
    median = bench._median(taken)
    assert median == Start(2.0, 2.0)
    lines = list(table({"median": {bench.WORKER: vars(median)}, "wanted_seconds": bench.WANTED_SECONDS}))
    assert lines[-1] == "| worker's first result | 2.00 | 3.0 | 2.00 |"
