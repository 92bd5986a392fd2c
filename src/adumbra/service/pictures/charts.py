"""A VM's charts: what was seen and simulated, what is forecast, and the sizes, by resource. From the stores to points; draws
nothing, decides nothing.

Times are ms since the epoch, as browsers have them; what isn't known is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.forecast.series import RESOURCE, panel
from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Floats, Origin, Quantiles, Series, SeriesQuery
from adumbra.schema.sizing import RESOURCES
from adumbra.schema.units import format_duration
from adumbra.service.pictures.networks import VmSizes
from adumbra.service.pictures.words import NAMES, UNITS, Mark, amount
from adumbra.service.workspace import Workspace

Points = tuple[tuple[int, float | None], ...]
POINTS = 300
_FAR = 4.0  # a size that is so many times what is drawn is told, not drawn: it would flatten everything else
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
_SIMULATED = ("cpu_cores", "memory_gb", "storage_gb")
_COLUMNS = (
    "cpu_seconds", "cpu_seconds_low", "cpu_seconds_high", "memory_bytes", "memory_bytes_low", "memory_bytes_high",
    "storage_bytes", "storage_bytes_low", "storage_bytes_high", "rx_bytes", "tx_bytes", "scan_bytes", "rx_packets",
    "tx_packets", "requests", "latency_ms_p99", "response_ms_p99",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart."""

    name: str
    mark: Mark
    points: Points


@dataclass(frozen=True, slots=True)
class Band:
    """What lies between two lines, point by point."""

    name: str
    mark: Mark
    low: Points
    high: Points


