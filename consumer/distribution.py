"""A histogram that observes a whole batch at once.

``prometheus_client.Histogram`` takes a lock twice for each value. With three values for each abstract, that took longer
than validating the abstract.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import add

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Distribution(Collector):
    """Counts how many values are under each bound. One thread observes; any thread may collect."""

    def __init__(
        self, name: str, what: str, bounds: Sequence[float], registry: CollectorRegistry, *, label: str | None = None
    ) -> None:
        self._name = name
        self._what = what
        self._bounds = bounds
        self._label = label
        # By the value of the label: how many values are at most each bound, how many there are, and their sum.
        self._seen: dict[str, tuple[list[int], float]] = {}
        if label is None:
            self.observe([])  # metrics without labels are shown from the beginning
        registry.register(self)

    def observe(self, values: Sequence[float], of: str = "") -> None:
        """Add ``values``; ``of`` is the value of the label, if there is one."""
        ordered = sorted(values)
        added = [*(bisect_right(ordered, bound) for bound in self._bounds), len(ordered)]
        under, total = self._seen.get(of, ([0] * len(added), 0.0))
        # One assignment: a concurrent scrape sees either all of the batch or nothing.
        self._seen[of] = list(map(add, under, added)), total + sum(values)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Collect the values for a scrape."""
        family = HistogramMetricFamily(self._name, self._what, labels=[self._label] if self._label else [])
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for of, (under, total) in list(self._seen.items()):
            buckets = list(zip(names, under, strict=True))
            family.add_metric([of] if self._label else [], buckets, total)
        yield family
