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
        self._under: dict[str, list[int]] = {}  # how many values are at most each bound, and how many there are
        self._sums: dict[str, float] = {}
        if label is None:
            self.observe([])  # metrics without labels are shown from the beginning
        registry.register(self)

    def observe(self, values: Sequence[float], of: str = "") -> None:
        """Add ``values``; ``of`` is the value of the label, if there is one."""
        ordered = sorted(values)
        added = [*(bisect_right(ordered, bound) for bound in self._bounds), len(ordered)]
        # A concurrent scrape sees either all of the batch or nothing.
        self._under[of] = list(map(add, self._under[of], added)) if of in self._under else added
        self._sums[of] = self._sums.get(of, 0.0) + sum(values)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Collect the values for a scrape."""
        family = HistogramMetricFamily(self._name, self._what, labels=[self._label] if self._label else [])
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for of, total in list(self._sums.items()):
            buckets = list(zip(names, self._under[of], strict=True))
            family.add_metric([of] if self._label else [], buckets, total)
        yield family
