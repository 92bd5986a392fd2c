"""How often connections come: a rate that follows the trend or the time of day, and how bursty they are about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adumbra.schema.records import NANOSECONDS, Floats, Ints

DAY_S = 86_400.0
DAYS_S = 2 * DAY_S
"""The least history of which a daily profile is made."""
DAY_BINS = 96
_DAY_SMOOTH_BINS = 2.0
_MOST_CELLS = 4_000_000
_MOST_SMOOTH_S = 1800.0
_SMOOTHS = 15  # parts of the history over which a trend is smoothed
_SCALES = 12
_LEAST_STEPS = 16
_PARTS, _LEAST_WINDOWS = 12, 8
_MOST_CLUSTER, _MOST_MODULATION = 200.0, 25.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Connections a second of R rows over time. knots: float64[R, K], the trend at start_ns + k x knot_s seconds; day: float64[
    R, DAY_BINS], by time of day (UTC), none where the history is too short; mean: float64[R].
    """

    start_ns: int
    knot_s: float
    knots: Floats
    day: Floats | None
    mean: Floats

    def at(self, time_ns: int) -> Floats:
        """The rate at a time, float64[R]: the trend within the history; beyond it the time of day's, or else the mean."""
        place = (time_ns - self.start_ns) / NANOSECONDS / self.knot_s if self.knot_s > 0 else -1.0
        if 0 <= place <= self.knots.shape[1] - 1:
            low = min(int(place), self.knots.shape[1] - 2)
            return np.asarray(self.knots[:, low] + (place - low) * (self.knots[:, low + 1] - self.knots[:, low]))
        if self.day is None:
            return self.mean
        bins = (time_ns / NANOSECONDS % DAY_S) / DAY_S * DAY_BINS - 0.5
        low, part = int(np.floor(bins)) % DAY_BINS, bins - np.floor(bins)
        return np.asarray(self.day[:, low] * (1 - part) + self.day[:, (low + 1) % DAY_BINS] * part)

    def over(self, start_ns: int, step_s: float, steps: int) -> Floats:
        """The rate at the middle of each of so many steps, float64[R, T]."""
        middle = start_ns + (np.arange(steps) + 0.5) * step_s * NANOSECONDS
        return np.stack([self.at(int(time_ns)) for time_ns in middle], axis=1) if steps else np.zeros((len(self.mean), 0))

    @property
    def width_s(self) -> float:
        """How far around a moment its trend reaches."""
        return 2.0 * self.knot_s

    def covers(self, time_ns: int) -> bool:
        """Whether the trend was seen at this time."""
        return bool(0 <= time_ns - self.start_ns <= (self.knots.shape[1] - 1) * self.knot_s * NANOSECONDS)


def constant_rates(mean: Floats) -> Rates:
    return Rates(0, 0.0, np.zeros((len(mean), 1)), None, mean)


