"""``abstream refusals``: refused entries are inspected and replayed, once, under their own identity."""

import json

import pytest
from abstream import Abstract
from abstream.consumer.engine.fake import FakeEngine
from abstream.producer.connection import Shard
from abstream.producer.replaying import Refusals, again
from abstream.schemas.originals import from_original, to_original
from abstream.schemas.streams import LANES, from_fields, submitted_from_fields

SOUND = Abstract(title="Title", abstract="A sound text.")
NOT_UTF8 = b'{"data": "\xff\xfe"}'


class Clumsy(FakeEngine):
    """Fails on the sound abstract, so that it is refused without being at fault."""

    def classify(self, batch):
        if self.encode(SOUND) in batch:
            raise RuntimeError("out of order")
        return super().classify(batch)


@pytest.fixture
def out(redis, streams):
    """The published refusals and predictions, as events."""

    class Out:
        async def refusals(self):
            return [from_fields(fields) for _, fields in await redis.xrange(streams.refusals)]

        async def predictions(self):
            return [from_fields(fields) for _, fields in await redis.xrange(streams.predictions)]

        async def waiting(self):
            return [fields for _, fields in await redis.xrange(streams.lane("interactive"))]

    return Out()


@pytest.fixture
async def refused(redis, streams, publisher, workers, out):
    """Two refusals: of a sound abstract that the model failed on, and of an entry that is not text."""
    await publisher.publish(SOUND, id="sound")
    await redis.xadd(streams.lane("interactive"), {"event": NOT_UTF8, b"\xff": b"kept"})
    await workers.burst(engine=Clumsy())
    await redis.xtrim(streams.lane("interactive"), maxlen=0, approximate=False)
    return {refusal.data.reason: refusal for refusal in await out.refusals()}


async def test_list_shows_reason_and_abstract_and_can_filter(abstream, refused):
    both = json.loads(abstream("refusals", "list", "--json").stdout)
    [sound] = json.loads(abstream("refusals", "list", "--json", "--reason", "inference_error").stdout)
    after = json.loads(abstream("refusals", "list", "--json", "--since", both[0]["entry_id"]).stdout)

    assert {row["reason"] for row in both} == {"inference_error", "undecodable"}
    assert (sound["id"], sound["abstract"]) == (refused["inference_error"].id, "sound")
    assert (sound["retryable"], sound["replayed_as"], sound["replay_of"]) == (True, None, None)
    assert after == both[1:]
    assert json.loads(abstream("refusals", "list", "--json", "--since", "2100-01-01").stdout) == []


async def test_the_list_for_people_contains_no_text_of_an_abstract(abstream, refused):
    shown = abstream("refusals", "list").stdout.decode()
    assert shown.split()[:3] == ["time", "id", "reason"]
    assert refused["undecodable"].id in shown
    assert SOUND.abstract not in shown


async def test_show_gives_the_whole_original_by_either_id(abstream, refused):
    [row] = json.loads(abstream("refusals", "list", "--json", "--reason", "undecodable").stdout)
    shown = [abstream("refusals", "show", row[name]) for name in ("id", "entry_id")]
    assert shown[0].stdout == shown[1].stdout
    assert json.loads(shown[0].stdout) == json.loads(refused["undecodable"].to_json())


async def test_a_replay_keeps_the_identity_and_its_result_names_the_refusal(abstream, refused, out, workers):
    refusal = refused["inference_error"]
    done = abstream("refusals", "replay", refusal.id, "--json")
    await workers.burst()

    assert done.returncode == 0, done.stderr
    [replay] = json.loads(done.stdout)
    assert (replay["id"], replay["result"]) == (refusal.id, "replayed")
    [prediction] = await out.predictions()
    assert (prediction.causationid, prediction.causationsource) == ("sound", refusal.causationsource)
    assert prediction.sequence == replay["entry_id"]
    assert prediction.replayof == refusal.id


async def test_a_refusal_is_replayed_once_however_often_it_is_requested(abstream, refused, out, workers):
    refusal = refused["inference_error"]
    first = abstream("refusals", "replay", refusal.id, "--json")
    await workers.burst()
    second = abstream("refusals", "replay", refusal.id, "--json")
    await workers.burst()

    assert second.returncode == 0
    assert json.loads(second.stdout) == [json.loads(first.stdout)[0] | {"result": "replayed before"}]
    assert len(await out.predictions()) == 1
    [row] = json.loads(abstream("refusals", "list", "--json", "--reason", "inference_error").stdout)
    assert row["replayed_as"] == json.loads(first.stdout)[0]["entry_id"]


async def test_two_operators_at_once_replay_once(redis, streams, refused, out):
    stored = Refusals([Shard(redis, streams)])
    [one] = await stored.named([refused["inference_error"].id])
    results = [(await stored.replay(one)).result for _ in range(2)]
    assert results == ["replayed", "replayed before"]
    assert len(await out.waiting()) == 1


