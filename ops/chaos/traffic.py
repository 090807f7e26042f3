"""The two ends of the streams: a publisher that does not give up, and a subscriber that watches."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from random import Random
from types import TracebackType

from ...consumer.tasks import end
from ...producer import Publisher, Subscriber
from ...producer.defaults import MAX_BACKLOG
from ...producer.subscriber import BEGINNING
from ...schemas import Abstract, AbstractClassified, AbstractRefused, Event, Lane, Shards, Unavailable
from ...schemas.streams import Output
from .ledger import Ledger
from .waiting import until, within

Submission = tuple[str, Abstract]

WORDS = 180  # of an abstract
CHUNK = 25  # submissions in a round trip
# Enough that no worker ever waits for work, few enough that faults fall into the middle of it.
MOST_UNANSWERED = 3_000
_OF_THE_SENDER = frozenset({"undecodable", "invalid", "too_large"})  # reasons of refusals
_LONGEST_WAIT_SECONDS = 120  # for answers; then the rest is sent all the same
_PAUSE_SECONDS = 0.05
_WORDS = (
    "patients tumour cells randomised trial chemotherapy placebo median survival surgery expression receptor tissue "
    "sample response therapy control group difference blood pressure cardiac function glucose months cohort protein"
)


def abstracts(count: int, random: Random, length: int = WORDS, kind: str = "abstract") -> Iterator[Submission]:
    """Submissions of a given number of words, by default about 1.7 kB like a long abstract; all different."""
    words = _WORDS.split()
    for number in range(count):
        text = " ".join(random.choices(words, k=length))
        yield f"{kind}-{number}", Abstract(title=f"Abstract {number}", abstract=text)


class Watch:
    """A live subscriber to predictions and refusals.

    Attributes:
        seen: how often each submission was seen to be answered or refused.
        seen_of_shard: how many results were seen of each shard.
        reasons: of the refusals seen.
        longest_gap_seconds: the longest time without a result since ``begin``.
        slowest_seconds: from submission to answer, of the slowest since then, by the kind of submission.
    """

    def __init__(self, url: str, names: Shards, *, forgets: bool = False) -> None:
        """
        Args:
            url: of Redis.
            names: of the streams.
            forgets: whether Redis may lose what it has published, in a fail-over; then a result that is given again
                is known by its event id, and counts once.
        """
        self._url = url
        self._names = names
        self._forgets = forgets
        self._events: dict[str, str] = {}  # event id -> submission
        self.seen_of_shard: Counter[int] = Counter()
        self.seen: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.last_result_at = time.monotonic()
        self.longest_gap_seconds = 0.0
        self.slowest_seconds: dict[str, float] = {}

    async def __aenter__(self) -> "Watch":
        outputs: tuple[Output, ...] = ("predictions", "refusals")
        self._readers = [asyncio.create_task(self._read(output)) for output in outputs]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await end(self._readers)

    def begin(self) -> None:
        """Measure from now."""
        self.last_result_at = time.monotonic()
        self.longest_gap_seconds = 0.0
        self.slowest_seconds.clear()

    async def unsee(self, standing: Callable[[], Awaitable[set[str]]]) -> int:
        """Forget having seen results that are gone; returns how many.

        Args:
            standing: reads the event ids of those that are there.
        """
        before = list(self._events)  # what comes from now on may not have been read, and is there
        there = await standing()
        gone = [event_id for event_id in before if event_id not in there]
        self.seen -= Counter(self._events.pop(event_id) for event_id in gone)
        return len(gone)

    async def _read(self, output: Output) -> None:
        since = BEGINNING
        names = self._names
        async with Subscriber(self._url, namespace=names.namespace, shards=names.count) as subscriber:
            while True:
                try:
                    async for entry_id, event in subscriber.events(output, since):
                        since = entry_id
                        self._note(event)
                except Unavailable:
                    await asyncio.sleep(_PAUSE_SECONDS)

    def _note(self, event: Event) -> None:
        submission = submission_of(event)
        if self._forgets and event.id in self._events:
            return
        self._events[event.id] = submission
        self.seen[submission] += 1
        self.seen_of_shard[self._names.of(submission)] += 1
        now = time.monotonic()
        self.longest_gap_seconds = max(self.longest_gap_seconds, now - self.last_result_at)
        self.last_result_at = now
        if isinstance(event, AbstractClassified):
            kind = submission.rpartition("-")[0]
            self.slowest_seconds[kind] = max(self.slowest_seconds.get(kind, 0), event.data.timing.total_ms / 1000)
        elif isinstance(event, AbstractRefused):
            self.reasons[event.data.reason] += 1


class Load:
    """Sends submissions, repeats each until it is accepted, and stays close to the answers.

    Attributes:
        most_unanswered: how far it goes ahead of the answers.
        max_backlog: how many of a lane may wait in Redis.
        wait_replicas: how many replicas of Redis must have what counts as accepted.
        sent: submissions that were accepted, also those that were known.
        repeated: how often Redis did not say that it has them.
    """

    def __init__(self, url: str, names: Shards, ledger: Ledger, watch: Watch) -> None:
        self._url = url
        self._names = names
        self._ledger = ledger
        self._watch = watch
        self.most_unanswered = MOST_UNANSWERED
        self.max_backlog: int | None = MAX_BACKLOG
        self.wait_replicas = 0
        self.sent = 0
        self.repeated = 0

    async def send(self, submissions: Iterable[Submission], lane: Lane = "interactive") -> None:
        """Return when all are accepted."""
        left = iter(submissions)
        async with self._publisher() as publisher:
            while chunk := list(islice(left, CHUNK)):
                await until(self._has_room, within(_LONGEST_WAIT_SECONDS))
                await self._send(publisher, chunk, lane)

    def _publisher(self) -> Publisher:
        return Publisher(
            self._url,
            namespace=self._names.namespace,
            shards=self._names.count,
            source="urn:abstream:chaos",
            max_backlog=self.max_backlog,
            wait_replicas=self.wait_replicas,
        )

    def _has_room(self) -> bool:
        return len(self._ledger.accepted) - len(self._watch.seen) < self.most_unanswered

    async def _send(self, publisher: Publisher, chunk: list[Submission], lane: Lane) -> None:
        self._ledger.offered.update(id_ for id_, _ in chunk)
        while True:
            try:
                await publisher.publish_many(chunk, lane=lane)
            except Unavailable:
                self.repeated += 1
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                self._ledger.accept(id_ for id_, _ in chunk)
                self.sent += len(chunk)
                return


def submission_of(event: Event) -> str:
    """The id of the submission that a result answers; its entry id where that was no abstract: ids may repeat."""
    if isinstance(event, AbstractRefused) and event.data.reason in _OF_THE_SENDER:
        return event.sequence or ""
    return event.causationid or event.sequence or ""
