"""The promise, for any order of events: every accepted abstract ends exactly once, as a result or as a refusal.

Hypothesis lets workers read, reclaim, renew, release, commit, commit again, die and come late, lets others send the
same twice, trim and delete, and compares Redis after every step with a model that knows what must be there.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from itertools import count
from typing import NamedTuple

import pytest
from abstream.consumer.stages import Outcome
from abstream.schemas import Streams
from abstream.schemas.streams import DEDUPE_WINDOW_SECONDS, GROUP, LANES
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis
from redis.exceptions import ResponseError

MAX_DELIVERIES = 3
BATCH_BYTES = 1 << 20
MANY = 1 << 53
RUN_OUT, RUNNING = 0, 1_800_000  # lease times in ms: all have expired, or only those of entries handed back
HANDED_BACK = 3_600_000
FIRST_DAY = 20_000

SCRIPTS = {
    name: (files("abstream.consumer.scripts") / f"{name}.lua").read_text()
    for name in ("reclaim", "extend", "release", "commit")
}

IDENTITIES = ("ann", "bob")
WORKERS = ("one", "two", "three")
LANE = st.sampled_from([0, 1])
PREDICTIONS, REFUSALS = 3, 4  # the keys of commit.lua

Place = tuple[int, str]
"""Lane and entry id, which locate an abstract."""


class Held(NamedTuple):
    """An entry that a worker holds; ``text`` is None where the entry was trimmed."""

    place: Place
    text: str | None
    attempt: int


class Answer(NamedTuple):
    """What a worker wants to publish; ``identity`` is the abstract's, or '' where it cannot be read."""

    place: Place
    output: int
    identity: str


@dataclass
class Pending:
    """The group's record of an entry that was delivered and not acknowledged."""

    owner: str
    deliveries: int
    handed_back: bool = False


