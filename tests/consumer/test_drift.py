"""Live answers are compared with those to the validation abstracts, and drift is told apart from chance."""

import random
from collections import Counter

import pytest
from abstream import Abstract
from abstream.consumer.drift import FEWEST, Drift, Recent, by_chance, stability
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.mesh import MeshAgreement, is_neoplasm
from abstream.schemas.expected import Bins, Expected
from abstream.training.expected import FEWEST as FEWEST_EXPECTED
from abstream.training.expected import expected
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

WATCHED = {("", "input_tokens"), *((q, w) for q in ("cancer", "cancer_type") for w in ("label", "confidence"))}


def texts(seed: int, number: int, longest: int = 40) -> list[Abstract]:
    draws = random.Random(seed)
    return [Abstract(abstract=f"{seed} {n} " + "word " * draws.randrange(longest)) for n in range(number)]


def answers_to(abstracts: list[Abstract], engine: FakeEngine) -> Expected:
    """The expected distributions that a fine-tuning run would record from these answers."""
    tokens = [engine.encode(one) for one in abstracts]
    return expected(engine.model, engine.classify(tokens).logits, [len(one.ids) for one in tokens])


def test_of_too_few_validation_abstracts_no_distribution_is_recorded():
    engine, enough = FakeEngine(), texts(1, FEWEST_EXPECTED)
    assert answers_to(enough[1:], engine) is None
    assert sum(answers_to(enough, engine).labels["cancer"].values()) == FEWEST_EXPECTED


def test_a_question_that_too_few_validation_abstracts_are_asked_is_left_out():
    known = answers_to(texts(1, FEWEST_EXPECTED), FakeEngine())
    assert set(known.labels) == set(known.confidence) == {"cancer"}


def samples(collector: Collector, name: str) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["question"], sample.labels["what"]): sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.name == name
    }


@pytest.fixture
def engine(make_adapter):
    """A function that makes an engine whose adapter expects these distributions."""

    def engine(known: Expected | None, version: str = "1") -> FakeEngine:
        return FakeEngine(adapter=make_adapter(version, expected=known))

    return engine


@pytest.fixture
def drift(workers, publisher, engine):
    """A function that lets a worker answer abstracts, and returns the drift it observed."""

    async def drift(abstracts: list[Abstract], known: Expected | None) -> Drift:
        worker = workers.new(engine=engine(known))
        drift = Drift(lambda: worker.engine.model)
        worker.observers.append(drift.observe)
        await worker.source.create_groups()
        await publisher.publish_many((f"id-{number}", one) for number, one in enumerate(abstracts))
        await worker.run()
        return drift

    return drift


async def test_abstracts_like_those_of_the_validation_show_no_drift_beyond_chance(drift, engine):
    found = await drift(texts(1, 400), answers_to(texts(2, 800), engine(None, "draft")))
    index, chance = samples(found, "abstream_drift_psi"), samples(found, "abstream_drift_psi_by_chance")
    assert index.keys() == chance.keys() == WATCHED
    assert all(0 < index[what] < chance[what] for what in WATCHED)


async def test_longer_abstracts_show_drift_in_length_and_other_answers_in_labels(drift, engine):
    draft = engine(None, "draft")
    seldom_cancer = [
        one
        for number, one in enumerate(texts(2, 800, longest=20))
        if number % 3 == 0 or answers_to([one] * 50, draft).labels["cancer"].keys() == {"Non-Cancer"}
    ]
    found = await drift(texts(1, 400), answers_to(seldom_cancer, draft))
    index, chance = samples(found, "abstream_drift_psi"), samples(found, "abstream_drift_psi_by_chance")
    for what in (("", "input_tokens"), ("cancer", "label")):
        assert index[what] > chance[what]
    assert index["cancer_type", "confidence"] < chance["cancer_type", "confidence"]


async def test_no_drift_is_exposed_for_few_answers_or_without_expectations(drift, engine):
    known = answers_to(texts(2, 800), engine(None, "draft"))
    assert samples(await drift(texts(1, FEWEST - 1), known), "abstream_drift_psi") == {}


async def test_an_adapter_without_expectations_exposes_no_drift(drift):
    assert list((await drift(texts(1, FEWEST + 1), None)).collect()) == []


