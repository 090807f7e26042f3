"""All keys of a namespace share one hash tag, and an entry of a lane is an event or plain fields."""

import pytest
from abstream import Abstract, AbstractSubmitted, Malformed
from abstream.schemas import Streams
from abstream.schemas.streams import DEDUPE_WINDOW_SECONDS, MAX_EVENT_BYTES, cause_in, submitted_from_fields

BODY = AbstractSubmitted(id="7", source="test", data=Abstract(abstract="Text.")).to_json()


def test_the_keys_are_those_of_the_contract():
    streams = Streams()
    assert streams.lane("interactive") == "{abstream}:abstracts"
    assert streams.lane("bulk") == "{abstream}:abstracts:bulk"
    assert streams.predictions == streams.output("predictions") == "{abstream}:predictions"
    assert streams.refusals == "{abstream}:refusals"
    assert streams.output("adapters") == "{abstream}:adapters"
    assert streams.output("fleet") == "{abstream}:fleet"


@pytest.mark.parametrize("namespace", ["", "a b", "{a}", "a" * 65, "é"])
def test_a_namespace_that_would_break_the_hash_tag_cannot_be_built(namespace):
    with pytest.raises(ValueError, match="namespace"):
        Streams(namespace)


def test_an_identity_is_remembered_for_at_least_the_window():
    """An identity added to the current set just before its window ends is in the previous set just after."""
    streams, end = Streams(), 20_000 * DEDUPE_WINDOW_SECONDS
    assert streams.seen(end - 1)[0] == streams.seen(end)[1] == streams.seen(end + DEDUPE_WINDOW_SECONDS - 1)[1]


def test_what_a_clock_that_is_ahead_has_seen_is_looked_up_too():
    streams, end = Streams(), 20_000 * DEDUPE_WINDOW_SECONDS
    assert streams.seen(end)[0] == streams.seen(end - 1)[2]


def filled_up(size: int) -> dict[bytes, bytes]:
    """The fields of an entry with an event, of this size in bytes."""
    return {b"event": BODY.ljust(size - len(b"event"))}


def test_an_entry_may_have_as_many_bytes_as_the_limit_says():
    assert submitted_from_fields("bulk", "1-0", filled_up(MAX_EVENT_BYTES)).id == "7"
    with pytest.raises(Malformed, match="send a shorter abstract") as refused:
        submitted_from_fields("bulk", "1-0", filled_up(MAX_EVENT_BYTES + 1))
    assert refused.value.reason == "too_large"


def test_the_id_of_an_event_that_is_too_large_is_not_looked_for():
    """To parse it would take as long as it is large."""
    assert cause_in(filled_up(MAX_EVENT_BYTES)) == {"causationid": "7", "causationsource": "test"}
    assert cause_in(filled_up(MAX_EVENT_BYTES + 1)) == {}


def test_plain_fields_without_an_id_have_that_of_their_entry_which_is_unique_in_its_lane_alone():
    fields = {b"title": b"A title"}
    one, other = (submitted_from_fields(lane, "1-0", fields) for lane in ("interactive", "bulk"))
    assert one.id == other.id == "1-0"
    assert one.source != other.source
