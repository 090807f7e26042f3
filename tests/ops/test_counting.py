"""The verdict on a run: it passes only if every abstract has one result, of the right adapter."""

from dataclasses import replace

import pytest
from abstream.consumer.engine.fake import FakeEngine
from abstream.ops.counting import Run, count
from abstream.producer.formats import Record
from abstream.schemas import Abstract
from redis import Redis


@pytest.fixture
def sync_redis(server):
    with Redis.from_url(server, protocol=2) as redis:
        yield redis


@pytest.fixture
async def answered(publisher, workers, make_adapter, streams):
    """The run of six abstracts, of which the base answered two, and an adapter four."""
    adapter = make_adapter("1")
    records = [Record(str(n), Abstract(abstract=f"Text {n}."), {"label": "Cancer"}) for n in range(6)]
    for number, record in enumerate(records[:2]):
        await publisher.publish(record.abstract, id=str(number))
    await workers.burst()
    for number, record in enumerate(records[2:], start=2):
        await publisher.publish(record.abstract, id=str(number))
    await workers.burst(engine=FakeEngine(adapter=adapter))
    return Run(records, adapter.digest, 2, killed_while_holding=0, seconds=1.0, drained=True)


async def test_results_are_counted_by_abstract_and_by_adapter(sync_redis, streams, answered):
    summary = count(sync_redis, streams, answered)

    assert (summary.submitted, summary.predictions) == (6, 6)
    assert (summary.duplicates, summary.missing, summary.pending, summary.refusals, summary.stale) == (0, 0, 0, 0, 0)
    assert summary.by_adapter == {"none": 2, answered.new_digest: 4}


async def test_a_run_in_which_no_worker_was_killed_does_not_pass(sync_redis, streams, answered):
    assert not count(sync_redis, streams, answered).passed


async def test_an_abstract_without_a_result_is_missing(sync_redis, streams, answered):
    one_more = replace(answered, records=[*answered.records, answered.records[0]])
    assert count(sync_redis, streams, one_more).missing == 1


async def test_an_answer_of_the_old_adapter_after_the_switch_is_stale(sync_redis, streams, answered):
    assert count(sync_redis, streams, replace(answered, first_after_switch=0)).stale == 2


async def test_a_second_result_of_an_abstract_is_a_duplicate(sync_redis, streams, answered):
    [(_, fields)] = sync_redis.xrange(streams.predictions, count=1)
    sync_redis.xadd(streams.predictions, fields)

    assert count(sync_redis, streams, answered).duplicates == 1