async def test_an_abstract_answered_meanwhile_is_not_answered_again(abstream, refused, out, publisher, workers):
    await publisher.publish(SOUND, id="sound")
    abstream("refusals", "replay", refused["inference_error"].id)
    await workers.burst()
    assert len(await out.predictions()) == 1


async def test_undecodable_bytes_are_sent_again_byte_for_byte(abstream, refused, out):
    refusal = refused["undecodable"]
    abstream("refusals", "replay", "--reason", "undecodable")
    [fields] = await out.waiting()
    assert fields == {b"event": NOT_UTF8, b"\xff": b"kept", b"replay_of": refusal.id.encode()}


async def test_a_refused_replay_names_the_refusal_and_can_be_replayed_again(
    abstream, refused, out, workers, redis, streams
):
    abstream("refusals", "replay", "--reason", "inference_error")
    await workers.burst(engine=Clumsy())
    first, second = [refusal for refusal in await out.refusals() if refusal.data.reason == "inference_error"]
    assert second.data.replay_of == first.id

    done = abstream("refusals", "replay", "--reason", "inference_error", "--json")
    assert {row["id"]: row["result"] for row in json.loads(done.stdout)} == {
        first.id: "replayed before",
        second.id: "replayed",
    }
    await workers.burst()
    [prediction] = await out.predictions()
    assert prediction.replayof == second.id


async def test_a_dry_run_shows_what_it_would_do_and_changes_nothing(abstream, refused, out):
    done = abstream("refusals", "replay", "--all", "--dry-run", "--json")
    assert done.returncode == 0
    assert [row["result"] for row in json.loads(done.stdout)] == ["would be replayed"] * 2
    assert b"2 would be replayed" in done.stderr
    assert await out.waiting() == []


async def test_entries_trimmed_unread_cannot_be_replayed_and_exit_3(abstream, out, publisher, workers, redis, streams):
    await publisher.publish(SOUND)
    lane = streams.lane("interactive")
    await workers.new().source.create_groups()
    await redis.xreadgroup("classifiers", "dead", {lane: ">"})
    await redis.xtrim(lane, maxlen=0, approximate=False)
    await workers.burst(lease_seconds=0.001)

    done = abstream("refusals", "replay", "--all", "--json")

    [row] = json.loads(done.stdout)
    assert (done.returncode, row["result"]) == (3, "cannot be replayed")
    assert "publish it again" in row["problem"]


async def test_an_unknown_id_exits_1_and_nothing_is_sent(abstream, refused, out):
    done = abstream("refusals", "replay", refused["undecodable"].id, "7-0")
    assert done.returncode == 1
    assert b"no refusal 7-0" in done.stderr
    assert await out.waiting() == []


@pytest.mark.parametrize("selection", ["", "--all --reason invalid", "7-0 --all"])
def test_what_to_replay_must_be_selected_in_exactly_one_way(abstream, selection):
    assert abstream("refusals", "replay", *selection.split()).returncode == 2


@pytest.mark.parametrize("command", ["list", "show 7-0", "replay --all"])
def test_without_redis_the_command_exits_5(abstream, command):
    assert abstream("refusals", *command.split(), REDIS_URL="unix:///nowhere/redis.sock").returncode == 5


@pytest.mark.parametrize("fields", [{b"title": b"T"}, {b"title": b"T", b"id": b"own"}, {b"title": b"T", b"id": b""}])
def test_an_entry_of_plain_fields_keeps_the_identity_it_had(fields):
    """Without an id of its own it was identified by its entry id, and a replay of a replay has a third one."""
    once = again(to_original("lane", "1-0", fields), "refusal")
    twice = again(to_original("lane", "2-0", once), "second refusal")

    first, second, third = [
        submitted_from_fields("bulk", entry_id, sent)
        for entry_id, sent in (("1-0", fields), ("2-0", once), ("3-0", twice))
    ]
    assert (second.id, second.source) == (third.id, third.source) == (first.id, first.source)
    assert (once[b"replay_of"], twice[b"replay_of"]) == (b"refusal", b"second refusal")


async def test_entries_of_both_lanes_with_one_id_stay_two_abstracts(abstream, redis, streams, workers, out):
    for lane in LANES:
        await redis.xadd(streams.lane(lane), {"title": SOUND.title, "abstract": SOUND.abstract}, id="7-0")
    await workers.burst(engine=Clumsy())

    abstream("refusals", "replay", "--all")
    await workers.burst()

    answered = [(result.causationid, result.causationsource) for result in await out.predictions()]
    assert sorted(answered) == [("7-0", "urn:abstream:plain:bulk"), ("7-0", "urn:abstream:plain:interactive")]


def test_an_event_is_sent_again_as_it_was():
    original = to_original("lane", "1-0", {b"event": NOT_UTF8})
    assert again(original, "refusal") == {**from_original(original), b"replay_of": b"refusal"}
