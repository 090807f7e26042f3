"""A distribution is exposed exactly as a histogram of ``prometheus_client``."""

from abstream.consumer.distribution import Distribution
from prometheus_client import CollectorRegistry, Histogram, generate_latest

BOUNDS = (0.005, 0.1, 1, 2.5, 1800)
VALUES = [0.0, 0.005, 0.0051, 1.0, 2.0, 99.0, 5000.0]


def exposed(registry: CollectorRegistry) -> list[str]:
    """What a scrape reads, without the creation times, which only the library's histogram has."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


def test_it_is_exposed_as_the_librarys_histogram():
    library, ours = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("wait_seconds", "Wait", buckets=BOUNDS, registry=library)
    distribution = Distribution("wait_seconds", "Wait", BOUNDS, ours)

    assert exposed(ours) == exposed(library), "also before anything was observed"
    for value in VALUES:
        histogram.observe(value)
    distribution.observe(VALUES[:3])
    distribution.observe(VALUES[3:])

    assert exposed(ours) == exposed(library)


def test_with_a_label_too_it_is_exposed_as_the_librarys_histogram():
    library, ours = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("confidence", "Sure", ["question"], buckets=BOUNDS, registry=library)
    distribution = Distribution("confidence", "Sure", BOUNDS, ours, label="question")

    for question in ("cancer", "cancer_type"):
        for value in VALUES:
            histogram.labels(question).observe(value)
        distribution.observe(VALUES, question)

    assert exposed(ours) == exposed(library)
