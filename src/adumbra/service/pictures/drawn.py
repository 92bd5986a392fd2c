"""A chart as SVG that needs no script: for a page that is sent, and printed. Pure; whatever comes from outside is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from adumbra.schema.units import format_number
from adumbra.service.pictures.charts import Band, Chart, Points
from adumbra.service.pictures.words import Mark

WIDTH, HEIGHT = 460.0, 178.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 8.0, 12.0, 24.0
_DASHES = {Mark.FORECAST: "5 4", Mark.DECLARED: "2 3"}
_STEPS_MS = tuple(
    each * 1000 for each in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400,
                             172_800, 604_800, 1_209_600, 2_592_000)
)  # fmt: skip


def svg(chart: Chart, label: str) -> str:
    """The chart, with its summary for those who don't see it."""
    times = [time for each in _all(chart) for time, _ in each]
    if not times:
        return '<p class="dim">Nothing known.</p>'
    frame = _Frame(min(times), max(times), _top(chart))
    parts = [
        (
            f'<svg class="chart" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" '
            f'aria-label="{html.escape(label, quote=True)}" xmlns="http://www.w3.org/2000/svg"><desc>{html.escape(chart.summary)}</desc>'
        )
    ]
    parts += frame.axes()
    parts += [f'<path class="c-band {band.mark.value}" d="{frame.area(band)}"/>' for band in chart.bands]
    parts += [
        f'<path class="c-line {line.mark.value}" d="{frame.path(line.points)}"{_dash(line.mark)}/>' for line in chart.lines
    ]
    for level in chart.levels:
        y = frame.y(level.value)
        parts.append(
            f'<path class="c-line {level.mark.value}" d="M{_LEFT:.1f} {y:.1f}H{WIDTH - _RIGHT:.1f}"{_dash(level.mark)}/>'
            f'<text class="c-word {level.mark.value}" x="{WIDTH - _RIGHT - 3:.1f}" y="{y - 3:.1f}" text-anchor="end">'
            f"{html.escape(level.name)}</text>"
        )
    return "".join([*parts, "</svg>"])


def _all(chart: Chart) -> Iterator[Points]:
    yield from (line.points for line in chart.lines)
    for band in chart.bands:
        yield from (band.low, band.high)


def _top(chart: Chart) -> float:
    values = [value for each in _all(chart) for _, value in each if value is not None]
    return max([*values, *(level.value for level in chart.levels)], default=0.0) or 1.0


def _dash(mark: Mark) -> str:
    return f' stroke-dasharray="{_DASHES[mark]}"' if mark in _DASHES else ""


class _Frame:
    """Where times and values stand in the picture."""

    def __init__(self, start_ms: int, end_ms: int, top: float) -> None:
        self._start, self._end = start_ms, max(end_ms, start_ms + 1)
        self._step = _nice(top / 3)
        self._top = math.ceil(top * 1.02 / self._step) * self._step

    def x(self, time_ms: float) -> float:
        return _LEFT + (time_ms - self._start) / (self._end - self._start) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - value / self._top * (HEIGHT - _BOTTOM - _TOP)

    def axes(self) -> Iterator[str]:
        for number in range(round(self._top / self._step) + 1):
            value = number * self._step
            y = self.y(value)
            yield f'<path class="c-grid" d="M{_LEFT:.1f} {y:.1f}H{WIDTH - _RIGHT:.1f}"/>'
            yield f'<text class="c-tick" x="{_LEFT - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{format_number(value)}</text>'
        span = self._end - self._start
        step = next((each for each in _STEPS_MS if span / each <= 5), _STEPS_MS[-1])
        for time in range(-(-self._start // step) * step, self._end + 1, step):
            x = self.x(time)
            if _LEFT + 8 <= x <= WIDTH - 22:
                yield f'<text class="c-tick" x="{x:.1f}" y="{HEIGHT - 8:.1f}" text-anchor="middle">{_time(time, step)}</text>'

    def path(self, points: Points) -> str:
        """A line, broken where nothing is known."""
        parts, down = [], False
        for time, value in points:
            if value is None:
                down = False
                continue
            parts.append(f"{'L' if down else 'M'}{self.x(time):.1f} {self.y(value):.1f}")
            down = True
        return "".join(parts)

    def area(self, band: Band) -> str:
        parts: list[str] = []
        run: list[tuple[int, float, float]] = []
        for (time, low), (_, high) in zip(band.low, band.high, strict=True):
            if low is None or high is None:
                parts += self._closed(run)
                run = []
            else:
                run.append((time, low, high))
        return "".join([*parts, *self._closed(run)])

    def _closed(self, run: Sequence[tuple[int, float, float]]) -> list[str]:
        if len(run) < 2:
            return []
        there = "L".join(f"{self.x(time):.1f} {self.y(high):.1f}" for time, _, high in run)
        back = "L".join(f"{self.x(time):.1f} {self.y(low):.1f}" for time, low, _ in reversed(run))
        return [f"M{there}L{back}Z"]


def _nice(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= value * 0.999)


def _time(time_ms: int, step_ms: int) -> str:
    at = datetime.fromtimestamp(time_ms / 1000, UTC)
    if step_ms >= 86_400_000:
        return at.strftime("%d %b")
    return at.strftime("%H:%M:%S" if step_ms < 60_000 else "%H:%M")
