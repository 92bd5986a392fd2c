"""Turns panels into rows that a regression learns from: what was known at an origin, and which step after it is asked.
Looks at nothing at or after the origin of a row."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adumbra.forecast.models.protocol import LEVELS, NOTHING_KNOWN, Covariates
from adumbra.forecast.models.seasonal_naive import row_quantiles
from adumbra.schema.records import Floats, Ints, Panel

_LAGS = (1, 2, 3, 6, 12)
_WINDOWS = (6, 30, 120, 500, 2000)
_CALENDAR_S = (3_600.0, 86_400.0, 7 * 86_400.0, 14 * 86_400.0)
_WINDOW_LEVELS = (*LEVELS, 1.0)
_DAY_S, _WEEK_S = 86_400.0, 604_800.0
_DAYS_BACK = 7
_TRAFFIC_WINDOWS = 3
_ROLES = 64
_CHUNK = 2_000_000  # values gathered at a time


@dataclass(frozen=True, slots=True)
class Plan:
    """Which features there are: the same for fitting and for forecasting.

    windows: lengths in steps of the stretches before an origin whose quantiles are taken; season_steps: 0 for none;
    day_steps, week_steps: lengths of a day and a week, 0 where the history covered too little to learn from them;
    most_ahead: the furthest step that was learned; floor: what use is no smaller than when it is divided by; share: the
    fleet's median of a VM's mean use to its declared size; mean: the fleet's median of a VM's mean use; strength: how many
    steps of a VM's own use weigh as much as what the fleet and its declared size let expect; traffic: names of its columns.
    """

    windows: tuple[int, ...]
    season_steps: int
    day_steps: int
    week_steps: int
    most_ahead: int
    floor: float
    share: float
    mean: float
    strength: float
    declared: bool = False
    roles: bool = False
    traffic: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, history: Panel, season_steps: int, most_ahead: int, floor: float, covariates: Covariates = NOTHING_KNOWN
    ) -> Plan:
        """The features that a history is long enough for."""
        known, span_s = history.values.shape[1], history.values.shape[1] * history.step_s
        there = np.isfinite(history.values)
        count = there.sum(axis=1)
        mean = np.where(there, history.values, 0.0).sum(axis=1) / np.maximum(count, 1)
        declared = _declared(covariates, len(history.vms))
        both = (count > 0) & np.isfinite(declared) & (declared > 0)
        day, week = (round(s / history.step_s) if span_s >= 2 * s and history.step_s <= s / 4 else 0 for s in (_DAY_S, _WEEK_S))
        return cls(
            windows=_windows(known, history.step_s),
            season_steps=season_steps,
            day_steps=day,
            week_steps=week,
            most_ahead=most_ahead,
            floor=floor,
            share=float(np.median(mean[both] / declared[both])) if both.any() else 0.0,
            mean=float(np.median(mean[count > 0])) if (count > 0).any() else floor,
            strength=float(np.clip(round(3_600.0 / history.step_s), 1, 12)),
            declared=bool(both.any()),
            roles=any(covariates.roles),
            traffic=tuple(sorted(covariates.traffic)),
        )

    @property
    def stretches(self) -> tuple[int, ...]:
        """Which of the windows a forecast begins from: the second shortest, and the day's (or the longest)."""
        last = len(self.windows) - 1
        day = self.windows.index(self.day_steps) if self.day_steps in self.windows else last
        return tuple(sorted({min(1, last), day}))

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Plan:
        windows, traffic = tuple(int(w) for w in plain["windows"]), tuple(str(name) for name in plain["traffic"])
        return cls(**{**plain, "windows": windows, "traffic": traffic})


@dataclass(frozen=True, slots=True)
class Asked:
    """The rows that are asked for, all int64[n]: the VM's row, its origin (the number of steps known there), how many
    steps ahead, and the first step that counts as known, before which the VM is taken not to have been there."""

    vm: Ints
    origin: Ints
    ahead: Ints
    since: Ints

    def __len__(self) -> int:
        return len(self.vm)


