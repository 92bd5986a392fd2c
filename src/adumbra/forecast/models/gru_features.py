"""What the recurrent network is told: each VM's past in hours, what was known at an hour, and what is asked of it.
Looks at nothing at or after the end of the hours known at an origin. NumPy only; knows no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adumbra.forecast.models.protocol import LEVELS
from adumbra.forecast.models.seasonal_naive import row_quantiles
from adumbra.schema.records import Floats, Ints, Panel

Singles = NDArray[np.float32]

GRU_LEVELS: tuple[float, ...] = tuple(sorted({*LEVELS, 0.25, 0.75, 0.995}))
"""What the network gives: LEVELS, and three more that shape the middle and the tail."""

WINDOWS: tuple[int, ...] = (1, 6, 24, 72, 336)
"""Bins before an origin whose quantiles are told, and mixed into the answer: 1 h, 6 h, 1 d, 3 d, 14 d."""

CONTEXT_BINS = 168
FINE_STEPS = 24
CHANNELS = 10
_BIN_S, _DAY_S, _WEEK_S = 3_600.0, 86_400.0, 604_800.0
_SAME_HOURS = 7
_CHUNK_VALUES = 4_000_000
_ERROR_BINS = 168
_MOST_SORTED = 1_500
KINDS = len(WINDOWS) + 2
CANDIDATES = len(WINDOWS) + 3


@dataclass(frozen=True, slots=True)
class Grid:
    """How time is cut: bin_steps steps make a bin (about an hour), day_bins and week_bins bins a day and a week.

    week: whether the history was long enough to learn days of the week; most_ahead: the furthest step that is learned;
    floor: what use is no smaller than when it is divided by; log_scale: mean and spread of the VMs' log scales.
    """

    bin_steps: int
    day_bins: int
    week_bins: int
    week: bool
    most_ahead: int
    floor: float
    log_scale: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, history: Panel, most_ahead: int, floor: float) -> Grid:
        """The grid for a history's step and span."""
        bin_steps = max(1, round(_BIN_S / history.step_s))
        bin_s = bin_steps * history.step_s
        day, week = max(1, round(_DAY_S / bin_s)), max(1, round(_WEEK_S / bin_s))
        return cls(bin_steps, day, week, history.values.shape[1] * history.step_s >= 2 * _WEEK_S, most_ahead, floor)

    @property
    def reach(self) -> int:
        """How many bins before an origin are looked at, at most."""
        return max(*WINDOWS, CONTEXT_BINS, 2 * self.week_bins, (_SAME_HOURS + 2) * self.day_bins)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"log_scale": list(self.log_scale)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Grid:
        mean, spread = plain["log_scale"]
        return cls(**{**plain, "log_scale": (float(mean), float(spread))})


@dataclass(frozen=True, slots=True)
class Past:
    """A panel's past in bins, each array with `grid.reach` empty bins before the first: B of them in all.

    values float32[V, B * bin_steps]; covered, mean, median, high, top float32[V, B]: the share of a bin's steps that were
    measured, and the mean, median, 90 % quantile and maximum of those, NaN where none was; same_hour float32[V, B, L]:
    quantiles (GRU_LEVELS) of the bin and the bins of that hour in the six days before; scale float32[V, B + 1]: mean use
    of the 14 days before the end of so many bins, at least the floor, NaN where nothing was measured; begin_s: the first
    bin's time; bin_s: a bin's length in seconds; log_declared float32[V]: log of the declared size, NaN where not told.
    """

    grid: Grid
    values: Singles
    covered: Singles
    mean: Singles
    median: Singles
    high: Singles
    top: Singles
    same_hour: Singles
    scale: Singles
    begin_s: float
    bin_s: float
    log_declared: Singles

    @property
    def bins(self) -> int:
        return int(self.mean.shape[1])


