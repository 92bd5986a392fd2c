"""The figures of a report, as plain data for plotly: frontier, promise, VMs by shortness, coverage, sizes over time. Pure.

Colours are names of variables of the page's style sheet. Whatever comes from outside, such as a VM's name, is escaped here:
plotly reads labels as a little HTML.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adumbra.schema.backtests import Risk
from adumbra.schema.records import NANOSECONDS, Floats
from adumbra.schema.units import format_duration, format_number
from adumbra.service.backtests import DECLARED, ORACLE, OURS, ResourceReport, Scored
from adumbra.service.report.series import digits, maxima, summed
from adumbra.service.report.words import FIGURES, UNITS, allocated_of, called, cells, short_of

Figure = Mapping[str, Any]

BANDS: tuple[tuple[float, str, str, str], ...] = (
    (0.0, "never", "--never", "--ink"),
    (0.5, "up to 0.5 %", "--b1", "--ink"),
    (1.0, "0.5 to 1 %", "--b2", "#10151c"),
    (2.0, "1 to 2 %", "--b3", "#10151c"),
    (5.0, "2 to 5 %", "--b4", "#10151c"),
    (math.inf, "more than 5 %", "--b5", "#ffffff"),
)
"""How often VMs are short: up to so many percent, in words, colour, and the colour of what is written on it."""
_LOOK = {
    Risk.PER_VM: {"color": "--per-vm", "symbol": "circle", "dash": "solid"},
    Risk.POOLED: {"color": "--pooled", "symbol": "square", "dash": "dot"},
}
_TICKS = tuple(float(f"{digit}e{power}") for power in range(-5, 3) for digit in (1, 2, 5))
_COVERAGE_POINTS = 200


def text(raw: str, most: int = 80) -> str:
    """Text from outside as plotly may show it."""
    return html.escape(raw if len(raw) <= most else raw[: most - 1] + "…", quote=False)


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 8}, "fixedrange": False, **more}


def _layout(height: int, **more: Any) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 56, "r": 14, "t": 34, "b": 46},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemsizing": "constant"},
        **more,
    }


def _log_axis(title: str, values: Sequence[float], floor: float) -> dict[str, Any]:
    """A logarithmic axis of percentages. Its left end, floor, stands for nothing at all where there is such a value."""
    top = max([*values, floor * 20]) * 1.5
    zero = [floor] if min(values, default=1.0) <= floor else []
    ticks = [tick for tick in _TICKS if floor * 1.6 <= tick <= top]
    wide = len(ticks) > 8
    shown = [format_number(tick) if not wide or f"{tick:e}".startswith("1") else "" for tick in ticks]
    return _axis(
        title,
        type="log",
        range=[math.log10(floor * 0.8), math.log10(top)],
        tickvals=[*zero, *ticks],
        ticktext=["0" for _ in zero] + shown,
        zeroline=False,
    )


def floor_of(values: Sequence[float]) -> float:
    """Where a logarithmic axis shows nothing at all: below the least that there is, and not far below what can be read."""
    positive = [value for value in values if value > 0]
    return max(min([*positive, 0.5]) / 2, 1e-3)


def hover(scored: Scored) -> str:
    """All figures of a point."""
    names = [name.replace("\n", " ").removesuffix(" %") for name in FIGURES[1:]]
    units = [" %" if name.endswith("%") else "" for name in FIGURES[1:]]
    said = [f"{name}: {cell}{unit}" for name, cell, unit in zip(names, cells(scored), units, strict=True) if cell != "-"]
    lines = [f"<b>{text(called(scored.given))}</b>", text(scored.given.title, 110), *said]
    return "<br>".join(lines)


def frontier(found: ResourceReport) -> Figure:
    """Allocated against short: rules as points, ours as curves over the dial."""
    floor = floor_of([short_of(each) for each in found.scored])

    def at(each: Scored) -> float:
        return max(short_of(each), floor)

    shown = [each for each in found.scored if not math.isnan(allocated_of(each)) and not math.isnan(short_of(each))]
    far = [each for each in shown if each.given.rule == DECLARED]
    near = [each for each in shown if each not in far]
    traces, labels = [], []
    for risk, look in _LOOK.items():
        ours = sorted((each for each in near if each.given.rule == OURS and each.given.risk is risk), key=short_of)
        if not ours:
            continue
        traces.append(
            _points(ours, at, f"Adumbra, {risk.value}", {"color": look["color"], "symbol": look["symbol"], "size": 9})
            | {"mode": "lines+markers", "line": {"color": look["color"], "width": 2.5, "dash": look["dash"]}}
        )
        labels += [_label(f"{format_number((each.given.dial or 0) * 100)} %", at(each), each, look["color"]) for each in ours]
    rules = [each for each in near if each.given.rule not in {OURS, ORACLE}]
    traces.append(_points(rules, at, "rules people use", {"color": "--rule", "symbol": "diamond", "size": 10}))
    labels += [_label(names, at(each), each, "--ink") for names, each in _at_one_place(rules)]
    oracle = [each for each in near if each.given.rule == ORACLE]
    if oracle:
        traces.append(_points(oracle, at, "oracle", {"color": "--oracle", "symbol": "star", "size": 13}))
        labels += [_label(ORACLE, at(each), each, "--oracle") for each in oracle]
    top = max([allocated_of(each) for each in near], default=100.0)
    layout = _layout(
        500,
        xaxis=_log_axis("short: % of the intervals (log)", [at(each) for each in near], floor),
        yaxis=_axis("allocated: % of what was provisioned", range=[0, top * 1.12], zeroline=False),
    )
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout, "labels": labels}


def _points(each: Sequence[Scored], at: Any, name: str, marker: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "marker": dict(marker),
        "x": [at(one) for one in each],
        "y": [allocated_of(one) for one in each],
        "hovertext": [hover(one) for one in each],
        "hoverinfo": "text",
        "cliponaxis": False,
    }


def _at_one_place(rules: Sequence[Scored]) -> list[tuple[str, Scored]]:
    """The rules that a label stands for: those whose points can't be told apart share one."""
    places: dict[tuple[str, str], list[Scored]] = {}
    for each in rules:
        places.setdefault((f"{short_of(each):.2g}", f"{allocated_of(each):.3g}"), []).append(each)
    return [(", ".join(each.given.rule for each in some), some[0]) for some in places.values()]