async def test_answers_of_the_previous_adapter_are_not_counted_for_the_new_one(workers, publisher, engine):
    known = answers_to(texts(2, 800), engine(None, "draft"))
    first, second = engine(known, "first"), engine(known, "second")
    worker = workers.new(engine=first)
    drift = Drift(lambda: worker.engine.model)

    def counted() -> bool:
        return ("", "input_tokens") in samples(drift, "abstream_drift_psi")

    seen = []
    worker.observers += [lambda *batch: seen.append(batch), drift.observe]
    await worker.source.create_groups()
    await publisher.publish_many((f"id-{number}", one) for number, one in enumerate(texts(1, FEWEST)))
    await worker.run()
    assert counted()
    worker.switch(second)
    for batch in seen:
        drift.observe(*batch)
    assert not counted()


def test_the_index_is_the_sum_over_the_bins():
    # (0.2 - 0.5) ln 0.4 + (0.8 - 0.5) ln 1.6, as (20, 80) against (50, 50)
    assert stability((5_000, 5_000), (2_000, 8_000)) == pytest.approx(0.41589, abs=1e-3)
    assert stability((30, 70), (300, 700)) < 0.001
    assert stability((30, 70, 0), (20, 80, 0)) == stability((30, 70), (20, 80))


def test_chance_exceeds_its_bound_about_once_in_a_thousand_times():
    draws, bins, beyond = random.Random(3), range(8), 0
    for _ in range(1_000):
        one, other = Counter(draws.choices(bins, k=300)), Counter(draws.choices(bins, k=600))
        rows = [one[b] for b in bins], [other[b] for b in bins]
        beyond += stability(*rows) > by_chance(*rows)
    assert beyond <= 4
    assert by_chance((300,), (600,)) == 0


def test_only_the_last_answers_count():
    recent = Recent((50, 50), int, window=200)
    recent.add([0.0] * 200 + [1.0] * 200)
    one_sided = recent.drift()
    recent.add([0.0] * 100)
    assert one_sided[0] > 1
    assert recent.drift()[0] < 0.01


def test_bins_hold_equally_many_values_as_far_as_ties_allow():
    even = Bins.of([float(number) for number in range(100)])
    assert even.counts == (10,) * 10
    assert tuple(map(even.bin_of(), (-5, even.bounds[0], 1_000))) == (0, 0, 9)
    assert Bins.of([1.0] * 50).counts == (50,)
    assert sum(Bins.of([1.0] * 90 + [2.0, 3.0]).counts) == 92


@pytest.mark.parametrize(
    ("heading", "is_one"),
    [
        ("Breast Neoplasms", True), ("*Carcinoma, Non-Small-Cell Lung/drug therapy", True), ("Uveal Melanoma", True),
        ("Leukemia, Myeloid, Acute", True), ("Hodgkin Disease", True), ("Neoplasm Metastasis", True),
        ("Neoplasm Staging", False), ("Antigens, Neoplasm", False), ("Antineoplastic Agents", False),
        ("Leukemia Virus, Murine", False), ("Glaucoma, Open-Angle", False), ("Humans", False),
        ("Melanoma/*drug therapy", True), ("Hematoma, Subdural", False), ("Granuloma", False), ("Atheroma", False),
    ],
)  # fmt: skip
def test_headings_of_the_neoplasms_tree_are_recognised_by_name(heading, is_one):
    assert is_neoplasm(heading) is is_one


async def test_answers_are_counted_by_what_the_headings_say(workers, publisher, subscriber):
    worker = workers.new()
    registry = CollectorRegistry()
    worker.observers.append(MeshAgreement(registry).observe)
    await worker.source.create_groups()
    for number, mesh in enumerate([("Humans", "Breast Neoplasms"), ("Humans",), ()] * 4):
        await publisher.publish(Abstract(abstract=f"Text {number}", mesh=mesh), id=str(number))
    await worker.run()
    said = Counter()
    async for _, result in subscriber.predictions(since="0"):
        kind = int(result.causationid) % 3
        if kind < 2:
            said[result.data.answers["cancer"].label, ("neoplasms", "other")[kind]] += 1
        if result.causationid == "11":
            break
    for label in ("Cancer", "Non-Cancer"):
        for mesh in ("neoplasms", "other"):
            labels = {"label": label, "mesh": mesh}
            assert registry.get_sample_value("abstream_mesh_answers_total", labels) == said[label, mesh]
    assert sum(said.values()) == 8
