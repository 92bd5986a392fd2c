"""The charts of one VM of a network, for as long as somebody looks: which VM, how much time, and what is new."""

from __future__ import annotations

from nicegui import ui

from adumbra.console.context import Visitor
from adumbra.console.parts import echarts, frame
from adumbra.console.parts.markup import Column, Raw, details, e, mark, table
from adumbra.schema.errors import AdumbraError
from adumbra.schema.records import NANOSECONDS
from adumbra.schema.units import format_number, format_time
from adumbra.service.pictures import charts
from adumbra.service.pictures.charts import Chart, VmCharts
from adumbra.service.pictures.networks import Overview

SPANS: dict[str, float | None] = {"15 min": 900.0, "1 h": 3_600.0, "24 h": 86_400.0, "7 d": 604_800.0, "all": None}
_IN_TABLE = 24
MAX_CHOICES = 2_000
"""VMs that may be chosen: of larger networks, the first of the spec."""


def drawn(visitor: Visitor, found: Overview, vm: str, last_s: float | None) -> VmCharts | None:
    """The charts of a VM; None where nothing is stored of it."""
    console = visitor.console
    series = charts.read(console.workspace, found.name, vm, found.spec.interval, last_s)
    if series is None or not series.steps:
        return None
    expected = None
    if found.learned is not None:
        try:
            expected = console.previews.forecast(found.name, charts.horizon_for(series.steps * series.step_s))
        except AdumbraError:  # the chart says that there is no forecast
            expected = None
    sizes = next(row for row in found.sizes if row.vm == vm)
    return charts.vm_charts(sizes, series, charts.read_live(console.workspace, found.name, vm, series), expected)


class Curves:
    """The section of charts."""

    def __init__(self, visitor: Visitor, found: Overview) -> None:
        self._visitor, self._found = visitor, found
        self._vms = [vm.name for vm in found.vms[:MAX_CHOICES]]
        self._plots: dict[str, ui.echart] = {}
        self._heads: dict[str, frame.Shown] = {}
        self._words: dict[str, frame.Shown] = {}
        self._tables: dict[str, frame.Shown] = {}
        self._until: tuple[object, ...] = ()

    def build(self) -> None:
        with frame.section("Each VM over time", "charts"):
            with ui.element("div").classes("row q-mb"):
                self._vm = ui.select(self._vms, value=self._vms[0], label="VM", with_input=len(self._vms) > 12)
                self._span = ui.select(list(SPANS), value="all", label="Time shown")
                for each in (self._vm, self._span):
                    each.props("outlined dense options-dense").style("min-width:11rem")
                    each.on_value_change(self.refresh)
            self._none = frame.Shown('<p class="dim">Nothing was seen of this VM yet.</p>')
            self._grid = ui.element("div").classes("charts")

    async def refresh(self) -> None:
        """Reads again, if anything is new."""
        vm, span = str(self._vm.value), SPANS.get(str(self._span.value))
        mark_of_now = (vm, span, self._found.watched, self._found.learned, self._found.profiled_ns)
        if mark_of_now == self._until:
            return
        self._until = mark_of_now
        found = await frame.asked(lambda: drawn(self._visitor, self._found, vm, span))
        self._none.element.set_visibility(found is None)
        self._grid.set_visibility(found is not None)
        if found is not None:
            self._show(found)

    def follow(self, found: Overview) -> None:
        """What is known of the network now."""
        self._found = found

    def _show(self, found: VmCharts) -> None:
        for chart in found.charts:
            options = echarts.options(chart)
            if chart.key not in self._plots:
                self._make(chart, options)
            plot = self._plots[chart.key]
            plot.options.clear()
            plot.options.update(options)
            plot.update()
            plot.props(f'aria-label="{e(f"{found.vm}: {chart.summary}")}"')
            self._heads[chart.key].show(_head(chart))
            self._words[chart.key].show(_notes(chart))
            self._tables[chart.key].show(
                details(
                    Raw(f'As a table<span class="unseen">: {e(chart.title)} of {e(found.vm)}</span>'), as_table(found.vm, chart)
                )
            )

    def _make(self, chart: Chart, options: dict[str, object]) -> None:
        with self._grid, ui.element("div").classes("chart"):
            self._heads[chart.key] = frame.Shown()
            self._plots[chart.key] = ui.echart(options, renderer="svg").classes("plot").props('role="img"')
            self._words[chart.key] = frame.Shown()
            self._tables[chart.key] = frame.Shown()


def _head(chart: Chart) -> str:
    marks = " ".join(dict.fromkeys(mark(line.mark).markup for line in chart.lines))
    return f'<h3>{e(chart.title)} <span class="unit">{e(chart.unit)}</span> {marks}</h3>'


def _notes(chart: Chart) -> str:
    return f'<p class="note">{e("; ".join(chart.notes))}</p>' if chart.notes else ""


def as_table(vm: str, chart: Chart) -> str:
    """A chart for those who don't see it: so many of its points, and its bands."""
    names = [line.name for line in chart.lines]
    values = [dict(line.points) for line in chart.lines]
    names += [f"{band.name}: {end}" for band in chart.bands for end in ("from", "to")]
    values += [dict(points) for band in chart.bands for points in (band.low, band.high)]
    times = sorted({time for each in values for time in each})
    every = max(1, -(-len(times) // _IN_TABLE))
    rows = [
        [format_time(time * NANOSECONDS // 1000)[:19].replace("T", " "), *(_cell(each.get(time)) for each in values)]
        for time in times[::every]
    ]
    columns = [Column("Time"), *(Column(f"{name}, {chart.unit}", figure=True) for name in names)]
    return table(f"{chart.title} of {vm}, every {every}. point" if every > 1 else f"{chart.title} of {vm}", columns, rows)


def _cell(value: float | None) -> str:
    return "–" if value is None else format_number(value)
