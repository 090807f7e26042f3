"""A shadow candidate scores in idle time what the live adapter answered, and publishes only a summary."""

import threading

from abstream import Abstract
from abstream.consumer.adapters.comparison import Comparison
from abstream.consumer.adapters.shadow import MOST_AT_ONCE
from abstream.consumer.engine.fake import FakeEngine
from abstream.schemas import AdapterActivated, AdapterRejected, AdapterShadowed
from abstream.schemas.streams import from_fields
from abstream.training.release import release

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
    from abstream.consumer.engine.scoring import score

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
