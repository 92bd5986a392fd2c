"""Turns panels into rows that a regression learns from: what was known at an origin, and which step after it is asked.
Looks at nothing at or after the origin of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adumbra.forecast.models.seasonal_naive import row_quantiles
from adumbra.schema.records import Floats, Ints, Panel

_LAGS = (1, 2, 3, 6, 12)
_WINDOWS = (6, 30, 120, 500, 2000)
_WINDOW_LEVELS = (0.5, 0.9, 0.99, 1.0)
_DAY_S, _WEEK_S = 86_400.0, 604_800.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Which features there are: the same for fitting and for forecasting.

    windows: lengths in steps of the stretches before an origin whose quantiles are taken; season_steps: 0 for none; day,
    week: whether the history covered enough of them to learn from the time of day or the day of the week; most_ahead:
    the furthest step that was learned; floor: what use is no smaller than when it is divided by.
    """

    windows: tuple[int, ...]
    season_steps: int
    day: bool
    week: bool
    most_ahead: int
    floor: float

    @classmethod
    def of(cls, history: Panel, season_steps: int, most_ahead: int, floor: float) -> Plan:
        """The features that a history is long enough for."""
        known, span_s = history.values.shape[1], history.values.shape[1] * history.step_s
        windows = tuple(w for w in _WINDOWS if w <= max(known // 3, _WINDOWS[0]))
        return cls(windows, season_steps, span_s >= 2 * _DAY_S, span_s >= 2 * _WEEK_S, most_ahead, floor)

    def to_dict(self) -> dict[str, Any]:
        names = ("windows", "season_steps", "day", "week", "most_ahead", "floor")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Plan:
        return cls(**{**plain, "windows": tuple(int(w) for w in plain["windows"])})

    @property
    def context(self) -> int:
        """How many steps before an origin its features look at, at most."""
        return max(*self.windows, 2 * self.season_steps, *_LAGS)


@dataclass(frozen=True, slots=True)
class Rows:
    """Feature rows. `x` float64[n, F], NaN where not known; `scale` float64[n], what their target is divided by."""

    x: Floats
    scale: Floats


def rows(panel: Panel, plan: Plan, vm: Ints, origin: Ints, ahead: Ints) -> Rows:
    """One row for each VM row, origin (the number of steps known there) and step ahead of it, all int64[n].

    Amounts are taken relative to the VM's own mean over the longest window before the origin, and as log(1 + amount),
    which keeps a burst of a hundred times from being all that a split can see. The VM's category is its row's name,
    added by the model.
    """
    at, back = np.unique(np.stack([vm, origin]), axis=1, return_inverse=True)
    back = back.reshape(-1)
    known, scale = _known_at(panel.values, plan, at[0], at[1])
    step = np.minimum(ahead, plan.most_ahead)
    parts = [known[back], np.log(step)[:, None]]
    if plan.season_steps:
        parts.append(_season_ago(panel.values, plan, vm, origin, ahead) / scale[back][:, None])
        parts[-1] = np.log1p(parts[-1])
    seconds = panel.start_ns / 1e9 + (origin + ahead - 1) * panel.step_s
    if plan.day:
        phase = 2 * np.pi * (seconds % _DAY_S) / _DAY_S
        parts += [np.sin(phase)[:, None], np.cos(phase)[:, None]]
    if plan.week:
        parts.append((seconds // _DAY_S % 7)[:, None])
    return Rows(np.concatenate(parts, axis=1), scale[back])


def _known_at(values: Floats, plan: Plan, vm: Ints, origin: Ints) -> tuple[Floats, Floats]:
    """What is known at each (VM, origin): lags, and quantiles, mean and spread of the windows; and the scale."""
    longest = max(plan.windows)
    reach = max(longest, *_LAGS)
    index = origin[:, None] - np.arange(1, reach + 1)[None, :]
    past = np.where(index >= 0, values[vm[:, None], np.maximum(index, 0)], np.nan)  # [P, reach], the latest first
    finite = np.isfinite(past[:, :longest])
    mean = np.where(finite, past[:, :longest], 0.0).sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
    scale = np.maximum(mean, plan.floor)
    parts = [past[:, [lag - 1 for lag in _LAGS]]]
    for width in plan.windows:
        window = past[:, :width]
        there = np.isfinite(window)
        total = np.where(there, window, 0.0).sum(axis=1, keepdims=True)
        parts += [row_quantiles(window, _WINDOW_LEVELS), total / np.maximum(there.sum(axis=1, keepdims=True), 1)]
    relative = np.log1p(np.concatenate(parts, axis=1) / scale[:, None])
    return np.concatenate([relative, np.log(scale)[:, None]], axis=1), scale


def _season_ago(values: Floats, plan: Plan, vm: Ints, origin: Ints, ahead: Ints) -> Floats:
    """The values one and two seasons before the target, and the largest within two steps of the former: [n, 3]."""
    season = plan.season_steps
    ago = origin + ahead - 1 - season * (-(-ahead // season))

    def look(index: Ints) -> Floats:
        sound = (index >= 0) & (index < origin)
        return np.where(sound, values[vm, np.clip(index, 0, values.shape[1] - 1)], np.nan)

    around = np.fmax.reduce([look(ago + shift) for shift in (-2, -1, 0, 1, 2)])
    return np.stack([look(ago), look(ago - season), around], axis=1)