def _label(words: str, x: float, each: Scored, color: str) -> dict[str, Any]:
    return {"text": words, "html": text(words, 60), "x": x, "y": allocated_of(each), "color": color}


def promise(found: ResourceReport) -> Figure | None:
    """What was asked of the dial against what came; None where nothing has a dial."""
    ours = [each for each in found.scored if each.given.dial and not math.isnan(short_of(each))]
    if not ours:
        return None
    asked = sorted({(each.given.dial or 0) * 100 for each in ours})
    floor = min(floor_of([short_of(each) for each in ours]), asked[0] / 4)
    ends = [asked[0] / 2, asked[-1] * 2]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [*ends, *ends[::-1]],
            "y": [0.7 * ends[0], 0.7 * ends[1], 1.3 * ends[1], 1.3 * ends[0]],
            "fill": "toself",
            "fillcolor": "--band",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "name": "0.7 to 1.3 times",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "x": ends,
            "y": ends,
            "line": {"color": "--oracle", "width": 1.5, "dash": "dash"},
            "hoverinfo": "skip",
            "name": "as asked",
        },
    ]
    for risk, look in _LOOK.items():
        some = sorted((each for each in ours if each.given.risk is risk), key=lambda each: each.given.dial or 0)
        if some:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": risk.value,
                    "x": [(each.given.dial or 0) * 100 for each in some],
                    "y": [max(short_of(each), floor) for each in some],
                    "hoverinfo": "text",
                    "hovertext": [hover(each) for each in some],
                    "line": {"color": look["color"], "width": 2, "dash": look["dash"]},
                    "marker": {"color": look["color"], "symbol": look["symbol"], "size": 9},
                }
            )
    x_axis = _axis(
        "asked: % of time",
        type="log",
        range=[math.log10(end) for end in ends],
        tickvals=asked,
        ticktext=[format_number(each) for each in asked],
        zeroline=False,
    )
    came = [max(short_of(each), floor) for each in ours]
    y_axis = _log_axis("realised: % (log)", [*came, ends[1] / 1.5], floor)
    return {"data": traces, "layout": _layout(360, xaxis=x_axis, yaxis=y_axis)}


def bands(chosen: Sequence[Scored]) -> Figure:
    """For each of some rules, the VMs by how often they were short."""
    names = [text(called(each.given), 34) for each in chosen]
    counted = [_in_bands(each.short_of_vms) for each in chosen]
    traces = []
    for number, (_, words, color, ink) in enumerate(BANDS):
        shares = [100 * counts[number] / max(sum(counts), 1) for counts in counted]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": words,
                "y": names,
                "x": shares,
                "marker": {"color": color},
                "text": [f"{share:.0f}" if share >= 6 else "" for share in shares],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "insidetextfont": {"color": ink},
                "hoverinfo": "text",
                "hovertext": [
                    f"{name}<br>short {words}: {counts[number]:,} of {sum(counts):,} VMs ({share:.1f} %)"
                    for name, counts, share in zip(names, counted, shares, strict=True)
                ],
            }
        )
    layout = _layout(
        120 + 30 * len(names),
        barmode="stack",
        bargap=0.25,
        xaxis=_axis("VMs, %", range=[0, 100], tickvals=list(range(0, 101, 20)), ticksuffix=" %"),
        yaxis=_axis("", autorange="reversed", ticksuffix="  "),
    )
    layout["legend"]["traceorder"] = "normal"
    layout["margin"]["r"] = 28
    return {"data": traces, "layout": layout}


