"""A shadow candidate scores in idle time what the live adapter answered, and publishes only a summary."""

import asyncio
import random
import threading
from itertools import cycle
from types import SimpleNamespace

import pytest
from abstream import Abstract
from abstream.consumer.adapters.comparison import Comparison
from abstream.consumer.adapters.shadow import MOST_AT_ONCE, MOST_WAITING, Shadow
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.engine.scoring import score
from abstream.consumer.stages import Inferred, Job, Predicted
from abstream.consumer.tasks import end
from abstream.schemas import ONCOLOGY, AdapterActivated, AdapterRejected, AdapterShadowed
from abstream.schemas.events import ShadowSummary
from abstream.schemas.streams import from_fields
from abstream.training.release import describe, release

from ...conftest import numbered, wait_until
from .conftest import fleet_events


def scored(label: str, confidence: float) -> dict:
    return {"label": label, "confidence": confidence, "probabilities": {}}


def test_a_comparison_counts_flips_and_the_shift_of_confidence():
    seen = Comparison()
    same = seen.add({"cancer": scored("Cancer", 0.5)}, {"cancer": scored("Cancer", 0.75)})
    typed = {"cancer": scored("Cancer", 0.5), "cancer_type": scored("lung", 0.5)}
    flipped = seen.add(typed, {"cancer": scored("Non-Cancer", 0.75)})

    assert (same, flipped, seen.abstracts, seen.changed) == (False, True, 2, 1)
    assert seen.summary().keys() == {"cancer"}, "only one of them was asked for the type"
    cancer = seen.summary()["cancer"]
    assert (cancer.n, cancer.same, cancer.confidence_shift) == (2, 1, 0.25)
    assert cancer.flips == {"Cancer": {"Non-Cancer": 1}}


def shadowed(worker, result: str = "scored") -> float:
    return worker.metrics.registry.get_sample_value("abstream_shadow_abstracts_total", {"result": result}) or 0


async def test_a_candidate_scores_every_abstract_and_publishes_only_a_summary(
    redis, streams, publisher, workers, make_adapter, store
):
    live, candidate, next_one = (make_adapter(version) for version in "123")
    await release(redis, streams, live.path, store)
    async with workers.following() as worker:
        await release(redis, streams, candidate.path, store, action="shadow")
        await wait_until(lambda: redis.xpending(streams.lane("interactive"), "classifiers"))
        await wait_until(lambda: _is_shadowed(worker))
        await publisher.publish_many(numbered(*range(100)))
        await wait_until(lambda: shadowed(worker) == 100, "the shadow")
        await release(redis, streams, next_one.path, store)
        await wait_until(lambda: worker.engine.model.receipt.adapter_digest == next_one.digest)

    assert await redis.xlen(streams.predictions) == 100
    results = [from_fields(fields) for _, fields in await redis.xrange(streams.predictions)]
    assert {result.data.model.adapter_digest for result in results} == {live.digest}
    [running, last] = await fleet_events(redis, streams, AdapterShadowed)
    assert (running.data.ended, last.data.ended) == (False, True)
    summary = last.data
    assert (summary.digest, summary.live_digest, summary.abstracts) == (candidate.digest, live.digest, 100)
    expected = _compared(live, candidate)
    assert summary.changed == expected.changed > 0
    assert summary.questions["cancer"].flips == expected.summary()["cancer"].flips
    assert len(await fleet_events(redis, streams, AdapterActivated)) == 2
    assert _counted(worker) == {name: one.flips for name, one in expected.summary().items()}


def _is_shadowed(worker) -> bool:
    return any(
        observer.__self__._candidate for observer in worker.observers if hasattr(observer.__self__, "_candidate")
    )


