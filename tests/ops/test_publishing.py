"""``abstream publish`` while too many abstracts wait: it waits, says so, and in the end gives up."""

import asyncio
import json
import sys

import pytest
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.worker import PROBE
from abstream.schemas.streams import MAX_EVENT_BYTES


@pytest.fixture
def many(tmp_path) -> str:
    """A file with more abstracts than are sent in one call."""
    lines = [json.dumps({"id": str(number), "title": f"Title {number}", "text": "Text."}) for number in range(300)]
    (tmp_path / "many.jsonl").write_text("\n".join(lines) + "\n")
    return "many.jsonl"


async def test_publish_says_that_it_waits_for_room_and_then_continues(abstream, many, redis, streams, tmp_path):
    arguments = [sys.executable, "-m", "abstream.ops", "publish", many, "--max-backlog", "10"]
    process = await asyncio.create_subprocess_exec(
        *arguments, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said = await process.stderr.readline()
    full = b"256 abstracts are waiting in the interactive lane, and the limit is 10: publish again in 5 s"
    assert said == b"waiting for room: " + full + b"\n"
    await redis.xtrim(streams.lane("interactive"), maxlen=0, approximate=False)

    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"300 published\n")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [str(number) for number in range(300)]
    assert await redis.xlen(streams.lane("interactive")) == 44


async def test_publish_gives_up_with_exit_code_5_and_says_what_was_accepted(abstream, many, redis, streams):
    done = abstream("publish", many, "--max-backlog", "10", "--wait-for-room", "0")
    assert done.returncode == 5
    assert b"abstream: 256 abstracts are waiting in the interactive lane, and the limit is 10" in done.stderr
    taken = [json.loads(line)["entry_id"].encode() for line in done.stdout.splitlines()]
    assert taken == [entry for entry, _ in await redis.xrange(streams.lane("interactive"))]
    assert len(taken) == 256


async def test_an_abstract_that_is_too_large_is_named_and_the_others_are_sent(abstream, tmp_path):
    large = {"id": "large", "title": "Title", "text": "Text.", "journal": "x" * MAX_EVENT_BYTES}
    lines = [{"id": "before", "text": "Text."}, large, {"id": "after", "text": "Text."}]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = abstream("publish", "mixed.jsonl")
    assert done.returncode == 3
    assert b"line 2: the event of abstract 'large' has" in done.stderr
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["before", "after"]


async def test_without_a_limit_publish_does_not_wait(abstream, many):
    assert abstream("publish", many, "--max-backlog", "0", "--wait-for-room", "0").returncode == 0


class Failing(FakeEngine):
    def classify(self, batch):
        if any(tokens != self.encode(PROBE) for tokens in batch):
            raise RuntimeError("out of order")
        return super().classify(batch)


async def test_an_earlier_refusal_is_not_taken_for_the_answer(abstream, workers, tmp_path):
    """An abstract that the model failed on has no result yet when it is sent again under its old id."""
    (tmp_path / "one.jsonl").write_text('{"id": "1", "text": "Text."}\n')
    abstream("publish", "one.jsonl", "--source", "mine")
    await workers.burst(engine=Failing())
    assert b"inference_error" in abstream("follow", "refusals", "--since", "0", "--until-idle", "0.05").stdout

    again = abstream("publish", "one.jsonl", "--source", "mine", "--wait", "--patience-seconds", "0.2")
    assert again.returncode == 1
    assert b"1 of 1 abstracts have no result" in again.stderr