@dataclass(frozen=True, slots=True)
class Rows:
    """Feature rows. `x` float64[n, F], NaN where not known; `scale` float64[n], what their target is divided by; `base`
    float64[n, L]: log(1 + quantiles of the VM's own last hour and day / scale) at LEVELS, NaN where nothing of it is known:
    what a forecast begins from; aside float64[n, C]: those of the features that are known of a VM never measured."""

    x: Floats
    scale: Floats
    base: Floats
    aside: Floats

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Which rows are of VMs of which nothing was measured."""
        return np.asarray(~np.isfinite(self.base).any(axis=1))


def rows(panel: Panel, plan: Plan, asked: Asked, covariates: Covariates = NOTHING_KNOWN) -> Rows:
    """A row for each VM, origin and step ahead that is asked for.

    Amounts are taken relative to the VM's scale, its own mean over the longest window before the origin, shrunk to what
    its declared size or the fleet lets expect, and as log(1 + amount), which keeps a burst of a hundred times from being
    all that a split can see.
    """
    at, back = np.unique(np.stack([asked.vm, asked.origin, asked.since]), axis=1, return_inverse=True)
    back = back.reshape(-1)
    declared = _declared(covariates, len(panel.vms))
    own, scale, base = _known_at(panel.values, plan, at, declared)
    beside = _beside(plan, at, scale, declared, covariates)
    aside = [beside[back], np.log(np.minimum(asked.ahead, plan.most_ahead))[:, None]]
    seconds = panel.start_ns / 1e9 + (asked.origin + asked.ahead - 1) * panel.step_s
    if plan.day_steps:
        phase = 2 * np.pi * (seconds % _DAY_S) / _DAY_S
        aside += [np.sin(phase)[:, None], np.cos(phase)[:, None]]
    if plan.week_steps:
        aside.append((seconds // _DAY_S % 7)[:, None])
    parts = [own[back], *aside]
    if plan.season_steps:
        parts.append(np.log1p(_season_ago(panel.values, plan.season_steps, asked) / scale[back][:, None]))
    if plan.day_steps:
        parts.append(np.log1p(_same_hour(panel.values, plan, asked) / scale[back][:, None]))
    begun = _begun(base[back], plan, asked.ahead)
    return Rows(np.concatenate(parts, axis=1), scale[back], begun, np.concatenate(aside, axis=1))


def _windows(known: int, step_s: float) -> tuple[int, ...]:
    """The calendar's windows that the history holds three times over (the last: twice), and between them plain numbers of
    steps, no two within a factor of two."""
    calendar = [round(s / step_s) for s in _CALENDAR_S]
    found = [w for w in calendar if 6 <= w <= known // 2]
    for width in _WINDOWS:
        if width <= max(known // 3, _WINDOWS[0]) and all(max(width, w) >= 2 * min(width, w) for w in found):
            found.append(width)
    return tuple(sorted(found))


def _declared(covariates: Covariates, vms: int) -> Floats:
    if covariates.declared is None:
        return np.full(vms, np.nan)
    return np.where(covariates.declared > 0, covariates.declared, np.nan)


def _known_at(values: Floats, plan: Plan, at: Ints, declared: Floats) -> tuple[Floats, Floats, Floats]:
    """What is known at each (VM, origin, since): lags, and quantiles and mean of the windows; the scale; and the base."""
    reach = max(*plan.windows, *_LAGS)
    chunk = max(1, _CHUNK // reach)
    told = [_known_of(values, plan, at[:, i : i + chunk], declared) for i in range(0, at.shape[1], chunk)]
    if not told:
        width = len(_LAGS) + len(plan.windows) * (len(_WINDOW_LEVELS) + 1) + 2
        return np.empty((0, width)), np.empty(0), np.empty((0, len(plan.stretches), len(LEVELS)))
    own, scale, base = (np.concatenate(each) for each in zip(*told, strict=True))
    return own, scale, base


def _known_of(values: Floats, plan: Plan, at: Ints, declared: Floats) -> tuple[Floats, Floats, Floats]:
    vm, origin, since = at
    longest = max(plan.windows)
    reach = max(longest, *_LAGS)
    index = origin[:, None] - np.arange(1, reach + 1)[None, :]
    past = np.where(index >= since[:, None], values[vm[:, None], np.maximum(index, 0)], np.nan)  # the latest first
    there = np.isfinite(past[:, :longest])
    count = there.sum(axis=1)
    total = np.where(there, past[:, :longest], 0.0).sum(axis=1)
    expected = np.where(np.isfinite(declared[vm]) & (plan.share > 0), declared[vm] * plan.share, plan.mean)
    scale = np.maximum((total + plan.strength * expected) / (count + plan.strength), plan.floor)
    parts = [past[:, [lag - 1 for lag in _LAGS]]]
    of_widths = []
    for width in plan.windows:
        window = past[:, :width]
        held = np.isfinite(window)
        of_window = row_quantiles(window, _WINDOW_LEVELS)
        mean = np.where(held, window, 0.0).sum(axis=1, keepdims=True) / np.maximum(held.sum(axis=1, keepdims=True), 1)
        parts += [of_window, np.where(held.any(axis=1, keepdims=True), mean, np.nan)]
        of_widths.append(of_window[:, : len(LEVELS)])
    relative = np.log1p(np.concatenate(parts, axis=1) / scale[:, None])
    known = np.log1p(np.minimum(count, longest))
    begun = _filled(np.stack([of_widths[i] for i in plan.stretches], axis=1))
    return (
        np.concatenate([relative, np.log(scale)[:, None], known[:, None]], axis=1),
        scale,
        np.log1p(begun / scale[:, None, None]),
    )


def _filled(stretches: Floats) -> Floats:
    """Stretches [P, S, L], the shortest first, of which nothing is known: as the next longer one, else the next shorter."""
    out = stretches.copy()
    for order in (range(out.shape[1] - 2, -1, -1), range(1, out.shape[1])):
        for i in order:
            other = i + 1 if order.step < 0 else i - 1
            out[:, i] = np.where(np.isfinite(out[:, i]), out[:, i], out[:, other])
    return out


def _begun(stretches: Floats, plan: Plan, ahead: Ints) -> Floats:
    """What a forecast so far ahead begins from: the last hour's quantiles near, the last day's further off, [n, S, L] ->
    [n, L]. Half the weight has passed on where the stretch is as long as the forecast is far."""
    widths = np.array([plan.windows[i] for i in plan.stretches], np.float64)
    out = stretches[:, -1]
    for i in range(len(widths) - 2, -1, -1):
        weight = (widths[i] / (widths[i] + ahead))[:, None]
        out = weight * stretches[:, i] + (1 - weight) * out
    return out


def _beside(plan: Plan, at: Ints, scale: Floats, declared: Floats, covariates: Covariates) -> Floats:
    """What is known of a VM beside its own use: declared size, role, and traffic up to the origin, [P, C]."""
    vm, origin, _ = at
    parts = [np.empty((len(vm), 0))]
    if plan.declared:
        parts += [np.log(declared[vm] / scale)[:, None], np.log(declared[vm])[:, None]]
    if plan.roles:
        told = covariates.roles or ("",) * (int(vm.max(initial=-1)) + 1)
        number = np.array([float(zlib.crc32(role.encode()) % _ROLES) if role else np.nan for role in told])
        parts.append(number[vm][:, None])
    for name in plan.traffic:
        values = covariates.traffic.get(name)
        for width in plan.windows[:: -max(1, len(plan.windows) // _TRAFFIC_WINDOWS)][:_TRAFFIC_WINDOWS]:
            parts.append(np.log1p(_mean_before(values, vm, origin, width))[:, None])
    return np.concatenate(parts, axis=1)


def _mean_before(values: Floats | None, vm: Ints, origin: Ints, width: int) -> Floats:
    """The mean of the `width` steps before each origin, [P]; NaN where none was measured."""
    if values is None:
        return np.full(len(vm), np.nan)
    sound = np.isfinite(values) & (values >= 0)
    total = np.zeros((values.shape[0], values.shape[1] + 1))
    count = np.zeros_like(total)
    np.cumsum(np.where(sound, values, 0.0), axis=1, out=total[:, 1:])
    np.cumsum(sound, axis=1, out=count[:, 1:])
    end = np.minimum(origin, values.shape[1])
    begin = np.maximum(end - width, 0)
    n = count[vm, end] - count[vm, begin]
    return np.where(n > 0, np.maximum(total[vm, end] - total[vm, begin], 0.0) / np.maximum(n, 1), np.nan)


def _look(values: Floats, asked: Asked, index: Ints) -> Floats:
    """Values at steps that were known at the origin; NaN for others."""
    sound = (index >= asked.since) & (index < asked.origin)
    return np.where(sound, values[asked.vm, np.clip(index, 0, values.shape[1] - 1)], np.nan)


def _season_ago(values: Floats, season: int, asked: Asked) -> Floats:
    """The values one and two seasons before the target, and the largest within two steps of the former: [n, 3]."""
    ago = asked.origin + asked.ahead - 1 - season * (-(-asked.ahead // season))
    around = np.fmax.reduce([_look(values, asked, ago + shift) for shift in (-2, -1, 0, 1, 2)])
    return np.stack([_look(values, asked, ago), _look(values, asked, ago - season), around], axis=1)


def _same_hour(values: Floats, plan: Plan, asked: Asked) -> Floats:
    """Of the hour around the target's time of day: its mean and largest value on the last day and over the last week of
    days that were known, and its mean on the same day of the week before: [n, 4 or 5]."""
    half = max(1, plan.day_steps // 48)
    spots = np.unique(np.round(np.linspace(-half, half, 5)).astype(np.int64))
    last = asked.origin + asked.ahead - 1 - plan.day_steps * (-(-asked.ahead // plan.day_steps))

    def hour(centre: Ints) -> Floats:
        return np.stack([_look(values, asked, centre + shift) for shift in spots])  # [S, n]

    days = np.stack([hour(last - back * plan.day_steps) for back in range(_DAYS_BACK)])  # [D, S, n]
    by_day = days.reshape(_DAYS_BACK * len(spots), -1)
    found = [_mean(days[0]), np.fmax.reduce(days[0]), _mean(by_day), np.fmax.reduce(by_day)]
    if plan.week_steps:
        week = asked.origin + asked.ahead - 1 - plan.week_steps * (-(-asked.ahead // plan.week_steps))
        found.append(_mean(hour(week)))
    return np.stack(found, axis=1)


def _mean(values: Floats) -> Floats:
    """The mean along the first axis of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis=0)
    return np.where(count > 0, np.where(there, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