def past_of(panel: Panel, grid: Grid, log_declared: Singles) -> Past:
    """A panel's past. The bins end where the panel does: what is left over at its beginning makes no bin of its own."""
    vms, steps = panel.values.shape
    size, pad = grid.bin_steps, grid.reach
    full = -(-steps // size)
    values = np.full((vms, (pad + full) * size), np.nan, np.float32)
    values[:, values.shape[1] - steps :] = panel.values
    ordered = np.sort(values.reshape(vms, -1, size), axis=-1)
    count = np.isfinite(ordered).sum(axis=-1)
    total = np.where(np.isfinite(ordered), ordered, 0.0).sum(axis=-1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (total / np.where(count, count, np.nan)).astype(np.float32)
    return Past(
        grid, values, (count / size).astype(np.float32), mean, _rank(ordered, count, 0.5), _rank(ordered, count, 0.9),
        _rank(ordered, count, 1.0), _same_hour(values, grid), _scale(total, count, grid.floor),
        panel.start_ns / 1e9 + (steps - (pad + full) * size) * panel.step_s, size * panel.step_s, log_declared,
    )  # fmt: skip


def windows_at(past: Past, vm: Ints, ends: Ints) -> Singles:
    """What was measured before the end of so many bins, of each VM row: int64[n], int64[n] -> float32[n, KINDS, L].

    First the quantiles of use over each of WINDOWS, and where nothing was measured in one, those of the next longer one;
    then those of its changes over a bin and over a day, of the last seven days (0 where there were none). Of a long window,
    evenly spread steps are taken.
    """
    size = past.grid.bin_steps
    out = np.full((len(vm), KINDS, len(GRU_LEVELS)), np.nan, np.float32)
    day = past.values.copy()
    hour = day.copy()
    day[:, past.grid.day_bins * size :] -= past.values[:, : -past.grid.day_bins * size]
    hour[:, size:] -= past.values[:, :-size]
    for at, (values, width) in enumerate([*((past.values, w) for w in WINDOWS), (hour, _ERROR_BINS), (day, _ERROR_BINS)]):
        each = -(-width * size // _MOST_SORTED)
        steps = np.lib.stride_tricks.sliding_window_view(values, width * size, axis=1)[..., ::-each]
        for part in np.array_split(np.arange(len(vm)), max(1, len(vm) * steps.shape[-1] // _CHUNK_VALUES)):
            out[part, at] = quick_quantiles(steps[vm[part], (ends[part] - width) * size])
    for at in range(len(WINDOWS) - 2, -1, -1):
        out[:, at] = np.where(np.isfinite(out[:, at]), out[:, at], out[:, at + 1])
    return np.nan_to_num(out)


def quick_quantiles(values: Singles, levels: Sequence[float] = GRU_LEVELS) -> Singles:
    """Each row's quantiles over what is there, [n, N] -> float32[n, L]; NaN where nothing is."""
    return row_quantiles(np.asarray(values), levels).astype(np.float32)


def sequence(past: Past, vm: Ints, end: Ints) -> Singles:
    """What the encoder reads: CONTEXT_BINS bins up to the end of so many, float32[n, CONTEXT_BINS, CHANNELS].

    Use relative to the VM's scale at each bin's own end, as log(1 + use): nothing in a bin's channels is younger than it.
    """
    at = end[:, None] - CONTEXT_BINS + np.arange(CONTEXT_BINS)
    row = vm[:, None]
    scale, before = past.scale[row, at + 1], past.scale[row, at]
    parts = [np.log1p(column[row, at] / scale) for column in (past.mean, past.median, past.high, past.top)]
    drift = np.clip(np.log(scale / before), -3.0, 3.0)
    clock = _clock(past.begin_s + (at.astype(np.float64) + 0.5) * past.bin_s, past.grid.week)
    stacked = np.concatenate([np.stack([*parts, past.covered[row, at], drift], axis=-1), clock], axis=-1)
    return np.asarray(np.nan_to_num(stacked, nan=0.0, posinf=0.0, neginf=0.0), np.float32)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known at origins. x float32[n, KNOWN]; measured float32[n, KINDS, L]: windows_at there; candidates
    float32[n, W, L]: of the windows' quantiles, as log(1 + use / scale); latest float32[n]: the last value of the last
    bin that had one; scale, middle, spread float32[n]: what use is divided by, and the last day's middle and width in
    logarithms, which steady VMs' inputs are told relative to, as their use hardly leaves its mean."""

    x: Singles
    measured: Singles
    candidates: Singles
    latest: Singles
    scale: Singles
    middle: Singles
    spread: Singles


KNOWN = 4 * FINE_STEPS + 2 * 3 + KINDS * len(GRU_LEVELS) + 5


def known_at(past: Past, vm: Ints, end: Ints, measured: Singles) -> Known:
    """What is known of VM rows after so many bins, given their `windows_at`."""
    scale = np.where(np.isfinite(past.scale[vm, end]), past.scale[vm, end], past.grid.floor)
    each = measured / scale[:, None, None]
    candidates = np.log1p(each[:, : len(WINDOWS)])
    middle = candidates[:, 2, _MIDDLE]
    spread = candidates[:, 2, _HIGH] - candidates[:, 2, _LOW] + 0.02
    step = end[:, None] * past.grid.bin_steps - 1 - np.arange(FINE_STEPS)
    recent = past.values[vm[:, None], step]
    there = np.isfinite(recent)
    fine = np.where(there, np.log1p(recent / scale[:, None]), middle[:, None])
    yesterday = np.log1p(past.values[vm[:, None], step - past.grid.day_bins * past.grid.bin_steps] / scale[:, None])
    yesterday = np.where(np.isfinite(yesterday), yesterday, fine)
    first = there.argmax(axis=1)
    latest = np.where(there.any(axis=1), recent[np.arange(len(vm)), first], measured[:, 0, _MIDDLE])
    mean, wide = past.grid.log_scale
    size = past.log_declared[vm] - np.log(scale)
    age = np.log1p((past.covered[vm[:, None], end[:, None] - 1 - np.arange(past.grid.week_bins)] > 0).sum(axis=1)) - 4.0
    static = np.stack([(np.log(scale) - mean) / wide, np.nan_to_num(size), np.isfinite(size), age, np.log(spread)], axis=1)
    told = np.concatenate([candidates, np.arcsinh(each[:, len(WINDOWS) :] * 10.0) / 3.0], axis=1)
    relative = np.clip((fine - middle[:, None]) / spread[:, None], -5.0, 5.0)
    x = np.concatenate(
        [fine, relative, yesterday, _repeats(past, vm, end, scale), there, told.reshape(len(vm), -1), static], axis=1
    )
    return Known(
        x.astype(np.float32), measured, candidates.astype(np.float32), latest.astype(np.float32), scale.astype(np.float32),
        middle.astype(np.float32), spread.astype(np.float32),
    )  # fmt: skip


def _repeats(past: Past, vm: Ints, end: Ints, scale: Floats) -> Floats:
    """How well the last 6, 24 and 72 bins repeated the day before and the week before: mean differences, [n, 6]."""
    at = end[:, None] - 1 - np.arange(72)
    now = np.log1p(past.mean[vm[:, None], at] / scale[:, None])
    parts = []
    for back in (past.grid.day_bins, past.grid.week_bins):
        off = np.abs(now - np.log1p(past.mean[vm[:, None], at - back] / scale[:, None]))
        there = np.isfinite(off)
        for width in (6, 24, 72):
            count = there[:, :width].sum(axis=1)
            total = np.where(there[:, :width], off[:, :width], 0.0).sum(axis=1)
            parts.append(np.where(count > 0, total / np.maximum(count, 1), 1.0))
    return np.stack(parts, axis=1)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of origins. x float32[n, ASKED]; candidates float32[n, 3, L]: quantiles as log(1 + use / scale), of the
    same hour of the days before, of the latest value with its changes over an hour, of the day before with those over a day.
    """

    x: Singles
    candidates: Singles


ASKED = 2 + 2 + 7 + 2 * 8 + 1 + len(GRU_LEVELS)
_MIDDLE, _LOW, _HIGH = GRU_LEVELS.index(0.5), GRU_LEVELS.index(0.1), GRU_LEVELS.index(0.9)


def asked_of(past: Past, known: Known, vm: Ints, end: Ints, ahead: Ints) -> Asked:
    """Steps ahead of origins, all int64[n], with what is known there."""
    grid, scale = past.grid, known.scale
    size, beyond = grid.bin_steps, (ahead - 1) // grid.bin_steps
    day = end + beyond % grid.day_bins - grid.day_bins
    week = end + beyond % grid.week_bins - grid.week_bins
    longest = known.candidates[:, -1]
    hour = np.log1p(past.same_hour[vm, day] / scale[:, None])
    hour = np.where(np.isfinite(hour), hour, longest)
    phase = (ahead - 1) % size
    ago = [column[vm, at] for at in (day, day - grid.day_bins, week) for column in (past.mean, past.top)]
    ago += [past.values[vm, at * size + phase] for at in (day, week)]
    logs = np.log1p(np.stack(ago, axis=1) / scale[:, None])
    logs = np.where(np.isfinite(logs), logs, hour[:, [_MIDDLE]])
    relative = np.clip((logs - known.middle[:, None]) / known.spread[:, None], -5.0, 5.0)
    yesterday = np.where(np.isfinite(ago[-2]), ago[-2], np.expm1(hour[:, _MIDDLE]) * scale)
    changed = [known.latest[:, None] + known.measured[:, -2], yesterday[:, None] + known.measured[:, -1]]
    candidates = np.stack([hour, *(np.log1p(np.maximum(use, 0.0) / scale[:, None]) for use in changed)], axis=1)
    step = np.minimum(ahead, grid.most_ahead)
    far = np.log(step) / np.log(max(grid.most_ahead, 2))
    seconds = past.begin_s + end * past.bin_s + (ahead - 0.5) * past.bin_s / size
    parts = [np.stack([far, np.exp(-step / size)], axis=1), _clock(seconds, grid.week)[:, :2]]
    parts += [_weekday(seconds, grid.week), logs, relative, np.isfinite(past.mean[vm, week])[:, None], hour]
    return Asked(np.concatenate(parts, axis=1).astype(np.float32), candidates.astype(np.float32))


def repeated(known: Known, times: int) -> Known:
    """Each origin `times` times, for so many steps ahead of it."""
    return Known(*(np.repeat(getattr(known, name), times, axis=0) for name in Known.__slots__))


def layer_sizes(hidden: int, width: int) -> tuple[tuple[int, int], ...]:
    """Inputs and outputs of the network's six layers: reads, recurs, knows, asks, thinks, answers."""
    outputs = (1 + CANDIDATES) * len(GRU_LEVELS)
    return (
        (CHANNELS, 3 * hidden), (hidden, 3 * hidden), (hidden + KNOWN, width), (ASKED, width), (width, width), (width, outputs),
    )  # fmt: skip


def target(past: Past, vm: Ints, end: Ints, ahead: Ints) -> Singles:
    """The use that came `ahead` steps after the end of so many bins, float32[n]; NaN where not measured, or not yet."""
    step = end * past.grid.bin_steps + ahead - 1
    width = past.values.shape[1]
    return np.where(step < width, past.values[vm, np.minimum(step, width - 1)], np.nan).astype(np.float32)


def _scale(total: Floats, count: Ints, floor: float) -> Singles:
    """[V, B] -> float32[V, B + 1]: the mean of the last 336 bins before each bin's beginning, and after the last."""
    zero = np.zeros((len(total), 1))
    sums = np.concatenate([zero, np.cumsum(total, axis=1)], axis=1)
    counts = np.concatenate([zero, np.cumsum(count, axis=1)], axis=1)
    first = np.maximum(np.arange(sums.shape[1]) - max(WINDOWS), 0)
    number = counts - counts[:, first]
    mean = np.maximum(sums - sums[:, first], 0.0) / np.maximum(number, 1)
    return np.where(number > 0, np.maximum(mean, floor), np.nan).astype(np.float32)


def _same_hour(values: Singles, grid: Grid) -> Singles:
    """float32[V, B, L]: the quantiles of each bin with those of its hour in the six days before."""
    vms = len(values)
    bins = values.reshape(vms, -1, grid.bin_steps)
    count = bins.shape[1]
    out = np.full((vms, count, len(GRU_LEVELS)), np.nan, np.float32)
    back = np.arange(_SAME_HOURS) * grid.day_bins
    at = np.arange(back[-1], count)
    each = max(1, _CHUNK_VALUES // (len(at) * _SAME_HOURS * grid.bin_steps + 1))
    for begin in range(0, vms, each):
        some = bins[begin : begin + each][:, at[:, None] - back]
        rows = quick_quantiles(some.reshape(-1, _SAME_HOURS * grid.bin_steps))
        out[begin : begin + each, back[-1] :] = rows.reshape(len(some), len(at), -1)
    return out


def _rank(ordered: Singles, count: Ints, level: float) -> Singles:
    """The value at a level of each bin's measured steps, [V, B, size] -> float32[V, B]; NaN where there is none."""
    at = np.ceil(level * np.maximum(count - 1, 0)).astype(np.int64)
    return np.asarray(np.take_along_axis(ordered, at[..., None], axis=-1)[..., 0])


def _clock(seconds: Floats, week: bool) -> Floats:
    """sine and cosine of the time of day, and of the week where that is learned (else 0): [..., 4]."""
    day = 2 * np.pi * (seconds % _DAY_S) / _DAY_S
    whole = 2 * np.pi * (seconds % _WEEK_S) / _WEEK_S
    learned = float(week)
    return np.stack([np.sin(day), np.cos(day), learned * np.sin(whole), learned * np.cos(whole)], axis=-1)


def _weekday(seconds: Floats, week: bool) -> Floats:
    """One of seven columns is 1 where the days of the week are learned; all 0 else."""
    number = (seconds // _DAY_S % 7).astype(np.int64)
    return np.eye(7)[number] * float(week)
