"""``abstream publish --resume`` continues an interrupted run and sends nothing twice."""

import json
from collections import Counter

import pytest
from abstream.ops.publishing import Terms, publish
from abstream.producer.shipping import Shipper
from abstream.schemas import BacklogFull, Shards
from abstream.schemas.streams import submitted_from_fields

ABSTRACTS = 600  # three calls


@pytest.fixture
def many(tmp_path) -> str:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "text": f"Text {n}."}) + "\n" for n in range(ABSTRACTS)))
    return str(path)


def terms(*, resume: bool = False, source: str | None = None, max_backlog: int = 0) -> Terms:
    return Terms("auto", "bulk", source, resume=resume, max_backlog=max_backlog, wait_for_room_seconds=0)


@pytest.fixture
def published(redis, streams):
    """A function that counts the entries of the stream by identity."""

    async def count() -> Counter:
        entries = await redis.xrange(streams.lane("bulk"))
        events = [submitted_from_fields("bulk", entry.decode(), fields) for entry, fields in entries]
        return Counter((event.source, event.id) for event in events)

    return count


async def test_confirmed_abstracts_are_not_sent_again(server, namespace, many, published, monkeypatch, capsys):
    with pytest.raises(BacklogFull):
        await publish(server, Shards(namespace), [many], terms(max_backlog=300), None)
    assert len(await published()) == 512

    sent = []
    add = Shipper._add
    monkeypatch.setattr(Shipper, "_add", lambda self, bodies, *rest: sent.append(bodies) or add(self, bodies, *rest))
    tally = await publish(server, Shards(namespace), [many], terms(resume=True), None)

    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(bodies) for bodies in sent] == [ABSTRACTS - 512]
    assert tally.done == ABSTRACTS
    assert len(await published()) == (await published()).total() == ABSTRACTS
    assert told[:512] == told[512:1024], "entries of before are told as they were"


async def test_abstracts_added_whose_reply_was_lost_are_not_sent_again(server, namespace, many, published, monkeypatch):
    """The client dies after the script ran in Redis and before its own next step."""

    class Killed(BaseException):
        pass

    async def add_and_die(self, *arguments):
        await add(self, *arguments)
        raise Killed

    add = Shipper._add
    monkeypatch.setattr(Shipper, "_add", add_and_die)
    with pytest.raises(Killed):
        await publish(server, Shards(namespace), [many], terms(), None)
    monkeypatch.undo()
    assert len(await published()) == 256

    await publish(server, Shards(namespace), [many], terms(resume=True), None)
    await publish(server, Shards(namespace), [many], terms(resume=True), None)
    assert set((await published()).values()) == {1}
    assert len(await published()) == ABSTRACTS


async def test_without_resume_the_same_files_are_new_abstracts(server, namespace, many, published):
    await publish(server, Shards(namespace), [many], terms(), None)
    await publish(server, Shards(namespace), [many], terms(), None)
    assert (len(await published()), (await published()).total()) == (2 * ABSTRACTS, 2 * ABSTRACTS)


async def test_a_run_with_a_given_source_is_resumed_under_it(server, namespace, many, published):
    with pytest.raises(BacklogFull):
        await publish(server, Shards(namespace), [many], terms(source="mine", max_backlog=1), None)
    await publish(server, Shards(namespace), [many], terms(source="mine", resume=True), None)
    assert await published() == Counter({("mine", str(n)): 1 for n in range(ABSTRACTS)})


async def test_files_without_a_known_run_are_published_from_the_start(server, namespace, many, published, capsys):
    await publish(server, Shards(namespace), [many], terms(resume=True), None)
    assert "nothing to resume is known of these files" in capsys.readouterr().err
    assert len(await published()) == ABSTRACTS


async def test_changed_content_is_a_new_run(server, namespace, many, tmp_path, published, capsys):
    await publish(server, Shards(namespace), [many], terms(), None)
    with (tmp_path / "many.jsonl").open("a") as file:
        file.write('{"text": "One more."}\n')
    await publish(server, Shards(namespace), [many], terms(resume=True), None)
    assert "nothing to resume" in capsys.readouterr().err
    assert (await published()).total() == 2 * ABSTRACTS + 1


def test_standard_input_cannot_be_resumed(abstream):
    done = abstream("publish", "-", "--resume")
    assert done.returncode == 2
    assert b"--resume cannot read standard input again" in done.stderr