def _in_bands(percents: Floats) -> list[int]:
    """How many VMs fall into each band."""
    known = percents[np.isfinite(percents)]
    tops = np.array([top for top, *_ in BANDS])
    where = np.searchsorted(tops, known, side="left")
    return [int(count) for count in np.bincount(where, minlength=len(BANDS))]


def coverage(found: ResourceReport, chosen: Sequence[Scored]) -> Figure:
    """Over time, the share of measured intervals in which VMs had enough; with what the dial promises."""
    step_ns = round(found.use.panel.step_s * NANOSECONDS)
    traces: list[dict[str, Any]] = []
    times = found.use.panel.start_ns + found.schedule.origins * step_ns
    for each in chosen:
        short, together = summed(each.over_time.short, _COVERAGE_POINTS)
        measured, _ = summed(each.over_time.measured, _COVERAGE_POINTS)
        share = 100 - 100 * short / np.where(measured > 0, measured, np.nan)
        look = _LOOK[each.given.risk] if each.given.risk else {"color": "--rule", "symbol": "diamond", "dash": "dash"}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": text(called(each.given), 34),
                "x": (times[::together] // 1_000_000).tolist(),
                "y": digits(share, 5),
                "line": {"color": look["color"], "width": 2, "dash": look["dash"]},
                "marker": {"color": look["color"], "symbol": look["symbol"], "size": 5},
                "hovertemplate": "%{x|%Y-%m-%d %H:%M}: %{y:.2f} %",
            }
        )
    dials = sorted({each.given.dial for each in chosen if each.given.dial})
    shapes = [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": 100 - 100 * dial,
            "y1": 100 - 100 * dial,
            "line": {"color": "--oracle", "width": 1.5, "dash": "dash"},
        }
        for dial in dials
    ]
    y_axis = _axis("covered: % of intervals", rangemode="normal", zeroline=False)
    return {"data": traces, "layout": _layout(360, xaxis=_axis("", type="date"), yaxis=y_axis, shapes=shapes)}


def sizes(found: ResourceReport, vm: int, chosen: Sequence[Scored]) -> Figure:
    """One VM's use over the time that is scored, and what some gave it. Of use, the maxima are kept."""
    panel, schedule = found.use.panel, found.schedule
    step_ns = round(panel.step_s * NANOSECONDS)
    first, end = int(schedule.origins[0]), min(int(schedule.origins[-1]) + schedule.held_steps, panel.values.shape[1])
    used, each = maxima(panel.values[vm, first:end])
    unit = UNITS.get(panel.resource, "")
    start_ms, each_ms = (panel.start_ns + first * step_ns) / 1e6, each * step_ns / 1e6
    said = f"use (the largest of each {format_duration(each * panel.step_s)})" if each > 1 else "use"
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": said,
            "x0": start_ms,
            "dx": each_ms,
            "y": digits(used),
            "line": {"color": "--use", "width": 1},
            "fill": "tozeroy",
            "hovertemplate": f"%{{x|%Y-%m-%d %H:%M}}: %{{y}} {unit}",
        }
    ]
    times = ((panel.start_ns + np.append(schedule.origins, end) * step_ns) // 1_000_000).tolist()
    for one in chosen:
        amounts = one.given.amounts[:, vm]
        look = _LOOK[one.given.risk] if one.given.risk else {"color": "--rule", "dash": "dash"}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": text(called(one.given), 34),
                "x": times,
                "y": digits(np.append(amounts, amounts[-1])),
                "line": {
                    "color": look["color"],
                    "width": 2,
                    "dash": look["dash"] if one.given.risk is None else "solid",
                    "shape": "hv",
                },
                "hovertemplate": f"%{{x|%Y-%m-%d %H:%M}}: %{{y}} {unit}",
            }
        )
    y_axis = _axis(unit, rangemode="tozero", zeroline=False)
    return {"data": traces, "layout": _layout(300, xaxis=_axis("", type="date"), yaxis=y_axis, hovermode="x unified")}
