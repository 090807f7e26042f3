"""Calibration: a temperature for each question, and the confidence below which a person should review."""

import numpy as np

from .evaluate import Answers

_TEMPERATURES = np.geomspace(0.1, 10, 201)


def temperature(given: Answers) -> float:
    """The temperature that makes the right labels most likely (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    Args:
        given: answers at temperature 1.
    """
    log_odds = np.log(np.clip(given.probabilities, 1e-12, None))
    right = np.arange(len(given.truth)), given.truth

    def surprise(heat: float) -> float:
        scaled = log_odds / heat
        return float(np.mean(np.logaddexp.reduce(scaled, axis=1) - scaled[right]))

    return float(min(_TEMPERATURES, key=surprise))


def review_threshold(given: Answers, recall: float) -> float:
    """The lowest confidence at which, among the answers above it, the recall of the first label reaches ``recall``.

    1.0, so that nearly everything goes to review, where no threshold reaches it.
    """
    confidence = given.probabilities.max(axis=1)
    wanted = given.truth == 0
    found = wanted & (given.predicted == 0)
    for threshold in [0.0, *np.unique(confidence)]:
        kept = confidence >= threshold
        if not wanted[kept].any() or found[kept].sum() / wanted[kept].sum() >= recall:
            return float(threshold)
    return 1.0
