"""The benchmark of the gateway: what it counts as lost, and a small run of the whole benchmark."""

import pytest
from abstream.ops.bench.followers import Follower, Submitter
from abstream.ops.bench.gateway import Load, Seen, is_whole, measure, summary, table
from abstream.producer.gateway.entries import Entry
from abstream.producer.gateway.tail import BEGIN_PACKED, as_sent, packed

IDS = [b"1-0", b"1-1", b"2-0"]


def follower(*ids: bytes, pack: bool = True, piece: int = 1 << 16) -> Follower:
    """A follower that was sent these events, in pieces of ``piece`` bytes."""
    found = Follower("http://127.0.0.1:1", packed=pack, timed=False)
    chunks = [as_sent(one.decode(), Entry("predictions", one.decode(), {}, b"{}")) for one in ids]
    chunks = [BEGIN_PACKED + packed(b""), *map(packed, chunks)] if pack else chunks
    sent = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    for begin in range(0, len(sent), piece):
        part = sent[begin : begin + piece]
        found.get_buffer(0)[: len(part)] = part
        found.buffer_updated(len(part))
    return found


def counted(*followers: Follower, taken: int = 3) -> dict:
    submitter = Submitter("http://127.0.0.1:1")
    submitter.taken = taken
    return {"rate": 3, "seconds": 1, **summary(Seen([*followers], [submitter], 1.0, 0.0), IDS)}


@pytest.mark.parametrize("pack", [True, False])
def test_a_run_is_whole_if_every_follower_got_every_event_in_order_in_pieces_of_any_size(pack):
    found = counted(*(follower(*IDS, pack=pack, piece=piece) for piece in (1, 7, 1 << 16)))
    assert (found["delivered"], is_whole(found)) == (9, True)


@pytest.mark.parametrize(
    ("got", "what"), [(IDS[:2], "missing"), ([*IDS, IDS[2]], "doubled"), (IDS[::-1], "disordered")]
)
def test_missing_doubled_and_disordered_events_are_detected(got, what):
    found = counted(follower(*IDS), follower(*got))
    assert (found[what], is_whole(found)) == (1, False)


def test_an_abstract_that_was_not_taken_or_not_answered_is_detected():
    assert not is_whole(counted(follower(*IDS), taken=2))
    assert not is_whole(counted(follower(*IDS), taken=4))


def test_a_small_run_loses_nothing_although_some_followers_are_cut_off(server):
    found = measure(server, Load(subscribers=20, rate=50, seconds=1, cuts=10, packed=True), say=print)
    assert is_whole(found)
    assert (found["taken"], found["delivered"], found["resumed"]) == (50, 1_000, 10)
    assert "| missing | 0 |" in list(table(found))
