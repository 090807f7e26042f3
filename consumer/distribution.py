"""A histogram that takes a whole batch at once.

``prometheus_client.Histogram`` takes a lock, twice, for each value: with three values to an abstract, that was more
than to validate it.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import add

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Distribution(Collector):
    """How many values fell under each bound. One thread observes; any may collect."""

    def __init__(
        self, name: str, what: str, bounds: Sequence[float], registry: CollectorRegistry, *, label: str | None = None
    ) -> None:
        self._name = name
        self._what = what
        self._bounds = bounds
        self._label = label
        self._under: dict[str, list[int]] = {}  # how many are at most each bound, and how many in all
        self._sums: dict[str, float] = {}
        if label is None:
            self.observe([])  # shown from the beginning, as all that has no labels
        registry.register(self)

    def observe(self, values: Sequence[float], of: str = "") -> None:
        """Add ``values``; ``of`` is the label's value where there is a label."""
        ordered = sorted(values)
        added = [*(bisect_right(ordered, bound) for bound in self._bounds), len(ordered)]
        # A scrape in between sees all of it or nothing.
        self._under[of] = list(map(add, self._under[of], added)) if of in self._under else added
        self._sums[of] = self._sums.get(of, 0.0) + sum(values)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What a scrape reads."""
        family = HistogramMetricFamily(self._name, self._what, labels=[self._label] if self._label else [])
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for of, total in list(self._sums.items()):
            buckets = list(zip(names, self._under[of], strict=True))
            family.add_metric([of] if self._label else [], buckets, total)
        yield family