@dataclass(frozen=True, slots=True)
class Level:
    """A size, drawn across."""

    name: str
    mark: Mark
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """One quantity of one VM over time. notes: what is not drawn, and why; summary: the chart in a sentence."""

    key: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    bands: tuple[Band, ...]
    levels: tuple[Level, ...]
    notes: tuple[str, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class VmCharts:
    """A VM's charts. step_s: what a point stands for."""

    vm: str
    step_s: float
    charts: tuple[Chart, ...]


def step_for(interval_s: float, seconds: float, points: int = POINTS) -> float:
    """The step that brings so much time into about so many points; a multiple of the interval."""
    for step in _STEPS_S:
        whole = step / interval_s
        if step >= interval_s and abs(whole - round(whole)) < 1e-9 and seconds / step <= points:
            return step
    return max(1, math.ceil(seconds / points / interval_s)) * interval_s


def read(workspace: Workspace, name: str, vm: str, interval_s: float, last_s: float | None) -> Series | None:
    """What is stored of a VM's last so many seconds (None: all), in about POINTS steps; None where nothing is."""
    span = workspace.metrics.span(name)
    if span is None or vm not in workspace.metrics.vms(name):
        return None
    start_ns = span[0] if last_s is None else max(span[0], span[1] - round(last_s * NANOSECONDS))
    step_s = step_for(interval_s, (span[1] - start_ns) / NANOSECONDS)
    aligned = start_ns - start_ns % round(step_s * NANOSECONDS)
    return workspace.metrics.read(SeriesQuery(name, _COLUMNS, (vm,), aligned, span[1], step_s))


def read_live(workspace: Workspace, name: str, vm: str, like: Series) -> Series | None:
    """The same of the real VM, once there is one."""
    if workspace.metrics.span(name, Origin.LIVE) is None:
        return None
    end_ns = like.start_ns + round(like.steps * like.step_s * NANOSECONDS)
    query = SeriesQuery(name, _COLUMNS, (vm,), like.start_ns, end_ns, like.step_s, Origin.LIVE)
    try:
        found = workspace.metrics.read(query)
    except InputError:  # the real VMs are others than this
        return None
    return found if found.steps else None


def vm_charts(
    sizes: VmSizes, series: Series, live: Series | None = None, expected: Mapping[str, Quantiles] | None = None
) -> VmCharts:
    """The charts of a VM: its four resources, its requests and latencies."""
    found = [_resource(name, sizes, series, live, (expected or {}).get(name)) for name in RESOURCES]
    return VmCharts(sizes.vm, series.step_s, (*found, _requests(series), _latency(series)))


def _resource(
    resource: str, sizes: VmSizes, series: Series, live: Series | None, expected: Quantiles | None
) -> Chart:  # fmt: skip
    mark = Mark.SIMULATED if resource in _SIMULATED else Mark.OBSERVED
    values = panel(series, resource).values[0]
    lines, bands = [Line(mark.value, mark, points(series, values))], []
    if resource in _SIMULATED:
        low, high = (_bound(series, resource, end) for end in ("low", "high"))
        bands.append(Band("80 % of what is believed of the VM", Mark.SIMULATED, points(series, low), points(series, high)))
    if live is not None:
        lines.append(Line("live", Mark.LIVE, points(live, panel(live, resource).values[0])))
    notes = []
    if expected is not None and sizes.vm in expected.vms:
        forecast, median = _forecast(expected, expected.vms.index(sizes.vm))
        bands.append(forecast)
        lines.append(median)
    else:
        notes.append("no forecast yet")
    size = next(each for each in sizes.sizes if each.resource == resource)
    top = _top(lines, bands)
    levels, far = [], []
    for word, value in ((Mark.DECLARED, size.declared), (Mark.PROPOSED, size.proposed)):
        if value is None or (resource == "storage_gb" and word is Mark.DECLARED):
            continue
        if value <= top * _FAR:
            levels.append(Level(f"{word.value} {amount(resource, value)}", word, value))
        else:
            far.append(f"{word.value} {amount(resource, value)}")
    if far:
        notes.append(f"{' and '.join(far)}: far above what is drawn")
    return Chart(
        resource, NAMES[resource], UNITS[resource], tuple(lines), tuple(bands), tuple(levels), tuple(notes),
        _summary(NAMES[resource], UNITS[resource], values, mark, size.proposed),
    )  # fmt: skip


def _summary(name: str, unit: str, values: Floats, mark: Mark, proposed: float | None) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return f"{name}: nothing known."
    told = f"{name}, {mark.value}: mean {known.mean():.3g}, most {known.max():.3g} {unit}"
    return told + (f"; proposed {proposed:g} {unit}." if proposed is not None else ".")


def _bound(series: Series, resource: str, end: str) -> Floats:
    known = RESOURCE[resource]
    values = series.values[f"{known.columns[0]}_{end}"][0] * known.factor
    return np.asarray(values / series.step_s if known.per_second else values)


def _forecast(expected: Quantiles, row: int) -> tuple[Band, Line]:
    times = [round((expected.start_ns + h * expected.step_s * NANOSECONDS) / 1e6) for h in range(expected.values.shape[1])]

    def at(level: float) -> Points:
        values = expected.values[row, :, expected.levels.index(level)]
        return tuple(zip(times, (_number(value) for value in values), strict=True))

    low, middle, high = (min(expected.levels, key=lambda known: abs(known - want)) for want in (0.1, 0.5, 0.9))
    return Band("forecast, 80 %", Mark.FORECAST, at(low), at(high)), Line("forecast, median", Mark.FORECAST, at(middle))


def _requests(series: Series) -> Chart:
    values = series.values["requests"][0] / series.step_s
    line = Line("inferred", Mark.INFERRED, points(series, values))
    return Chart(
        "requests", "Requests", "req/s", (line,), (), (), (), _summary("Requests", "req/s", values, Mark.INFERRED, None)
    )


def _latency(series: Series) -> Chart:
    simulated, inferred = series.values["latency_ms_p99"][0], series.values["response_ms_p99"][0]
    lines = [Line("simulated, p99", Mark.SIMULATED, points(series, simulated))]
    if np.isfinite(inferred).any():
        lines.append(Line("response seen, p99", Mark.INFERRED, points(series, inferred)))
    summary = _summary("Latency p99", "ms", simulated, Mark.SIMULATED, None)
    return Chart("latency", "Latency p99", "ms", tuple(lines), (), (), (), summary)


def points(series: Series, values: Floats) -> Points:
    """A row of a series as points."""
    times = (series.start_ns + np.arange(len(values)) * round(series.step_s * NANOSECONDS)) // 1_000_000
    return tuple((int(time), _number(value)) for time, value in zip(times, values, strict=True))


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _top(lines: Sequence[Line], bands: Sequence[Band]) -> float:
    some = [line.points for line in lines] + [band.high for band in bands if band.mark is not Mark.SIMULATED]
    return max((value for each in some for _, value in each if value is not None), default=0.0)


def horizon_for(seconds: float) -> float:
    """How far ahead a chart of so much time looks: half of it, a minute to a week."""
    return min(max(seconds / 2, 60.0), 7 * 86_400.0)


def told_step(charts: VmCharts) -> str:
    return f"a point is {format_duration(charts.step_s)}"
