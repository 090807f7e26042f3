"""All keys of a namespace share one hash tag."""

import pytest
from abstream.schemas import Streams
from abstream.schemas.streams import DEDUPE_WINDOW_SECONDS


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
