"""The benchmark of the plumbing: every contestant does the whole work; the result is for people and programs."""

import asyncio
import json
from importlib.util import find_spec

import pytest
from abstream.ops.bench.contestants import CONTESTANTS
from abstream.ops.bench.stream import filled
from abstream.schemas.streams import GROUP, from_fields
from redis import Redis


@pytest.mark.parametrize("name", CONTESTANTS)
def test_every_contestant_answers_and_acknowledges_every_entry(server, name):
    if "FastStream" in name and not find_spec("faststream"):
        pytest.skip("FastStream is not installed")
    contestant = CONTESTANTS[name]
    with Redis.from_url(server) as redis, filled(redis, 100, contestant.to_fields) as streams:
        asyncio.run(contestant.answer(server, streams, 100))

        assert redis.xlen(streams.predictions) == 100
        assert redis.xpending(streams.lane("interactive"), GROUP)["pending"] == 0


def test_the_answers_are_as_long_as_real_ones(server):
    """For both kinds of answers: Non-Cancer, and Cancer with its type."""
    with Redis.from_url(server) as redis, filled(redis, 100) as streams:
        asyncio.run(CONTESTANTS["worker"].answer(server, streams, 100))

        events = [from_fields(fields) for _, fields in redis.xrange(streams.predictions)]
    assert {len(event.data.answers) for event in events} == {1, 2}


def test_nothing_is_left_in_redis_not_even_what_a_gateway_notes(server):
    with Redis.from_url(server) as redis, filled(redis, 1) as streams:
        asyncio.run(CONTESTANTS["worker"].answer(server, streams, 1))
        redis.hset(streams.standing("0"), "submitted", "1-0")
    with Redis.from_url(server) as redis:
        assert redis.keys(f"{{{streams.namespace}}}*") == []


def test_it_prints_a_table_and_then_one_json_line(abstream):
    small = "--beside floor --entries 64 --rounds 1 --rate 20 --seconds 1"
    done = abstream("bench", "stream", *small.split())

    *_, told, line = done.stdout.decode().splitlines()
    found = json.loads(line)
    assert done.returncode == 0, done.stderr.decode()
    assert told.startswith("At 20 messages a second: p50 ")
    assert found["versions"].keys() >= {"redis", "hiredis", "pydantic"}
    assert found["worker_to"].keys() == {"floor"}