class Shard:
    """The scripts, called with the arguments that ``Source`` and ``Sink`` pass."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        self.redis = redis
        self.streams = Streams(namespace)
        self.lanes = [self.streams.lane(lane) for lane in LANES]
        self.day = FIRST_DAY
        self.scripts = {name: redis.register_script(source) for name, source in SCRIPTS.items()}

    @property
    def commit_keys(self) -> list[str]:
        seen = self.streams.seen(self.day * DEDUPE_WINDOW_SECONDS)
        return [*self.lanes, self.streams.predictions, self.streams.refusals, *seen]

    def create_group(self, lane: int) -> None:
        self.redis.xgroup_create(self.lanes[lane], GROUP, id="0", mkstream=True)

    def read(self, lane: int, worker: str, most: int) -> list:
        replies = self.redis.xreadgroup(GROUP, worker, {self.lanes[lane]: ">"}, count=most)
        return [entry for _, entries in replies for entry in entries]

    def call(self, name: str, lane: int, worker: str, *arguments: object) -> list:
        return self.scripts[name]([self.lanes[lane]], [GROUP, worker, *arguments])

    def commit(self, answers: Iterable[Answer]) -> list[Outcome]:
        arguments = [
            value
            for (lane, entry), output, identity in answers
            for value in (lane + 1, entry, output, identity, f"{lane} {entry} {identity}")
        ]
        codes = self.scripts["commit"](self.commit_keys, [GROUP, 2 * DEDUPE_WINDOW_SECONDS, *arguments])
        return [Outcome(code) for code in codes]

    def output(self, key: int) -> list[str]:
        """All that was published to the stream of ``key``, in order."""
        return [fields[b"event"].decode() for _, fields in self.redis.xrange(self.commit_keys[key - 1])]

    def pending(self, lane: int) -> dict[str, tuple[str, int]]:
        held = self.redis.xpending_range(self.lanes[lane], GROUP, "-", "+", 1_000)
        return {entry["message_id"].decode(): (entry["consumer"].decode(), entry["times_delivered"]) for entry in held}

    def forget(self) -> None:
        self.redis.delete(*self.redis.keys(f"{self.lanes[0].split('}')[0]}}}:*"))


class Promise(RuleBasedStateMachine):
    """The rules are what may happen in Redis; all fields but ``shard`` are the model of what must follow."""

    def __init__(self, shard: Shard) -> None:
        super().__init__()
        self.shard = shard
        self.texts: dict[Place, str] = {}  # all that was accepted: its identity, or '' if it must be refused
        self.unread: dict[int, list[str]] = {0: [], 1: []}
        self.trimmed: set[Place] = set()
        self.beyond_knowledge: set[Place] = set()  # trimmed before the group that knew of it was deleted
        self.pending: dict[Place, Pending] = {}
        self.hands: dict[str, dict[Place, Held]] = {worker: {} for worker in WORKERS}
        self.last_commit: dict[str, list[Answer]] = {}
        self.seen: set[str] = set()
        self.refused: set[Place] = set()
        self.group_was_deleted = False
        self.published: dict[int, list[str]] = defaultdict(list)

    @initialize()
    def create_groups(self) -> None:
        for lane in (0, 1):
            self.shard.create_group(lane)

    # What publishers do.

    @rule(lane=LANE, identities=st.lists(st.sampled_from([*IDENTITIES, ""]), min_size=1, max_size=4))
    def publish(self, lane: int, identities: list[str]) -> None:
        """Identities may repeat; '' stands for a malformed abstract."""
        for identity in identities:
            entry = self.shard.redis.xadd(self.shard.lanes[lane], {"title": identity or "malformed"}).decode()
            self.texts[lane, entry] = identity
            self.unread[lane].append(entry)

    # What workers do.

    @precondition(lambda self: any(self.unread.values()))
    @rule(worker=st.sampled_from(WORKERS), lane=LANE, most=st.integers(1, 4))
    def read(self, worker: str, lane: int, most: int) -> None:
        found = self.shard.read(lane, worker, most)
        expected, self.unread[lane] = self.unread[lane][:most], self.unread[lane][most:]
        assert [entry.decode() for entry, _ in found] == expected
        for entry in expected:
            self._take(worker, (lane, entry), 1)

    @precondition(lambda self: self.pending)
    @rule(
        worker=st.sampled_from(WORKERS),
        lane=LANE,
        lease=st.sampled_from([RUN_OUT, RUNNING]),
        most=st.integers(1, 4),
        deliveries=st.sampled_from([(0, MANY), (0, 1), (2, 2), (3, MANY)]),
    )
    def reclaim(self, worker: str, lane: int, lease: int, most: int, deliveries: tuple[int, int]) -> None:
        found = self.shard.call("reclaim", lane, worker, lease, most, BATCH_BYTES, *deliveries)
        free = [
            place
            for place, held in sorted(self.pending.items(), key=lambda item: _order(item[0]))
            if place[0] == lane
            and (lease == RUN_OUT or held.handed_back)
            and deliveries[0] <= held.deliveries <= deliveries[1]
        ]
        assert [(lane, entry.decode()) for entry, *_ in found] == free[:most]
        for (_, before, owner, fields), place in zip(found, free, strict=False):
            assert (owner.decode(), before) == (self.pending[place].owner, self.pending[place].deliveries)
            assert (fields is None) == (place in self.trimmed)
            self._take(worker, place, before + 1)

    @precondition(lambda self: any(self.hands.values()))
    @rule(data=st.data())
    def renew_leases(self, data: st.DataObject) -> None:
        """A worker learns which entries are no longer its own."""
        worker = self._one_with_work(data)
        for lane in (0, 1):
            entries = [entry for at, entry in self.hands[worker] if at == lane]
            lost = self.shard.call("extend", lane, worker, *entries)
            assert {entry.decode() for entry in lost} == {
                entry for entry in entries if not self._is_owner(worker, (lane, entry))
            }
            for entry in entries:
                if self._is_owner(worker, (lane, entry)) and (lane, entry) not in self.trimmed:
                    self.pending[lane, entry].handed_back = False

    @precondition(lambda self: any(self.hands.values()))
    @rule(data=st.data(), forget=st.sampled_from([0, 1]))
    def release(self, data: st.DataObject, forget: int) -> None:
        """A drained worker hands back all it holds; suspected entries keep their delivery count."""
        worker = self._one_with_work(data)
        for lane in (0, 1):
            places = [place for place in self.hands[worker] if place[0] == lane]
            released = self.shard.call("release", lane, worker, HANDED_BACK, forget, *(entry for _, entry in places))
            still_there = [place for place in places if self._is_owner(worker, place) and place not in self.trimmed]
            assert released == len(still_there)
            for place in still_there:
                self.pending[place].deliveries -= forget
                self.pending[place].handed_back = True
        self.hands[worker] = {}

    @precondition(lambda self: any(self.hands.values()))
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Commit some of what a worker holds, even if another has taken it over or committed it first."""
        worker = self._one_with_work(data)
        places = data.draw(st.lists(st.sampled_from(sorted(self.hands[worker])), min_size=1, unique=True))
        self.last_commit[worker] = [_answer(self.hands[worker][place]) for place in places]
        self._commit(self.last_commit[worker])
        for place in places:
            del self.hands[worker][place]

    @precondition(lambda self: self.last_commit)
    @rule(data=st.data())
    def commit_again(self, data: st.DataObject) -> None:
        """Commit again, as after a lost reply."""
        self._commit(self.last_commit[data.draw(st.sampled_from(sorted(self.last_commit)))])

    @precondition(lambda self: any(self.hands.values()))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """The worker comes back under the same name, holding nothing."""
        worker = self._one_with_work(data)
        self.hands[worker] = {}
        self.last_commit.pop(worker, None)

    # What others do.

    @precondition(lambda self: self.pending)
    @rule(lane=LANE, keep=st.integers(0, 2))
    def trim(self, lane: int, keep: int) -> None:
        """Trim entries that workers hold, but no unread ones, of which no group would ever know."""
        keep = max(keep, len(self.unread[lane]))
        self.shard.redis.xtrim(self.shard.lanes[lane], maxlen=keep, approximate=False)
        left = {(lane, entry.decode()) for entry, _ in self.shard.redis.xrange(self.shard.lanes[lane])}
        self.trimmed |= {place for place in self.texts if place[0] == lane} - left

    @precondition(lambda self: self.pending and not self.group_was_deleted)
    @rule(lane=LANE)
    def delete_group(self, lane: int) -> None:
        """A worker creates the group again, from the beginning of the stream."""
        self.group_was_deleted = True  # once only: more would leave little for the other rules
        self.shard.redis.xgroup_destroy(self.shard.lanes[lane], GROUP)
        with pytest.raises(ResponseError, match="NOGROUP"):
            self.shard.read(lane, WORKERS[0], 1)
        self.shard.create_group(lane)
        forgotten = {place for place in self.pending if place[0] == lane}
        self.beyond_knowledge |= forgotten & self.trimmed
        self.pending = {place: held for place, held in self.pending.items() if place not in forgotten}
        self.unread[lane] = [entry for at, entry in self.texts if at == lane and (at, entry) not in self.trimmed]

    @precondition(lambda self: self.seen and self.shard.day == FIRST_DAY)
    @rule()
    def midnight(self) -> None:
        """The dedupe window moves on; identities of the previous one are still known."""
        self.shard.day += 1

    @precondition(lambda self: self.shard.day > FIRST_DAY)
    @rule()
    def clock_that_is_slow(self) -> None:
        """For the worker that commits next it is still the day before; identities seen since midnight are known."""
        self.shard.day -= 1

    # What must be so.

    @invariant()
    def exactly_what_was_committed_is_published(self) -> None:
        for output in (PREDICTIONS, REFUSALS):
            assert self.shard.output(output) == self.published[output]

    @invariant()
    def the_group_knows_who_holds_what_and_how_often_it_was_delivered(self) -> None:
        for lane in (0, 1):
            assert self.shard.pending(lane) == {
                entry: (held.owner, held.deliveries) for (at, entry), held in self.pending.items() if at == lane
            }

    def teardown(self) -> None:
        """All workers die and one more answers what is left; then every abstract has ended once."""
        try:
            self.answer_what_is_left()
            self.everything_ended_once()
        finally:
            self.shard.forget()

    def answer_what_is_left(self) -> None:
        for lane in (0, 1):
            self.read("one", lane, 1_000)
            self.reclaim("one", lane, RUN_OUT, 1_000, (0, MANY))
        self._commit(_answer(held) for held in self.hands["one"].values())
        assert not self.pending

    def everything_ended_once(self) -> None:
        results = [said.split(" ")[2] for said in self.shard.output(PREDICTIONS)]
        assert len(results) == len(set(results)), "an identity was answered twice"
        refused = [tuple(said.split(" ")[:2]) for said in self.shard.output(REFUSALS)]
        assert len(refused) == len(set(refused)), "an entry was refused twice"
        readable = {tuple(said.split(" ")[:2]) for said in self.shard.output(REFUSALS) if said.split(" ")[2]}
        answered = {tuple(said.split(" ")[:2]) for said in self.shard.output(PREDICTIONS)}
        assert not answered & readable, "an entry was answered and refused"
        for (lane, entry), identity in self.texts.items():
            ended = (str(lane), entry) in refused or (identity and identity in results)
            assert ended or (lane, entry) in self.beyond_knowledge, "an abstract was lost"

    def _take(self, worker: str, place: Place, attempt: int) -> None:
        trimmed = place in self.trimmed
        if not (trimmed and place in self.pending):  # a trimmed entry stays pending for its owner
            self.pending[place] = Pending(worker, attempt)
        self.hands[worker][place] = Held(place, None if trimmed else self.texts[place], attempt)

    def _one_with_work(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([worker for worker, hand in self.hands.items() if hand]))

    def _is_owner(self, worker: str, place: Place) -> bool:
        return place in self.pending and self.pending[place].owner == worker

    def _commit(self, answers: Iterable[Answer]) -> None:
        answers = list(answers)
        assert self.shard.commit(answers) == [self._expect(answer) for answer in answers]

    def _expect(self, answer: Answer) -> Outcome:
        """The outcome the model expects: the first commit of a pending entry wins, and an identity has one result."""
        if self.pending.pop(answer.place, None) is None:
            return Outcome.LOST
        if answer.place in self.refused or answer.identity in self.seen:
            return Outcome.DUPLICATE
        if answer.output == REFUSALS:
            self.refused.add(answer.place)
        else:
            self.seen.add(answer.identity)
        lane, entry = answer.place
        self.published[answer.output].append(f"{lane} {entry} {answer.identity}")
        return Outcome.PUBLISHED


def _answer(held: Held) -> Answer:
    """The answer that ``Worker.admit`` would lead to."""
    sound = held.text and held.attempt <= MAX_DELIVERIES
    return Answer(held.place, PREDICTIONS if sound else REFUSALS, held.text or "")


def _order(place: Place) -> tuple[int, ...]:
    return tuple(map(int, place[1].split("-")))


def try_the_promise(server: str, namespace: str, *phases: Phase) -> None:
    """Run the state machine; raises AssertionError with the order of events that broke the promise."""
    runs = count()
    with Redis.from_url(server) as redis:
        run_state_machine_as_test(
            lambda: Promise(Shard(redis, f"{namespace}-{next(runs)}")),
            settings=settings(
                max_examples=120,
                stateful_step_count=40,
                derandomize=True,  # the same examples everywhere
                database=None,
                deadline=None,
                phases=phases,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_whatever_happens_every_abstract_ends_exactly_once(server, namespace):
    try_the_promise(server, namespace, Phase.generate, Phase.shrink)
