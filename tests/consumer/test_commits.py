"""A batch of several shards is published without waiting for a shard that is away."""

import asyncio

import pytest
from abstream.consumer import commits as module
from abstream.consumer.commits import Commits


class Shards:
    """Commits parts of shard ``here`` at once, and those of shard ``away`` once ``back`` is set."""

    def __init__(self) -> None:
        self.back = asyncio.Event()
        self.published: list[str] = []

    async def commit(self, part: list[str]) -> None:
        if part[0].startswith("away"):
            await self.back.wait()
        if part[0].endswith("refused"):
            raise ValueError(part[0])
        self.published += part


@pytest.fixture
def shards(monkeypatch) -> Shards:
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.01)
    return Shards()


async def test_a_shard_that_is_away_does_not_delay_the_others_and_loses_nothing(shards):
    commits = Commits(shards.commit, shards=2)
    await commits.make([["away-1"], ["here-1"]])
    await commits.make([["here-2"], ["away-2"]])
    assert shards.published == ["here-1", "here-2"]

    shards.back.set()
    await commits.rest()
    assert sorted(shards.published) == ["away-1", "away-2", "here-1", "here-2"]


async def test_a_single_shard_is_waited_for(shards):
    commits = Commits(shards.commit, shards=1)
    making = asyncio.create_task(commits.make([["away-1"]]))
    await asyncio.wait([making], timeout=0.05)
    assert not making.done()
    shards.back.set()
    await making


async def test_an_error_that_retrying_cannot_mend_is_raised(shards):
    commits = Commits(shards.commit, shards=2)
    await commits.make([["away-1"]])
    with pytest.raises(ValueError, match="refused"):
        await commits.make([["refused"]])
    await commits.end()
    assert shards.published == []


async def test_an_error_of_an_earlier_batch_is_raised_by_a_later_one(shards):
    commits = Commits(shards.commit, shards=2)
    await commits.make([["away-refused"]])
    await commits.make([["here-1"]])
    shards.back.set()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    with pytest.raises(ValueError, match="away-refused"):
        await commits.make([])


async def test_at_the_end_what_still_waits_is_given_up(shards):
    commits = Commits(shards.commit, shards=2)
    await commits.make([["away-1"], ["away-2"]])
    await commits.end()
    shards.back.set()
    with pytest.raises(asyncio.CancelledError):
        await commits.rest()
    assert shards.published == []
