"""The plots of a report, as inline SVG: bars with intervals, confusion matrices, reliability, losses."""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .evaluate import FEW_LABELS, Comparison, Matrix, Measured, QuestionMetrics, reliability

# Safe for colour-blind readers (Okabe and Ito 2008, https://jfly.uni-koeln.de/color/). In the SVG they become CSS
# variables, so that the page can show the plots on a dark background too.
COLOURS = {
    "ink": "#1b1f24",
    "muted": "#59616b",
    "rule": "#d8dce1",
    "before": "#8b939d",
    "after": "#0072b2",
    "baseline": "#c9a227",
    "wrong": "#d55e00",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "text.parse_math": False,  # a label may hold a dollar sign
    "font.size": 10,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["rule"],
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": COLOURS["rule"],
    "ytick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["ink"],
    **{f"{axis}tick.{which}.size": 0 for axis in "xy" for which in ("major", "minor")},
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Drawing:
    """An inline SVG, its alternative text, and its greatest and least width in pixels."""

    alt: str
    box: str
    body: str
    width: int
    least: int


def draw(name: str, drawing: Callable[[], Figure], alt: str, shrinks: bool = True) -> Drawing:
    """Draw in the page's style. ``name`` makes the ids in the SVG differ from those of other drawings."""
    written = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # about matplotlib's fonts, while the browser's draw the text
        figure = drawing()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    width = round(96 * figure.get_figwidth())
    return Drawing(alt, *_inline(written.getvalue()), width, min(width, 320) if shrinks else round(0.85 * width))


def _inline(svg: str) -> tuple[str, str]:
    """View box and body, without what only a standalone file needs, and with the page's names for colours."""
    found = re.search(r'<svg[^>]* viewBox="([^"]+)"[^>]*>(.*)</svg>', svg, re.DOTALL)
    assert found
    bare = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", found[2], flags=re.DOTALL)
    bare = re.sub(r'<g id="[^"]*"', "<g", bare)
    for name, colour in COLOURS.items():
        bare = bare.replace(colour, f"var(--{name})")
    return found[1], bare


def bars(judges: Sequence[str], rows: Sequence[tuple[str, Sequence[Measured | None]]]) -> Figure:
    """A group of bars for each row, which has a name and a value for each judge."""
    figure = Figure(figsize=(4.9, len(rows) * (0.42 + 0.25 * len(judges)) + 0.2), layout="constrained")
    plots = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(plots, rows, strict=True):
        axes.set_title(_short(name), fontweight="bold")
        axes.set_yticks(range(len(judges)), [_short(judge) for judge in judges])
        axes.set(xlim=(0, 1), ylim=(len(judges) - 0.4, -0.6))
        axes.grid(axis="x")
        axes.spines["bottom"].set_visible(False)
        for place, value in enumerate(values):
            _bar(axes, place, value)
    plots[-1].xaxis.set_major_formatter("{x:.0%}")
    return figure


def _bar(axes: Axes, place: int, one: Measured | None) -> None:
    if one:
        colour = COLOURS[("before", "after", "baseline")[min(place, 2)]]
        axes.barh(place, one.value, height=0.66, color=colour)
        axes.plot([one.low, one.high], [place, place], color=COLOURS["ink"], linewidth=1.3, marker="|", markersize=5)
    axes.text(1.02, place, f"{one.value:.2%}" if one else "–", va="center")


def matrix(metrics: QuestionMetrics) -> Figure:
    """A confusion matrix, shaded by each cell's share of its row, so that rare labels are as visible as common ones."""
    labels, size, counts = metrics.labels, len(metrics.labels), metrics.confusion
    is_small = size <= FEW_LABELS
    longest = max(len(_short(label)) for label in labels)
    is_upright = longest * 0.09 > (cell := 1.0 if is_small else 0.28)
    left, below = 1.2 + 0.085 * longest, 0.6 + (0.085 * longest if is_upright else 0)
    figure = Figure(figsize=(left + cell * size, below + cell * size), layout="constrained")
    axes = figure.subplots()
    for (i, j), count in np.ndenumerate(counts):
        if count:
            _cell(axes, i, j, count, count / sum(counts[i]), 12 if is_small else 9)
    rows = [f"{_short(label)}  ({sum(row)})" for label, row in zip(labels, counts, strict=True)]
    axes.set_xticks(range(size), [_short(label) for label in labels], rotation=90 if is_upright else 0)
    axes.set_yticks(range(size), rows)
    edges = np.arange(size + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor")
    axes.tick_params(axis="x", labelcolor=COLOURS["ink"])
    axes.set(
        xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xlabel="answer", ylabel="right label (n)"
    )
    return figure


def _cell(axes: Axes, i: int, j: int, count: int, share: float, font_size: int) -> None:
    # Never so dark that the text on it, in the page's ink, is hard to read.
    shade = COLOURS["after" if i == j else "wrong"]
    axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=shade, alpha=0.08 + 0.5 * share, linewidth=0))
    axes.text(j, i, str(count), ha="center", va="center", fontsize=font_size)


def reliability_diagram(comparison: Comparison) -> Figure:
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 4)))
    for judge, given, marker in (("before", comparison.before, "s"), ("after", comparison.after, "o")):
        share, confidence, accuracy = np.array(reliability(given)).T
        colour = COLOURS[judge]
        axes.plot(confidence, accuracy, color=colour, linewidth=1.6, marker=marker, markersize=4, label=judge)
        axes.scatter(confidence, accuracy, s=14 + 260 * share, color=colour, marker=marker, linewidth=0, alpha=0.85)
    axes.grid()
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xlabel="confidence", ylabel="accuracy")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)  # above the plot, all of which the lines may cross
    return figure


def losses(history: Sequence[Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    axes = figure.subplots()
    epochs, found = _series(history, "loss")
    window = min(max(2, len(found) // 20), len(found))
    if len(found):
        smooth = np.convolve(found, np.ones(window) / window, mode="valid")
        axes.plot(epochs, found, color=COLOURS["before"], linewidth=0.7, alpha=0.5)
        label = f"training, mean of {window} steps"
        axes.plot(epochs[window - 1 :], smooth, color=COLOURS["before"], linewidth=2, label=label)
    epochs, found = _series(history, "validation_loss")
    if len(found):
        axes.plot(epochs, found, color=COLOURS["after"], linewidth=2, marker="o", markersize=5, label="validation")
    axes.grid(axis="y")
    axes.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    axes.legend(loc="upper right")
    return figure


def losses_alt(history: Sequence[Mapping[str, float]]) -> str:
    epochs, found = _series(history, "validation_loss")
    if not len(found):
        return "Training loss over epochs"
    best = int(found.argmin())
    return f"Loss over epochs. The validation loss is lowest, {found[best]:.4f}, after epoch {epochs[best]:g}"


def _series(history: Sequence[Mapping[str, float]], name: str) -> tuple[Matrix, Matrix]:
    known = [(one["epoch"], one[name]) for one in history if name in one]
    epochs, found = np.array(known, dtype=np.float64).reshape(-1, 2).T
    return epochs, found


def _short(label: str) -> str:
    return label if len(label) <= 30 else f"{label[:29]}…"
