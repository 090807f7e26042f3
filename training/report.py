"""The report of a run as one HTML file: figures with their intervals, plots, errors by id, and how to reproduce it.

It contains no text of any abstract, loads nothing from a server, and is byte for byte the same for the same numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from .evaluate import (
    BINS,
    FEW_LABELS,
    RESAMPLES,
    Answers,
    Comparison,
    Matrix,
    Measured,
    QuestionMetrics,
    calibration_error,
    confident_errors,
    confusion,
    f1_of_labels,
)
from .plots import COLOURS, Drawing, bars, draw, losses, losses_alt, matrix, reliability_diagram

_SEED = 20250402


@dataclass(frozen=True)
class _Row:
    """A row of a table. A figure is None if the label neither occurs nor is answered."""

    name: str
    n: int | None
    before: Measured | None
    after: Measured | None
    improvement: Measured | None
    baselines: list[Measured | None]


@dataclass(frozen=True)
class _Verdict:
    text: str
    is_against: bool


def write_report(
    path: Path,
    title: str,
    comparisons: Mapping[str, Comparison],
    history: Sequence[Mapping[str, float]],
    facts: Mapping[str, str],
) -> None:
    """Write the report of a run.

    Args:
        comparisons: question -> before, after and baselines.
        history: the losses that ``Progress`` recorded; empty if nothing was trained.
        facts: name -> text of everything that is needed to reproduce the run.
    """
    loader = PackageLoader("abstream.training", "templates")
    templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    templates.filters["points"] = _points
    page = templates.get_template("report.html").render(
        title=title,
        studies=[_Study(name, comparison) for name, comparison in comparisons.items()],
        loss=draw("loss", lambda: losses(history), losses_alt(history)) if history else None,
        facts=facts,
        colours=COLOURS,
        resamples=RESAMPLES,
        bins=BINS,
    )
    path.write_text(page, encoding="utf-8", newline="\n")


class _Study:
    """Everything that the page shows about one question."""

    def __init__(self, name: str, comparison: Comparison) -> None:
        self.name, self.comparison = name, comparison
        self.question = comparison.after.question
        self.baselines = list(comparison.baselines)
        self.is_small = len(self.question.labels) <= FEW_LABELS
        self._answers = {"before": comparison.before, "after": comparison.after, **comparison.baselines}
        self._samples = _samples(self._answers, comparison.metrics)
        self.figures = {judge: self._measured(judge) for judge in self._answers}
        self.n = comparison.metrics["after"].n

    def _measured(self, judge: str) -> dict[str, Measured]:
        metrics = self.comparison.metrics[judge]
        low, high = np.percentile(self._samples[judge]["calibration_error"], [2.5, 97.5])
        return {
            "accuracy": metrics.accuracy,
            **{f"f1_{label}": one for label, one in metrics.f1.items()},
            "macro_f1": metrics.macro_f1,
            "calibration_error": Measured(metrics.calibration_error, float(low), float(high)),
        }

    def gain(self, judge: str, over: str, figure: str) -> Measured | None:
        """How much better one judge is than another on the same abstracts; None if either lacks the figure."""
        ours, theirs = self.figures[judge].get(figure), self.figures[over].get(figure)
        if ours is None or theirs is None:
            return None
        sign = -1 if figure == "calibration_error" else 1
        low, high = np.percentile(sign * (self._samples[judge][figure] - self._samples[over][figure]), [2.5, 97.5])
        return Measured(sign * (ours.value - theirs.value), float(low), float(high))

    @property
    def headline(self) -> list[_Row]:
        by_label = [(f"F1 {label}", f"f1_{label}") for label in self.question.labels] if self.is_small else []
        others = [("Macro-F1", "macro_f1"), ("Calibration error", "calibration_error")]
        return [self._row(*one) for one in [("Accuracy", "accuracy"), *by_label, *others]]

    @property
    def by_label(self) -> list[_Row]:
        counts = np.bincount(self.comparison.after.truth, minlength=len(self.question.labels))
        return [self._row(label, f"f1_{label}", int(n)) for label, n in zip(self.question.labels, counts, strict=True)]

    def _row(self, name: str, figure: str, n: int | None = None) -> _Row:
        before, after, *baselines = [figures.get(figure) for figures in self.figures.values()]
        return _Row(name, n, before, after, self.gain("after", "before", figure), baselines)

    @property
    def verdicts(self) -> list[_Verdict]:
        """By accuracy and by macro-F1: who is better than the model, or else which baseline comes closest."""
        return [*self._verdicts("accuracy", "accuracy"), *self._verdicts("macro_f1", "macro-F1")]

    def _verdicts(self, figure: str, word: str) -> list[_Verdict]:
        leads = {judge: lead for judge in self.figures if (lead := self.gain(judge, "after", figure))}
        ahead = {judge: lead for judge, lead in leads.items() if round(lead.value, 4) > 0}
        if ahead:
            return [self._ahead(judge, lead, word) for judge, lead in ahead.items()]
        closest = max(self.baselines, key=lambda judge: leads[judge].value, default=None)
        behind = self.gain("after", closest, figure) if closest else None
        if behind is None:
            return []
        text = f"On {word}, no baseline is better: “{closest}” comes closest, {_by(behind)} behind."
        return [_Verdict(text + self._doubt(behind), is_against=False)]

    def _ahead(self, judge: str, lead: Measured, word: str) -> _Verdict:
        who = "the bare base" if judge == "before" else f"the baseline “{judge}”"
        return _Verdict(f"On {word}, {who} is better by {_by(lead)}.{self._doubt(lead)}", is_against=True)

    def _doubt(self, lead: Measured) -> str:
        return "" if lead.low > 0 else f" The interval includes 0: {self.n} abstracts do not settle it."

    @property
    def errors(self) -> list[tuple[str, str, str, float]]:
        return confident_errors(self.comparison.after)

    @property
    def bars(self) -> Drawing:
        rows = [(row.name, [row.before, row.after, *row.baselines]) for row in self.headline[:-1]]
        said = "; ".join(f"{row.name}: before {row.before}, after {row.after}" for row in self.headline[:-1])
        return draw(
            f"{self.name} bars", lambda: bars(list(self.figures), rows), f"{self.name}, bars with intervals. {said}"
        )

    @property
    def reliability(self) -> Drawing:
        before, after = (self.figures[judge]["calibration_error"].value for judge in ("before", "after"))
        alt = f"{self.name}, accuracy over confidence. Calibration error: before {before:.2%}, after {after:.2%}"
        return draw(f"{self.name} reliability", lambda: reliability_diagram(self.comparison), alt)

    def confusion(self, judge: str) -> Drawing:
        metrics = self.comparison.metrics[judge]
        right = sum(row[index] for index, row in enumerate(metrics.confusion))
        alt = f"{self.name}, confusion matrix {judge}: {right} of {metrics.n} are right"
        return draw(f"{self.name} confusion {judge}", lambda: matrix(metrics), alt, shrinks=self.is_small)


def _samples(judges: Mapping[str, Answers], metrics: Mapping[str, QuestionMetrics]) -> dict[str, dict[str, Matrix]]:
    """Judge -> figure -> its value in each bootstrap sample. All judges get the same samples, so they can be paired."""
    random = np.random.default_rng(_SEED)
    n = metrics["after"].n
    drawn: dict[str, list[dict[str, float]]] = {judge: [] for judge in judges}
    for rows in (random.integers(n, size=n) for _ in range(RESAMPLES)):
        for judge, given in judges.items():
            sample = replace(given, truth=given.truth[rows], probabilities=given.probabilities[rows])
            drawn[judge].append(_figures(sample, list(metrics[judge].f1)))
    return {
        judge: {name: np.array([one[name] for one in found]) for name in found[0]} for judge, found in drawn.items()
    }


def _figures(given: Answers, present: list[str]) -> dict[str, float]:
    labels = given.question.labels
    scores = f1_of_labels(confusion(given.truth, given.predicted, len(labels)))
    by_label = {f"f1_{label}": float(scores[labels.index(label)]) for label in present}
    return {
        "accuracy": float((given.truth == given.predicted).mean()),
        "macro_f1": float(np.mean(list(by_label.values()))),
        "calibration_error": calibration_error(given),
        **by_label,
    }


def _points(share: float) -> str:
    """A difference of two shares, in points."""
    return f"{round(100 * share, 2) + 0.0:+.2f}".replace("-", "−")


def _by(lead: Measured) -> str:
    low, high = (_points(share).lstrip("+") for share in (lead.low, lead.high))
    return f"{100 * lead.value:.2f} points [{low}, {high}]"
