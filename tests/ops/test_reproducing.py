"""``abstream reproduce`` computes a past prediction again by its receipt."""

import json

import pytest

ABSTRACT = b'{"id": "1", "title": "Title", "text": "A text."}\n'


@pytest.fixture
def answered(abstream, make_adapter):
    """A function that releases an adapter, lets a worker answer an abstract with it and returns the prediction's id."""

    def answer() -> str:
        assert abstream("adapters", "release", make_adapter("1").path).returncode == 0
        assert abstream("publish", "-", "--format", "jsonl", stdin=ABSTRACT).returncode == 0
        assert abstream("work", "--engine", "fake", "--burst").returncode == 0
        result = json.loads(abstream("follow", "--since", "0", "--until-idle", "0.05").stdout)
        return result["id"]

    return answer


@pytest.fixture
def reproduce(abstream):
    return lambda *arguments: abstream("reproduce", *arguments, "--engine", "fake", "--json")


async def test_a_prediction_is_reproduced_exactly(answered, reproduce, abstream):
    by_prediction, by_abstract = reproduce(answered()), reproduce("1")
    by_its_engine = abstream("reproduce", "1", "--json")  # the engine of the receipt
    for done in (by_prediction, by_abstract, by_its_engine):
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["same"]
        assert all(one["then"] == one["now"] and one["difference"] == 0 for one in found["answers"])


async def test_an_answer_that_does_not_match_its_receipt_is_found(answered, reproduce, redis, streams):
    answered()
    [(_, fields)] = await redis.xrange(streams.predictions)
    event = json.loads(fields[b"event"])
    answer = event["data"]["answers"]["cancer"]
    answer["probabilities"] = dict(
        zip(answer["probabilities"], reversed(answer["probabilities"].values()), strict=True)
    )
    answer["confidence"] = answer["probabilities"][answer["label"]]
    await redis.delete(streams.predictions)
    await redis.xadd(streams.predictions, {"event": json.dumps(event)})

    done = reproduce("1")
    assert done.returncode == 1
    assert not json.loads(done.stdout)["same"]


async def test_the_text_of_a_trimmed_entry_is_read_from_a_file(answered, reproduce, redis, streams, tmp_path):
    answered()
    await redis.xtrim(streams.lane("interactive"), maxlen=0)
    lost = reproduce("1")
    assert lost.returncode == 1
    assert b"--data" in lost.stderr

    (tmp_path / "other.jsonl").write_bytes(ABSTRACT.replace(b"A text", b"Another"))
    assert b"nor is it in other.jsonl" in reproduce("1", "--data", "other.jsonl").stderr
    (tmp_path / "same.jsonl").write_bytes(ABSTRACT)
    assert reproduce("1", "--data", "same.jsonl").returncode == 0


async def test_an_unusable_adapter_is_named(answered, abstream):
    answered()
    done = abstream("reproduce", "1", "--engine", "fake", "--adapter", "adapters/none-such")
    assert done.returncode in (1, 2)
    assert b"adapters/none-such" in done.stderr


async def test_an_unknown_prediction_cannot_be_reproduced(reproduce):
    done = reproduce("nothing")
    assert done.returncode == 1
    assert b"there is no prediction nothing" in done.stderr
