"""A chart as options for ECharts. Pure. Colours are variables of the style sheet, which its SVG renderer leaves alone."""

from __future__ import annotations

from typing import Any

from adumbra.service.pictures.charts import Band, Chart, Line
from adumbra.service.pictures.words import Mark

_DASHED = {Mark.FORECAST: "dashed", Mark.DECLARED: "dotted", Mark.PROPOSED: "solid"}
FONT = "system-ui, 'Segoe UI', 'Noto Sans', Roboto, sans-serif"
_INK, _DIM, _LINE = "var(--ink)", "var(--dim)", "var(--line)"


def color(mark: Mark) -> str:
    return f"var(--{mark.value})"


def options(chart: Chart) -> dict[str, Any]:
    """What ECharts draws."""
    series: list[dict[str, Any]] = []
    for number, band in enumerate(chart.bands):
        series += _band(band, f"band-{number}")
    series += [_line(line) for line in chart.lines]
    if series and chart.levels:
        series[-1]["markLine"] = {
            "silent": True, "symbol": "none", "animation": False,
            "data": [
                {"yAxis": level.value, "lineStyle": {"color": color(level.mark), "type": _DASHED[level.mark], "width": 1.5},
                 "label": {"formatter": level.name, "position": "insideEndTop", "color": color(level.mark), "fontSize": 11}}
                for level in chart.levels
            ],
        }  # fmt: skip
    return {
        "animation": False,
        "textStyle": {"fontFamily": FONT},
        "aria": {"enabled": False},
        "grid": {"left": 46, "right": 14, "top": 14, "bottom": 24},
        "tooltip": {
            "trigger": "axis", "confine": True, "appendToBody": False, "order": "seriesAsc", "className": "chart-tip",
            "backgroundColor": "var(--panel)", "borderColor": _LINE, "textStyle": {"color": _INK, "fontSize": 12},
            "axisPointer": {"lineStyle": {"color": _DIM}},
        },
        "xAxis": {
            "type": "time", "splitNumber": 4, "axisLine": {"lineStyle": {"color": _LINE}},
            "axisTick": {"lineStyle": {"color": _LINE}},
            "axisLabel": {"color": _DIM, "fontSize": 11, "hideOverlap": True, "formatter": {
                "year": "{yyyy}", "month": "{MMM}", "day": "{d} {MMM}", "hour": "{HH}:{mm}", "minute": "{HH}:{mm}",
                "second": "{HH}:{mm}:{ss}", "millisecond": "{HH}:{mm}:{ss}"}},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "value", "min": 0, "splitNumber": 3, "axisLabel": {"color": _DIM, "fontSize": 11},
            "splitLine": {"lineStyle": {"color": _LINE}},
        },
        "useUTC": True,
        "series": series,
    }  # fmt: skip


def _line(line: Line) -> dict[str, Any]:
    return {
        "type": "line", "name": line.name, "data": [list(point) for point in line.points], "showSymbol": False,
        "connectNulls": False, "emphasis": {"disabled": True}, "itemStyle": {"color": color(line.mark)},
        "lineStyle": {"color": color(line.mark), "width": 1.6, "type": _DASHED.get(line.mark, "solid")}, "z": 3,
    }  # fmt: skip


def _band(band: Band, stack: str) -> list[dict[str, Any]]:
    """A band is an unseen line, and an area stacked on it."""
    plain: dict[str, Any] = {
        "type": "line", "stack": stack, "stackStrategy": "all", "showSymbol": False, "silent": True,
        "emphasis": {"disabled": True}, "lineStyle": {"opacity": 0}, "itemStyle": {"color": color(band.mark)},
        "tooltip": {"show": False}, "z": 2,
    }  # fmt: skip
    low = [list(point) for point in band.low]
    wide = [
        [at, None if low_value is None or high_value is None else round(high_value - low_value, 9)]
        for (at, low_value), (_, high_value) in zip(band.low, band.high, strict=True)
    ]
    return [
        {**plain, "name": f"{band.name}, from", "data": low},
        {**plain, "name": band.name, "data": wide, "areaStyle": {"color": color(band.mark), "opacity": 0.18}},
    ]