def _counted(worker) -> dict[str, dict[str, dict[str, float]]]:
    """The metric of differing answers: question -> live label -> candidate's label -> count."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for family in worker.metrics.registry.collect():
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "abstream_shadow_answers_total" and labels["live"] != labels["shadow"]:
                found.setdefault(labels["question"], {}).setdefault(labels["live"], {})[labels["shadow"]] = sample.value
    return found


def _compared(live, candidate) -> Comparison:
    seen, engines = Comparison(), (FakeEngine(adapter=live), FakeEngine(adapter=candidate))
    for number in range(100):
        abstract = Abstract(title=f"Abstract {number}", abstract="")
        rows = [score(one.model, one.classify([one.encode(abstract)]).logits[0])[0] for one in engines]
        seen.add(*rows)
    return seen


async def test_a_live_batch_waits_for_at_most_one_small_shadow_batch(
    redis, streams, publisher, workers, make_adapter, store
):
    """Jobs that are ready are computed before the next shadow batch."""
    order, at_work, go_on = [], threading.Event(), threading.Event()

    class Watched(FakeEngine):
        def classify(self, batch):
            version = self.model.receipt.adapter_version
            order.append((version, len(batch)))
            if version == "2" and len(order) > 3:
                at_work.set()
                go_on.wait(30)
            return super().classify(batch)

    def load_engine(adapter):
        return Watched(adapter=adapter)

    await release(redis, streams, make_adapter("1", probes=()).path, store)
    async with workers.following(load_engine=load_engine) as worker:
        await release(redis, streams, make_adapter("2", probes=()).path, store, action="shadow")
        await wait_until(lambda: _is_shadowed(worker))
        order.clear()
        order += [("", 0)] * 3
        await publisher.publish_many(numbered(*range(20)))
        await wait_until(at_work.is_set, "a shadow batch")
        begun = len(order)
        await publisher.publish(Abstract(title="Urgent", abstract=""), id="urgent")
        await wait_until(worker.ready.busy, "the live batch")
        go_on.set()
        await wait_until(lambda: _answered(redis, streams, 21))
        await wait_until(lambda: shadowed(worker) == 21)

    assert order[begun][0] == "1", "the live batch was the next"
    assert max(size for version, size in order if version == "2") <= MOST_AT_ONCE


async def _answered(redis, streams, count: int) -> bool:
    return await redis.xlen(streams.predictions) >= count


async def test_a_failing_candidate_is_counted_and_the_live_adapter_stays_in_service(
    redis, streams, publisher, workers, make_adapter, store
):
    class Failing(FakeEngine):
        tries = 0

        def classify(self, batch):
            self.tries += 1
            if self.model.receipt.adapter_version == "2" and self.tries > 1:
                raise RuntimeError("no")
            return super().classify(batch)

    await release(redis, streams, make_adapter("1", probes=()).path, store)
    async with workers.following(load_engine=lambda adapter: Failing(adapter=adapter)) as worker:
        await release(redis, streams, make_adapter("2", probes=()).path, store, action="shadow")
        await wait_until(lambda: _is_shadowed(worker))
        await publisher.publish_many(numbered(*range(10)))
        await wait_until(lambda: shadowed(worker, "failed") == 10)

    assert await redis.xlen(streams.predictions) == 10
    assert worker.engine.model.receipt.adapter_version == "1"


async def test_a_candidate_that_hangs_is_dropped_and_no_live_abstract_is_blamed(
    redis, streams, publisher, workers, make_adapter, store
):
    hangs, go_on = threading.Event(), threading.Event()

    class Hanging(FakeEngine):
        tries = 0

        def classify(self, batch):
            self.tries += 1
            if self.model.receipt.adapter_version == "2" and self.tries > 1:
                hangs.set()
                go_on.wait(30)
            return super().classify(batch)

    def load_engine(adapter):
        return Hanging(adapter=adapter)

    await release(redis, streams, make_adapter("1", probes=()).path, store)
    async with workers.following(load_engine=load_engine, batch_deadline_seconds=1) as worker:
        await release(redis, streams, make_adapter("2", probes=()).path, store, action="shadow")
        await wait_until(lambda: _is_shadowed(worker))
        await publisher.publish_many(numbered(*range(1)))
        await wait_until(hangs.is_set, "the candidate")
        await publisher.publish(Abstract(title="Behind it", abstract=""), id="behind")
        await wait_until(lambda: _answered(redis, streams, 2), "the live batch behind it")
        await wait_until(lambda: fleet_events(redis, streams, AdapterRejected), "the candidate's rejection")
        assert not _is_shadowed(worker)
        go_on.set()

    [rejected] = await fleet_events(redis, streams, AdapterRejected)
    assert (rejected.data.version, rejected.data.reason) == ("2", "in the shadow, 1 abstracts took more than 1 s")
    results = [from_fields(fields) for _, fields in await redis.xrange(streams.predictions)]
    assert [result.data.attempt for result in results] == [1, 1]
    assert await redis.xlen(streams.refusals) == 0


async def test_a_corrupt_candidate_is_rejected(redis, streams, workers, make_adapter, store):
    bad = make_adapter("2", base_model={"id": "other", "revision": "7"})
    await release(redis, streams, make_adapter("1").path, store)
    await release(redis, streams, bad.path, store, action="shadow")
    worker = workers.new()
    await workers.registry(worker).catch_up()

    [rejected] = await fleet_events(redis, streams, AdapterRejected)
    assert "was trained on other" in rejected.data.reason
    assert worker.engine.model.receipt.adapter_version == "1"


class Candidate(FakeEngine):
    """Remembers which batches it was given and how often it was asked for tokens; it may fail on all of them."""

    def __init__(self, *, fails: bool = False, **options) -> None:
        super().__init__(**options)
        self.fails = fails
        self.batches = []
        self.encoded = 0

    def encode(self, abstract):
        self.encoded += 1
        return super().encode(abstract)

    def classify(self, batch):
        self.batches.append(batch)
        if self.fails:
            raise RuntimeError("no")
        return super().classify(batch)


class Beside:
    """A candidate in the shadow of an idle worker. It takes the place of the fleet, and keeps what it is told."""

    def __init__(self, worker, candidate: Candidate, update) -> None:
        self.worker, self.summaries = worker, []
        self.shadow = Shadow(worker, self, None)
        self.shadow.begin(SimpleNamespace(update=update), candidate)

    async def shadowed(self, _, summary: ShadowSummary) -> None:
        self.summaries.append(summary)

    def answer(self, *texts: str, engine: FakeEngine | None = None) -> None:
        """Offer abstracts that the live engine, unless told otherwise, has just answered."""
        engine = engine or self.worker.engine
        events = [Abstract(abstract=text) for text in texts]
        jobs = [Job(None, event, engine.encode(event), engine) for event in events]
        rows = engine.classify([job.tokens for job in jobs]).logits
        answers = [score(engine.model, row)[0] for row in rows]
        self.shadow.observe(Inferred(jobs, None, 0, 0), [Predicted(None, b"", b"", one, None, 0, 0) for one in answers])

    async def end(self, tried: int) -> ShadowSummary:
        """The last summary, after so many abstracts were tried."""
        idle = asyncio.create_task(self.worker.ready.next())
        running = asyncio.create_task(self.shadow.run())
        await wait_until(lambda: shadowed(self.worker) + shadowed(self.worker, "failed") >= tried, "the candidate")
        await end([running, idle])
        await self.shadow.end()
        return self.summaries[-1]


@pytest.fixture
def beside(workers, make_adapter):
    """A function that puts a candidate beside a worker with these knobs."""
    update = describe(make_adapter(), None, "shadow")
    return lambda candidate, **knobs: Beside(workers.new(**knobs), candidate, update)


async def test_of_what_waits_for_a_candidate_the_oldest_is_dropped_and_counted(beside):
    candidate = Candidate()
    pair = beside(candidate)
    pair.answer(*map(str, range(MOST_WAITING + 3)))

    summary = await pair.end(MOST_WAITING)

    assert (summary.abstracts, summary.dropped) == (MOST_WAITING, 3)
    assert shadowed(pair.worker, "dropped") == 3
    assert candidate.batches[0][0] == candidate.encode(Abstract(abstract="3"))


async def test_a_candidate_scores_no_more_than_its_share(beside, monkeypatch):
    monkeypatch.setattr(random, "random", cycle([0.2, 0.8]).__next__)
    pair = beside(Candidate(), shadow_share=0.5)
    pair.answer(*map(str, range(10)))
    assert (await pair.end(5)).abstracts == 5


async def test_a_candidate_is_not_compared_with_an_adapter_that_is_no_longer_live(beside):
    pair = beside(Candidate())
    pair.answer("late", engine=FakeEngine())
    pair.answer("live")
    assert (await pair.end(1)).abstracts == 1


async def test_failures_of_a_candidate_are_in_its_summary(beside):
    pair = beside(Candidate(fails=True))
    pair.answer("one", "two")
    summary = await pair.end(2)
    assert (summary.abstracts, summary.failed) == (0, 2)


async def test_long_abstracts_are_scored_in_smaller_batches(beside):
    candidate = Candidate()
    pair = beside(candidate)
    pair.answer(*("word " * length for length in (400, 400, 400, 1_500)))
    await pair.end(4)
    assert [len(batch) for batch in candidate.batches] == [2, 1, 1]


@pytest.mark.parametrize("is_other", [False, True])
async def test_a_candidate_with_another_prompt_reads_its_own(beside, is_other):
    questions = ONCOLOGY.questions[:1] if is_other else ONCOLOGY.questions
    candidate = Candidate(task=ONCOLOGY.model_copy(update={"questions": questions}))
    pair = beside(candidate)
    pair.answer("one")
    await pair.end(1)
    assert candidate.encoded == is_other
