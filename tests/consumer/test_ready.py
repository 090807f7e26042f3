"""The queue of jobs that are ready for the engine: in which order they leave, and which readers wait."""

import asyncio
from types import SimpleNamespace

import pytest
from abstream.consumer.ready import Ready


def job(name: str, length: int = 10, stream: str = "shard") -> SimpleNamespace:
    delivery = SimpleNamespace(stream=stream)
    return SimpleNamespace(name=name, tokens=SimpleNamespace(ids=range(length)), engine="live", delivery=delivery)


@pytest.fixture
def ready() -> Ready:
    return Ready(max_batch_tokens=20)


async def names(ready: Ready) -> list[str]:
    return [one.name for one in await ready.next()]


async def is_waiting(task: "asyncio.Task[None]") -> bool:
    """Whether the task still waits once the loop has run all that was due."""
    for _ in range(10):
        await asyncio.sleep(0)
    return not task.done()


async def test_interactive_work_overtakes_bulk_work_that_is_ready(ready):
    await asyncio.wait_for(ready.put("bulk", [job("bulk")]), 1)
    await ready.put("interactive", [job("urgent", 15)])

    assert await names(ready) == ["urgent"]
    assert await names(ready) == ["bulk"]


async def test_a_reader_waits_while_a_batch_of_its_lane_is_ready(ready):
    reader = asyncio.create_task(ready.put("bulk", [job("one"), job("two")]))
    assert await is_waiting(reader)

    assert await names(ready) == ["one", "two"]
    await reader


async def test_ready_bulk_work_does_not_block_interactive_work(ready):
    bulk = asyncio.create_task(ready.put("bulk", [job("one"), job("two")]))
    assert await is_waiting(bulk)
    await asyncio.wait_for(ready.put("interactive", [job("urgent")]), 1)

    assert await names(ready) == ["urgent", "one"], "room that costs nothing is used"
    assert not await is_waiting(bulk)


async def test_ready_interactive_work_blocks_bulk_work(ready):
    interactive = asyncio.create_task(ready.put("interactive", [job("one"), job("two")]))
    bulk = asyncio.create_task(ready.put("bulk", [job("three")]))
    assert await is_waiting(bulk)

    assert await names(ready) == ["one", "two"]
    await interactive
    await bulk


async def test_a_closed_queue_is_drained(ready):
    await ready.put("bulk", [job("last")])
    ready.close()

    assert await names(ready) == ["last"]
    assert await ready.next() is None


async def test_after_leave_nothing_more_is_given_out_and_nobody_waits(ready):
    reader = asyncio.create_task(ready.put("bulk", [job("one"), job("two")]))
    assert await is_waiting(reader)
    ready.leave()

    assert await ready.next() is None
    await reader


async def test_the_engine_waits_for_work(ready):
    batch = asyncio.create_task(names(ready))
    assert await is_waiting(batch)

    await ready.put("bulk", [job("first")])

    assert await batch == ["first"]


async def test_the_only_abstract_of_a_shard_does_not_wait_for_all_those_of_another(ready):
    put = [asyncio.create_task(ready.put("interactive", [job(f"many-{number}") for number in range(20)]))]
    put.append(asyncio.create_task(ready.put("interactive", [job("one", stream="another")])))
    assert await is_waiting(put[0])

    assert await names(ready) == ["many-0", "one"]
    assert await names(ready) == ["many-1", "many-2"]
    for task in put:
        task.cancel()
