"""Whether live abstracts and their answers still resemble those that the adapter was validated on.

The shares among the adapter's last answers are compared with those among its validation answers by the population
stability index, the sum of (live - expected) * ln(live / expected). Over 0.1 is commonly called a moderate shift, over
0.25 a large one. With few values chance alone reaches as much, so what chance explains is reported too.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .engine import ServedModel
from .stages import Answered, Inferred, Predicted

WINDOW = 2_000  # last answers that count: a minute of a busy stream, some days of a quiet one
FEWEST = 100  # with fewer answers nothing is reported
_RARELY = NormalDist().inv_cdf(0.999)
_UNSEEN = 0.5  # is added to every bin, so that none in a thousand does not count as never

_LABELS = ("task", "question", "what")


class Recent:
    """The bins of the last values, beside the expected ones. One thread adds; any thread may read."""

    def __init__(self, expected: Sequence[int], bin_of: Callable[[Any], int], window: int = WINDOW) -> None:
        self._expected = expected
        self._bin_of = bin_of
        self._window = window
        self._counts = [0] * len(expected)
        self._bins: deque[int] = deque()

    def add(self, values: Iterable[str | float]) -> None:
        """Count the values, and drop the oldest beyond the window."""
        numbers = list(map(self._bin_of, values))
        for number in numbers:
            self._counts[number] += 1
        self._bins.extend(numbers)
        for _ in range(len(self._bins) - self._window):
            self._counts[self._bins.popleft()] -= 1

    def drift(self) -> tuple[float, float] | None:
        """The index, and the one that chance reaches once in a thousand times; None while there are few values."""
        counts = list(self._counts)
        return (stability(self._expected, counts), by_chance(self._expected, counts)) if sum(counts) >= FEWEST else None


class Drift(Collector):
    """Owns the last answers of the live adapter, which are compared at every scrape.

    Old adapters whose manifest has no ``expected`` are not compared.
    """

    def __init__(self, live: Callable[[], ServedModel]) -> None:
        self._live = live
        self._begin(live())

    def _begin(self, model: ServedModel) -> None:
        self._model = model
        self._recent: dict[tuple[str, str], Recent] = {}
        if not (expected := model.expected):
            return
        self._recent["", "input_tokens"] = Recent(expected.tokens.counts, expected.tokens.bin_of())
        for question in model.task.questions:
            if labels := expected.labels.get(question.name):
                counts = [labels.get(label, 0) for label in question.labels]
                self._recent[question.name, "label"] = Recent(
                    counts, {label: n for n, label in enumerate(question.labels)}.__getitem__
                )
            if bins := expected.confidence.get(question.name):
                self._recent[question.name, "confidence"] = Recent(bins.counts, bins.bin_of())

    def observe(self, inferred: Inferred, answered: Sequence[Answered]) -> None:
        """Count a batch, unless it was answered by the previous adapter."""
        if self._live() is not self._model:
            self._begin(self._live())
        if self._recent and inferred.batch[0].engine.model is self._model:
            self._recent["", "input_tokens"].add(len(job.tokens.ids) for job in inferred.batch)
            answers = [one.answers for one in answered if isinstance(one, Predicted)]
            for question in self._model.task.questions:
                given = [one[question.name] for one in answers if question.name in one]
                if recent := self._recent.get((question.name, "label")):
                    recent.add(answer["label"] for answer in given)
                if recent := self._recent.get((question.name, "confidence")):
                    recent.add(answer["confidence"] for answer in given)

    def describe(self) -> Iterable[Metric]:
        """The names only."""
        return _families()

    def collect(self) -> Iterator[Metric]:
        """Collect the values for a scrape."""
        index, chance = _families()
        for (question, what), recent in self._recent.copy().items():
            if drift := recent.drift():
                labels = [self._model.task.name, question, what]
                index.add_metric(labels, drift[0])
                chance.add_metric(labels, drift[1])
        if index.samples:
            yield from (index, chance)


def stability(expected: Sequence[int], live: Sequence[int]) -> float:
    """The population stability index of two rows of counts; bins that are empty in both are left out."""
    bins = [(one + _UNSEEN, other + _UNSEEN) for one, other in zip(expected, live, strict=True) if one or other]
    all_expected, all_live = map(sum, zip(*bins, strict=True))
    shares = ((one / all_expected, other / all_live) for one, other in bins)
    return sum((other - one) * math.log(other / one) for one, other in shares)


def by_chance(expected: Sequence[int], live: Sequence[int]) -> float:
    """The index that two samples of one distribution reach once in a thousand times.

    It is (1 / expected + 1 / live) times a chi-squared variable (Yurdakul 2018, "Statistical properties of population
    stability index"), whose quantile is approximated as by Wilson and Hilferty.
    """
    freedom = sum(1 for one, other in zip(expected, live, strict=True) if one or other) - 1
    if not freedom:
        return 0.0
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + _RARELY * math.sqrt(spread)) ** 3
    return quantile * (1 / sum(expected) + 1 / sum(live))


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("abstream_drift_psi", "Of the last answers, against validation's", labels=_LABELS),
        GaugeMetricFamily("abstream_drift_psi_by_chance", "What chance reaches once in a thousand", labels=_LABELS),
    )
