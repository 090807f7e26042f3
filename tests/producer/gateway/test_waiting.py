"""Requests that wait for a result, without a gateway around them."""

import asyncio

from abstream.producer.gateway.entries import Entry
from abstream.producer.gateway.index import Identity
from abstream.producer.gateway.waiting import Waiting

from ...conftest import PATIENCE_SECONDS

IDENTITY = Identity("urn:test", "7")


def result(output: str, sequence: str) -> Entry:
    event = {"causationsource": IDENTITY.source, "causationid": IDENTITY.id, "sequence": sequence, "data": {}}
    return Entry(output, "9-0", event, b"")


async def test_a_refusal_of_what_was_sent_before_does_not_end_the_wait():
    waiting, late, wanted = Waiting(), result("refusals", "1-0"), result("refusals", "2-0")
    with waiting.for_result(IDENTITY) as wait:
        waiting.arrived([late, wanted])
        assert await wait.result("2-0", PATIENCE_SECONDS) is wanted


async def test_who_comes_after_the_end_does_not_wait():
    waiting = Waiting()
    waiting.end()
    with waiting.for_result(IDENTITY) as wait:
        assert await asyncio.wait_for(wait.result("1-0", 1_000), PATIENCE_SECONDS) is None


async def test_nothing_is_remembered_of_those_who_no_longer_wait():
    waiting = Waiting()
    with waiting.for_result(IDENTITY):
        assert len(waiting) == 1
    assert not waiting._waits
