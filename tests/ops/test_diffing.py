"""``abstream adapters diff``: which answers would change, and how corrected ones supersede them."""

import json

import pytest
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.engine.scoring import score
from abstream.ops.files import Tally, usable
from abstream.schemas import AbstractClassified, Shards
from abstream.schemas.streams import from_fields

RECORDS = "".join(json.dumps({"id": str(n), "title": f"Title {n}", "text": f"Text {n}."}) + "\n" for n in range(20))


@pytest.fixture
def adapters(make_adapter):
    return make_adapter("1"), make_adapter("2")


@pytest.fixture
def diff(abstream, adapters, tmp_path):
    """A function that runs the command on both adapters and returns its JSON."""
    (tmp_path / "records.jsonl").write_text(RECORDS)

    def run(*arguments: str) -> dict:
        first, second = (one.path for one in adapters)
        done = abstream("adapters", "diff", first, second, *arguments, "--engine", "fake", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def answers_of(adapter, folder) -> dict[str, dict[str, str]]:
    """Map id -> question -> label, as the engine itself answers."""
    engine, found = FakeEngine(adapter=adapter), {}
    for record in usable([str(folder / "records.jsonl")], "jsonl", Tally()):
        logits = engine.classify([engine.encode(record.abstract)]).logits[0]
        found[record.id] = {name: one["label"] for name, one in score(engine.model, logits)[0].items()}
    return found


def test_in_files_every_abstract_whose_answer_would_change_is_named(diff, adapters, tmp_path):
    found = diff("--data", "records.jsonl")
    first, second = (answers_of(one, tmp_path) for one in adapters)
    expected = [{"id": id, "first": first[id], "second": second[id]} for id in first if first[id] != second[id]]  # noqa: A001
    assert expected
    assert found["changes"] == expected
    assert (found["abstracts"], found["changed"]) == (20, len(expected))
    flips = sum(sum(row.values()) for row in found["questions"]["cancer"]["flips"].values())
    assert flips == sum(one["first"]["cancer"] != one["second"]["cancer"] for one in expected)


def test_broken_records_are_left_out_and_exit_3(abstream, adapters, tmp_path):
    (tmp_path / "broken.jsonl").write_text(f"{RECORDS}{{\n")
    done = abstream(
        *("adapters", "diff", *(one.path for one in adapters), "--data", "broken.jsonl", "--engine", "fake", "--json")
    )
    assert done.returncode == 3
    assert b"broken.jsonl: line 21: is not JSON" in done.stderr
    assert json.loads(done.stdout)["abstracts"] == 20


@pytest.fixture
def shards(request, namespace, monkeypatch) -> Shards:
    """The shards that every command uses."""
    monkeypatch.setenv("ABSTREAM_SHARDS", str(request.param))
    return Shards(namespace, request.param)


async def predictions(redis, shards: Shards) -> list[list[AbstractClassified]]:
    """The predictions of each shard, oldest first."""
    pages = [await redis.xrange(streams.predictions) for streams in shards.all]
    return [[from_fields(fields) for _, fields in page] for page in pages]


@pytest.fixture
def answered(abstream, adapters, shards):
    """Let a worker answer all records with the first adapter."""
    assert abstream("adapters", "release", adapters[0].path).returncode == 0
    assert abstream("publish", "-", "--format", "jsonl", stdin=RECORDS.encode()).returncode == 0
    assert abstream("work", "--engine", "fake", "--burst").returncode == 0


@pytest.mark.parametrize("shards", [3], indirect=True)
@pytest.mark.usefixtures("answered")
async def test_changed_answers_are_published_once_in_their_shard(diff, adapters, redis, shards):
    before = await predictions(redis, shards)
    found = diff("--since", "0", "--publish")
    again = diff("--since", "0", "--publish")

    after = await predictions(redis, shards)
    new = [(event, old) for old, events in zip(before, after, strict=True) for event in events[len(old) :]]
    assert (found["published"], again["published"]) == (found["changed"], 0)
    assert len(new) == found["changed"] > 0
    for (event, old), change in zip(new, found["changes"], strict=True):
        [replaced] = [one for one in old if one.id == event.supersedes]
        assert event.causationid == replaced.causationid == change["id"]
        assert {name: one.label for name, one in event.data.answers.items()} == change["second"]
        assert event.data.model.adapter_digest == adapters[1].digest
        assert event.data.input == replaced.data.input


@pytest.mark.parametrize("shards", [1], indirect=True)
@pytest.mark.usefixtures("answered")
async def test_abstracts_no_longer_in_the_stream_are_counted(diff, redis, shards):
    lane = shards.all[-1].lane("interactive")
    left = 20 - await redis.xlen(lane) + 2
    await redis.xtrim(lane, maxlen=2, approximate=False)
    found = diff("--since", "0")
    assert (found["abstracts"], found["gone"]) == (left, 20 - left)


def test_diff_needs_either_files_or_a_time(abstream, adapters):
    for arguments in ((), ("--data", "x", "--since", "0"), ("--data", "x", "--publish")):
        done = abstream("adapters", "diff", *(one.path for one in adapters), *arguments, "--engine", "fake")
        assert done.returncode == 2
        assert b"--since" in done.stderr
