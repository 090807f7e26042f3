"""The streams of a namespace with several shards, and the shard of each abstract."""

import pytest
from abstream.schemas import Shards, Streams

CRC32_OF_123456789 = 0xCBF43926  # the check value in its definition


def test_a_single_shard_is_the_namespace_as_it_always_was():
    assert Shards("here").all == (Streams("here"),)
    assert Shards("here").of("any") == 0


def test_each_of_several_has_a_tag_of_its_own_and_adapters_are_beside_them():
    shards = Shards("here", 3)
    assert [streams.predictions for streams in shards.all] == [f"{{here:{number}}}:predictions" for number in range(3)]
    assert shards.control.output("adapters") == "{here}:adapters"


@pytest.mark.parametrize("count", [2, 3, 7, 1024])
def test_a_publisher_in_any_language_finds_the_shard(count):
    assert Shards("here", count).of("123456789") == CRC32_OF_123456789 % count


def test_an_id_is_hashed_as_utf8_whatever_it_holds():
    assert {Shards("here", 4).of(name) for name in ("", "é", "漢字", "\ud800")} <= set(range(4))


@pytest.mark.parametrize(("namespace", "count"), [("here", 0), ("here", 1025), ("no spaces", 1), ("x" * 64, 2)])
def test_what_is_no_name_or_no_number_is_said_at_once(namespace, count):
    with pytest.raises(ValueError, match="use 1 to"):
        Shards(namespace, count)
