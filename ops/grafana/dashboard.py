"""``python -m abstream.ops.grafana.dashboard`` writes ``dashboards/abstream.json`` from the rows of ``panels``."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos, Threshold, ThresholdsMode

from .panels import ROWS, Panel, Row

FILE = Path(__file__).parent / "dashboards" / "abstream.json"

_PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
_COLUMNS = 24  # of Grafana's grid
_SINGLE_SIZE = (3, 4)  # width and height in it
_CURVE_HEIGHT = 7


def document() -> str:
    """The dashboard as JSON."""
    built = (
        grafana.Dashboard("abstream")
        .uid("abstream")
        .tags(["abstream"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
    )
    top, numbers = 0, count(1)
    for row in ROWS:
        built = built.with_row(grafana.Row(row.title).id(next(numbers)).grid_pos(GridPos(h=1, w=_COLUMNS, x=0, y=top)))
        for panel, place in _placed(row, top + 1):
            built = built.with_panel(_built(panel).id(next(numbers)).grid_pos(place))
            top = place.y + place.h
    return json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _placed(row: Row, top: int) -> Iterator[tuple[Panel, GridPos]]:
    """The row's panels from left to right: curves by fours where that leaves no gap, else by threes."""
    curve = (_COLUMNS // (4 if len(row.panels) == 4 else 3), _CURVE_HEIGHT)
    left = 0
    for panel in row.panels:
        width, height = _SINGLE_SIZE if panel.single else curve
        if left + width > _COLUMNS:
            left, top = 0, top + height
        yield panel, GridPos(h=height, w=width, x=left, y=top)
        left += width


def _built(panel: Panel) -> Any:
    built = _single(panel) if panel.single else _curve(panel)
    built = built.title(panel.title).description(panel.says).unit(panel.unit).datasource(_PROMETHEUS)
    for number, (legend, query) in enumerate(panel.queries.items()):
        target = prometheus.Dataquery().ref_id(chr(ord("A") + number)).expr(query).datasource(_PROMETHEUS)
        built = built.with_target(target.legend_format(legend or "__auto"))
    return built


def _single(panel: Panel) -> Any:
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    return stat.Panel().thresholds(_thresholds(panel.steps)).reduce_options(last).no_value("–")


def _thresholds(steps: tuple[float, float] | None) -> Any:
    colours = [Threshold(color="green")]
    if steps and steps[0] <= steps[1]:
        colours += [Threshold(steps[0], "yellow"), Threshold(steps[1], "red")]
    elif steps:
        below, far_below = steps
        colours = [Threshold(color="red"), Threshold(far_below, "yellow"), Threshold(below, "green")]
    return grafana.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(colours)


def _curve(panel: Panel) -> Any:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    built = timeseries.Panel().legend(legend.show_legend(True)).line_width(1).fill_opacity(10).min(0)
    if panel.stacked:
        built = built.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return built


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(document(), encoding="utf-8")