def fit_rates(start_ns: int, step_s: float, counts: Floats) -> Rates:
    """Rates of rows of counts, float64[R, T] in steps of step_s, NaN in gaps."""
    known = ~np.isnan(counts)
    mean = np.divide(np.nansum(counts, axis=1), known.sum(axis=1) * step_s, out=np.zeros(len(counts)), where=known.any(axis=1))
    steps = counts.shape[1]
    if steps < _LEAST_STEPS:
        return constant_rates(mean)
    length_s = steps * step_s
    width_s = max(min(length_s / _SMOOTHS, _MOST_SMOOTH_S), 2.0 * step_s)
    most_knots = max(_MOST_CELLS // max(len(counts), 1), 2)
    knot_s = max(width_s / 2.0, length_s / (most_knots - 1), step_s)
    places = np.arange(0.0, length_s + knot_s, knot_s)
    knots = np.stack([_smooth(counts, step_s, place, max(width_s, knot_s), mean) for place in places], axis=1)
    return Rates(start_ns, float(knot_s), knots, _day(start_ns, step_s, counts, mean), mean)


def _smooth(counts: Floats, step_s: float, place_s: float, width_s: float, mean: Floats) -> Floats:
    """The rate around a place: a weighted mean that fades to both sides (Epanechnikov's kernel)."""
    first = max(int((place_s - width_s) / step_s), 0)
    last = min(int((place_s + width_s) / step_s) + 1, counts.shape[1])
    if first >= last:
        return mean
    offset = ((np.arange(first, last) + 0.5) * step_s - place_s) / width_s
    part = counts[:, first:last]
    weight = np.maximum(1.0 - offset**2, 0.0) * ~np.isnan(part)
    total = weight.sum(axis=1)
    smooth: Floats = np.divide((weight * np.nan_to_num(part)).sum(axis=1), total * step_s, out=mean.copy(), where=total > 0)
    return smooth


def _day(start_ns: int, step_s: float, counts: Floats, mean: Floats) -> Floats | None:
    """The rate by time of day, smoothed around the clock; none where the history is too short, or its steps are long."""
    if counts.shape[1] * step_s < DAYS_S or step_s > DAY_S / 24:
        return None
    time_s = start_ns / NANOSECONDS + (np.arange(counts.shape[1]) + 0.5) * step_s
    place: Ints = np.asarray(time_s % DAY_S / DAY_S * DAY_BINS, np.int64)
    sums, seen = np.zeros((len(counts), DAY_BINS)), np.zeros((len(counts), DAY_BINS))
    for b in range(DAY_BINS):
        part = counts[:, place == b]
        sums[:, b], seen[:, b] = np.nansum(part, axis=1), (~np.isnan(part)).sum(axis=1)
    distance = np.minimum(np.arange(DAY_BINS), DAY_BINS - np.arange(DAY_BINS))
    kernel = np.exp(-0.5 * (distance / max(_DAY_SMOOTH_BINS, step_s / DAY_S * DAY_BINS)) ** 2)
    around = np.stack([np.roll(kernel, b) for b in range(DAY_BINS)])
    weight = seen @ around
    base = np.repeat(mean[:, None], DAY_BINS, axis=1)
    rate: Floats = np.divide(sums @ around, weight * step_s, out=base, where=weight > 0)
    return rate


@dataclass(frozen=True, slots=True)
class Bursts:
    """cluster: connections that come together, mean of a geometric number; modulation: relative variance of the rate about its
    trend, whose correlation fades as exp(-t / modulation_s).
    """

    cluster: float = 1.0
    modulation: float = 0.0
    modulation_s: float = 1.0


def fit_bursts(counts: Floats, trend: Floats, step_s: float, width_s: float) -> list[Bursts]:
    """How bursty each row of counts is about its trend, both float64[R, T], from its index of dispersion over several scales.

    Of a Poisson cluster process whose rate is modulated, I(t) = 1 + 2 (cluster - 1) + rate x modulation x 2 m (1 - (1 -
    exp(-t / m)) m / t): the mean and variance of counts of a Cox process with exponential correlation (Cox and Isham, 1980),
    and of geometric clusters. Least squares, neither below 0, over a grid of m. width_s: of the trend, as Rates.width_s.
    """
    return [_bursts_of(row, about, step_s, width_s) for row, about in zip(counts, trend, strict=True)]


def _bursts_of(row: Floats, trend: Floats, step_s: float, width_s: float) -> Bursts:
    first, last = _longest_known(row)
    row, trend = row[first:last], trend[first:last]
    if len(row) < 4 * _LEAST_STEPS or row.sum() < 50:
        return Bursts()
    scales, excess, weights = (np.array(each) for each in zip(*dispersion(row, trend, width_s / step_s), strict=True))
    rate = row.mean() / step_s
    best = (np.inf, Bursts())
    for correlated_s in step_s * np.geomspace(0.5, max(scales[-1], 1.0), 24):
        time = scales * step_s
        shape = 2.0 * correlated_s * (1.0 + np.expm1(-time / correlated_s) * correlated_s / time)
        left, fitted = _two_shapes(np.ones_like(shape), shape, excess - 1.0, weights)
        if left < best[0] - 1e-12:
            cluster = min(1.0 + fitted[0] / 2.0, _MOST_CLUSTER)
            best = (left, Bursts(float(cluster), float(min(fitted[1] / rate, _MOST_MODULATION)), float(correlated_s)))
    return best[1]


def dispersion(row: Floats, trend: Floats, width: float) -> Iterator[tuple[int, float, float]]:
    """Scale, index of dispersion of counts over so many steps about a trend, and its weight; doubling scales.

    The trend came of the same counts, smoothed over `width` steps to both sides, and took a part of their variance with it:
    1 - 0.9 scale / width is left (of Epanechnikov's kernel), so scales go up to a quarter of the width.
    """
    scale = 1
    while scale <= max(min(width / 4.0, len(row) / _LEAST_STEPS), 1.0) and scale < 2**_SCALES:
        whole = len(row) // scale * scale
        windows = row[:whole].reshape(-1, scale).sum(axis=1)
        about = trend[:whole].reshape(-1, scale).sum(axis=1)
        left = max(1.0 - 0.9 * scale / width, 0.5)
        yield scale, _usual_dispersion((windows - about) ** 2 / left, windows), float(len(windows))
        scale *= 2


def _usual_dispersion(squares: Floats, counts: Floats) -> float:
    """Mean of squares over mean of counts, as it is in the middle one of some parts of the time: a single event in the
    history, such as an outage, is no burstiness. The median of a chi-square is below its mean (Wilson and Hilferty, 1931).
    """
    parts = min(_PARTS, len(counts) // _LEAST_WINDOWS)
    if parts < 3:
        return float(squares.sum() / max(counts.sum(), 1e-9))
    split = [
        (float(s.sum()), float(c.sum()))
        for s, c in zip(np.array_split(squares, parts), np.array_split(counts, parts), strict=True)
    ]
    found = [square / count for square, count in split if count > 0]
    freedom = len(counts) / parts
    return float(np.median(found) / (1.0 - 2.0 / (9.0 * freedom)) ** 3) if found else 1.0


def _two_shapes(first: Floats, second: Floats, wanted: Floats, weights: Floats) -> tuple[float, tuple[float, float]]:
    """Weighted least squares of two shapes, neither below 0: what is left, and their amounts."""
    of_first, of_second, mixed = (
        float((weights * x * y).sum()) for x, y in ((first, first), (second, second), (first, second))
    )
    on_first, on_second = float((weights * first * wanted).sum()), float((weights * second * wanted).sum())
    amounts = [(0.0, 0.0), (max(on_first / of_first, 0.0), 0.0), (0.0, max(on_second / of_second, 0.0))]
    apart = of_first * of_second - mixed * mixed
    if apart > 1e-9 * of_first * of_second:
        both = (of_second * on_first - mixed * on_second) / apart, (of_first * on_second - mixed * on_first) / apart
        amounts += [both] if min(both) >= 0.0 else []
    whole = float((weights * wanted * wanted).sum())
    return min(
        (whole - 2 * (a * on_first + b * on_second) + a * a * of_first + b * b * of_second + 2 * a * b * mixed, (a, b))
        for a, b in amounts
    )


def _longest_known(row: Floats) -> tuple[int, int]:
    """The longest stretch of a row without gaps: its first, and behind its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], np.isnan(row), [True]]).astype(np.int64)))
    if not len(edges):
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest])
