"""Calibration: a temperature for each question, and the confidence below which a person should review the answer."""

import numpy as np

from .evaluate import Answers

_TEMPERATURES = np.geomspace(0.1, 10, 201)


def temperature(given: Answers) -> float:
    """The temperature that maximises the likelihood of the labels (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    Args:
        given: answers at temperature 1.
    """
    log_odds = np.log(np.clip(given.probabilities, 1e-12, None))
    right = np.arange(len(given.truth)), given.truth

    def cross_entropy(candidate: float) -> float:
        scaled = log_odds / candidate
        return float(np.mean(np.logaddexp.reduce(scaled, axis=1) - scaled[right]))

    return float(min(_TEMPERATURES, key=cross_entropy))


def review_threshold(given: Answers, recall: float) -> float:
    """The lowest threshold at which the answers that are not below it reach ``recall`` of the first label.

    1.0 if there is none, so that nearly everything goes to review.
    """
    confidence = given.probabilities.max(axis=1)
    wanted = given.truth == 0
    found = wanted & (given.predicted == 0)
    for threshold in [0.0, *np.unique(confidence)]:
        kept = confidence >= threshold
        if not wanted[kept].any() or found[kept].sum() / wanted[kept].sum() >= recall:
            return float(threshold)
    return 1.0
