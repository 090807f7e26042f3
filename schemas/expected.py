"""An adapter's answers to its validation abstracts, stored with it, so that live answers can be compared with them."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from statistics import quantiles
from typing import Annotated

from pydantic import Field, model_validator

from .events import Payload

BINS = 10

Count = Annotated[int, Field(ge=0)]


class Bins(Payload):
    """Counts of values in bins: up to the first of ``bounds``, up to the next, …, above the last."""

    bounds: tuple[float, ...]
    counts: tuple[Count, ...]

    @model_validator(mode="after")
    def _fits(self) -> "Bins":
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError("there must be one count more than bounds")
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError("bounds must rise")
        return self

    @classmethod
    def of(cls, values: Sequence[float]) -> "Bins":
        """Bins with about equal counts of ``values``, as far as equal values allow; needs at least two values."""
        bounds = tuple(sorted({bound for bound in quantiles(values, n=BINS) if bound < max(values)}))
        counts = [0] * (len(bounds) + 1)
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        return cls(bounds=bounds, counts=tuple(counts))

    def bin_of(self) -> Callable[[float], int]:
        """A function from a value to the number of its bin."""
        return partial(bisect_left, self.bounds)


class Expected(Payload):
    """The distribution of answers to validation abstracts, answered as in service.

    Attributes:
        labels: question to label to number of answers.
        confidence: question to the confidences of its answers.
        tokens: lengths of the prompts.
    """

    labels: dict[str, dict[str, Count]]
    confidence: dict[str, Bins]
    tokens: Bins
