"""Which adapter a sequence of announcements puts in service."""

from datetime import datetime, timedelta, timezone

import pytest
from abstream.consumer.adapters.history import find, in_service, one_before
from abstream.consumer.adapters.rollback import rollback
from abstream.schemas import AdapterRefused, AdapterUpdated
from abstream.schemas.announced import Announced, Order
from abstream.training.release import describe

NOON = datetime(2026, 11, 25, 12, tzinfo=timezone.utc)
ENTERED = int((NOON + timedelta(hours=1)).timestamp() * 1000)


@pytest.fixture
def announce(make_adapter):
    """A function that announces versions: ``b`` activates b, ``<a`` rolls back to a, ``?b`` shadows b."""
    updates = {}

    def announced(number: int, said: str) -> Announced:
        version = said.strip("<?")
        if version not in updates:
            updates[version] = describe(make_adapter(version), None, "activate")
        action = {"<": "rollback", "?": "shadow"}.get(said[0], "activate")
        data = updates[version].model_copy(update={"action": action})
        event = AdapterUpdated(id=str(number), source="test", time=NOON + timedelta(seconds=number), data=data)
        return Announced(f"{ENTERED}-{number}", event)

    return lambda *said: [announced(number, one) for number, one in enumerate(said, 1)]


def versions(history) -> str:
    return " ".join(one.update.version for one in history)


@pytest.mark.parametrize(
    ("said", "served"),
    [
        ("", ""),
        ("a b c", "a b c"),
        ("a a b", "a b"),
        ("a b ?c", "a b"),
        ("a b <a", "a"),
        ("a b c <a", "a"),
        ("a b <a c", "a c"),
        ("a b <a b", "a b"),
        ("a b a", "a b a"),
        ("<a", "a"),
        ("b <a", "a"),
    ],
)
def test_an_adapter_that_was_rolled_back_is_no_longer_in_service(announce, said, served):
    assert versions(in_service(announce(*said.split()))) == served


def test_the_newest_announcement_of_an_adapter_counts(announce):
    history = announce("a", "b", "<a")
    assert in_service(history) == [history[2]]


def test_rolling_back_twice_goes_back_twice(announce):
    history = announce("a", "b", "c")
    served = {one.update.digest for one in history}
    assert one_before(history, served).update.version == "b"
    assert one_before(announce("a", "b", "c", "<b"), served).update.version == "a"


def test_an_adapter_that_no_worker_would_serve_is_skipped(announce):
    a, b, c = announce("a", "b", "c")
    assert one_before([a, b, c], {a.update.digest, c.update.digest}) == a
    with pytest.raises(AdapterRefused, match="name one with --to"):
        one_before([a, b, c], {c.update.digest})


def test_after_the_first_release_there_is_nothing_to_roll_back_to(announce):
    [first] = announce("a")
    with pytest.raises(AdapterRefused, match="no other adapter was announced before this one: release"):
        one_before([first], {first.update.digest})


def test_an_adapter_is_found_by_its_version_and_by_its_digest(announce):
    history = announce("a", "b")
    digest = history[0].update.digest
    assert find(history, "b") == history[1]
    for name in (digest, digest[:12], digest.removeprefix("sha256:")):
        assert find(history, name) == history[0]


def test_an_unknown_or_ambiguous_name_is_refused(announce):
    history = announce("a", "b")
    with pytest.raises(AdapterRefused, match="no adapter 7 has been announced"):
        find(history, "7")
    with pytest.raises(AdapterRefused, match="2 adapters match"):
        find(history, "sha256:")


def test_a_replayed_event_is_recognised(announce):
    order = Order()
    first, second = announce("a", "b")
    assert [order.objection(one) for one in (first, second)] == [None, None]
    assert "was announced before" in order.objection(first)


def test_an_event_older_than_the_last_is_recognised(announce):
    order = Order()
    first, second = announce("a", "b")
    assert order.objection(second) is None
    assert "older than one that was announced before it" in order.objection(first)


def test_two_events_of_the_same_moment_are_both_followed(announce):
    order = Order()
    first, second = announce("a", "b")
    second = Announced(second.entry_id, second.event.model_copy(update={"time": first.event.time}))
    assert [order.objection(one) for one in (first, second)] == [None, None]


def test_an_event_without_a_time_does_not_let_older_ones_pass(announce):
    order = Order()
    old, new, timeless = announce("a", "b", "c")
    timeless = Announced(timeless.entry_id, timeless.event.model_copy(update={"time": None}))
    assert [order.objection(one) for one in (new, timeless)] == [None, None]
    assert "older than one that was announced before it" in order.objection(old)


def test_a_clock_that_is_ahead_does_not_block_later_releases(announce):
    ahead, right = announce("a", "b")
    ahead = Announced(ahead.entry_id, ahead.event.model_copy(update={"time": NOON + timedelta(days=365)}))
    later = Announced(
        f"{ENTERED + 1_000}-0", right.event.model_copy(update={"time": NOON + timedelta(hours=1, seconds=1)})
    )
    order = Order()
    assert [order.objection(ahead), order.objection(later)] == [None, None]


def test_a_rollback_is_never_older_than_what_it_rolls_back(announce):
    a, b = announce("a", "b")
    ahead = b.event.model_copy(update={"time": datetime.now(timezone.utc) + timedelta(hours=1)})
    event = rollback(a, Announced(b.entry_id, ahead), "bad", "test")
    assert event.time == ahead.time
    assert (event.data.action, event.data.reason, event.data.digest) == ("rollback", "bad", a.update.digest)
    assert event.causationid == "2"
