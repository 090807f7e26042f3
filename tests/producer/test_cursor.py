"""The position of a reader in several shards."""

from datetime import datetime, timezone

import pytest
from abstream.producer.cursor import join, oldest, parse, place_before, split, write
from abstream.schemas import AbstreamError


def test_with_one_shard_it_is_an_entry_id():
    assert split("1700000000000-3", 1) == ["1700000000000-3"]
    assert join(["1700000000000-3"]) == "1700000000000-3"


def test_with_several_it_is_one_id_of_each_and_one_alone_is_of_all():
    assert split("5-0,7-1,0-0", 3) == ["5-0", "7-1", "0-0"]
    assert split("5", 3) == ["5", "5", "5"]
    assert write(parse("5-0,7,0", 3)) == "5-0,7-0,0-0"


def test_a_place_in_other_shards_is_none_in_these():
    with pytest.raises(AbstreamError, match="is for 3 shards, and --shards is 4"):
        split("1-0,2-0,3-0", 4)


@pytest.mark.parametrize("cursor", ["yesterday", "", "5-", "5-0,", "-1", "5-0-0"])
def test_what_is_no_entry_id_is_an_error_that_says_what_one_is(cursor):
    with pytest.raises(AbstreamError, match="is no position: give an entry id such as 1700000000000-0"):
        split(cursor, 1)


def test_pages_of_several_shards_become_one_by_age():
    first, second = [(b"9-0", {}), (b"10-1", {})], [(b"8-0", {}), (b"10-0", {}), (b"11-0", {})]
    assert [(shard, entry_id) for shard, (entry_id, _) in oldest([first, second], 4)] == [
        (1, b"8-0"),
        (0, b"9-0"),
        (1, b"10-0"),
        (0, b"10-1"),
    ]


def test_what_was_added_at_a_moment_comes_after_the_place_before_it():
    moment = datetime.fromtimestamp(1_700_000_000, timezone.utc)
    assert parse(place_before(moment), 1)[0] < (1_700_000_000_000, 0)
    assert place_before(datetime(1960, 1, 1, tzinfo=timezone.utc)) == "0", "there are no ids before 1970"
