"""What Grafana's dashboards are made of: panels, variables, and where each stands. Pure; knows no metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_SCHEMA_VERSION = 39


@dataclass(frozen=True, slots=True)
class Line:
    """A query of a panel. legend: as Grafana has it, with {{label}}."""

    expr: str
    legend: str = ""
    instant: bool = False
    format: str = "time_series"


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel. kind: of Grafana's plugins. unit: one of Grafana's ids. band: the legends of an upper and a lower end."""

    title: str
    lines: tuple[Line, ...]
    unit: str
    told: str
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    band: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading; a folded one asks nothing until it is opened."""

    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top. query: of label values; many: several can be chosen, all of them to begin with."""

    name: str
    label: str
    query: str
    many: bool = False


def dashboard(uid: str, title: str, told: str, variables: Sequence[dict[str, Any]], rows: Sequence[Row]) -> dict[str, Any]:
    """A dashboard as Grafana imports it: of its model of schema version 39, which Grafana 10.4 writes and later ones read."""
    return {
        "id": None,
        "uid": uid,
        "title": title,
        "description": told,
        "tags": ["adumbra"],
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "timezone": "browser",
        "schemaVersion": _SCHEMA_VERSION,
        "annotations": {"list": []},
        "links": [{"asDropdown": False, "icon": "dashboard", "includeVars": False, "keepTime": True, "tags": ["adumbra"],
                   "targetBlank": False, "title": "Adumbra", "tooltip": "", "type": "dashboards", "url": ""}],
        "templating": {"list": [_datasource(), *variables]},
        "panels": list(_placed(rows)),
    }  # fmt: skip


def choice(variable: Variable) -> dict[str, Any]:
    """A variable whose values are those of a label."""
    made: dict[str, Any] = {
        "type": "query", "name": variable.name, "label": variable.label, "datasource": SOURCE, "definition": variable.query,
        "query": variable.query, "refresh": 2, "sort": 7, "multi": variable.many, "includeAll": variable.many, "options": [],
        "hide": 0,
    }  # fmt: skip
    if variable.many:
        made |= {"allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    return made


def custom(name: str, label: str, values: Sequence[str]) -> dict[str, Any]:
    """A variable of fixed values, the first of which is chosen to begin with."""
    options = [{"selected": not place, "text": value, "value": value} for place, value in enumerate(values)]
    return {
        "type": "custom", "name": name, "label": label, "query": ",".join(values), "options": options, "current": options[0],
        "multi": False, "includeAll": False, "hide": 0,
    }  # fmt: skip


def _datasource() -> dict[str, Any]:
    return {
        "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1, "regex": "",
        "options": [], "multi": False, "includeAll": False, "hide": 0,
    }  # fmt: skip


def _placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The panels from top to bottom, each row's side by side as they fit."""
    top, number = 0, 1
    for row in rows:
        heading: dict[str, Any] = {
            "type": "row", "id": number, "title": row.title, "collapsed": row.folded, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
        }  # fmt: skip
        made, left, lowest, number, top = [], 0, 0, number + 1, top + 1
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                top, left, lowest = top + lowest, 0, 0
            made.append(_panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": panel.height}))
            left, lowest, number = left + panel.width, max(lowest, panel.height), number + 1
        top += lowest
        yield {**heading, "panels": made} if row.folded else heading
        yield from () if row.folded else made


def _panel(panel: Panel, number: int, place: Mapping[str, int]) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "id": number,
        "title": panel.title,
        "description": panel.told,
        "datasource": SOURCE,
        "gridPos": dict(place),
        "targets": [_target(line, at) for at, line in enumerate(panel.lines)],
        "fieldConfig": {"defaults": _DEFAULTS[panel.kind](panel), "overrides": _overrides(panel)},
        "options": _OPTIONS[panel.kind],
    }


def _target(line: Line, number: int) -> dict[str, Any]:
    return {
        "refId": chr(ord("A") + number), "datasource": SOURCE, "editorMode": "code", "expr": line.expr,
        "legendFormat": line.legend, "instant": line.instant, "range": not line.instant, "format": line.format,
    }  # fmt: skip


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """An interval is an area between two lines that aren't drawn."""
    if panel.band is None:
        return []
    upper, lower = panel.band
    unseen = [{"id": "custom.lineWidth", "value": 0}, {"id": "custom.showPoints", "value": "never"}]
    filled = [{"id": "custom.fillBelowTo", "value": lower}, {"id": "custom.fillOpacity", "value": 20}]
    return [
        {"matcher": {"id": "byName", "options": upper}, "properties": [*unseen, *filled]},
        {"matcher": {"id": "byName", "options": lower}, "properties": unseen},
    ]


_STEPS = {"mode": "absolute", "steps": [{"color": "green", "value": None}]}
_DEFAULTS: Mapping[str, Any] = {
    "timeseries": lambda panel: {
        "unit": panel.unit, "min": 0,
        "custom": {"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": 0, "showPoints": "auto",
                   "spanNulls": False},
    },
    "stat": lambda panel: {"unit": panel.unit, "thresholds": _STEPS, "color": {"mode": "thresholds"}},
    "heatmap": lambda _: {"custom": {"scaleDistribution": {"type": "linear"}}},
}  # fmt: skip
_OPTIONS: Mapping[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["mean", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "graphMode": "none", "colorMode": "none",
        "justifyMode": "auto", "textMode": "auto", "orientation": "auto", "wideLayout": True, "showPercentChange": False,
        "percentChangeColorMode": "standard",
    },
    "heatmap": {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange", "reverse": False},
        "yAxis": {"unit": "s", "axisPlacement": "left", "reverse": False}, "rowsFrame": {"layout": "le"}, "cellGap": 1,
        "showValue": "never", "legend": {"show": True}, "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9}, "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
    },
}  # fmt: skip
