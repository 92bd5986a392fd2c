"""Sample paths of any quantile model: each step is distributed as it says, and steps hang together as the VM's own past did.
What a window's peak or percentile needs, and quantiles of single steps can't tell. NumPy only; knows no model."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.random import Generator

from adumbra.forecast.models.protocol import LEVELS, Fitted, Horizon
from adumbra.forecast.window import Need, at_levels, measured
from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats, Ints, Panel

PATH_LEVELS: tuple[float, ...] = tuple(sorted({*LEVELS, 0.25, 0.75, 0.995}))
MAX_DRAWS = 10_000
_LOOK_BACK_S = 28 * 86_400.0
_HOUR_S, _DAY_S = 3_600.0, 86_400.0
_POOL = 500
_NOW_S = 3_600.0


@runtime_checkable
class PathSampler(Protocol):
    """A fitted model that draws paths of its own, rather than by its quantiles and the VM's past."""

    def paths(self, recent: Panel, horizon: Horizon, draws: int, rng: Generator) -> Floats:
        """As `paths`, of this model."""


def paths(fitted: Fitted, recent: Panel, horizon: Horizon, draws: int, rng: Generator) -> Floats:
    """Draws of what comes after `recent`, float64[V, draws, H], none below zero; NaN for a VM without a forecast.

    A horizon with a stride leaves steps out, and peaks with them: ask for each step where the peak matters.
    Raises InputError for no draws, or more than MAX_DRAWS.
    """
    if not 1 <= draws <= MAX_DRAWS:
        raise InputError(f"{draws} paths can't be drawn", f"ask for 1 to {MAX_DRAWS}")
    if isinstance(fitted, PathSampler):
        return fitted.paths(recent, horizon, draws, rng)
    quantiles = fitted.quantiles(recent, horizon, PATH_LEVELS).values
    return shuffled(quantiles, recent, horizon, draws, rng)


def shuffled(quantiles: Floats, recent: Panel, horizon: Horizon, draws: int, rng: Generator) -> Floats:
    """Paths whose steps follow quantiles [V, H, L] at PATH_LEVELS, and hang together as stretches of the past did.

    The Schaake shuffle (Clark et al., "The Schaake shuffle", Journal of Hydrometeorology 5, 2004): a path has, from step to
    step, the ranks of a stretch of the VM's last four weeks. Stretches of any hour will do, as past use is told by its rank
    among that of the same hour of the day, less what the hour before the stretch let expect: a forecast knows that hour.
    """
    out = np.full((len(quantiles), draws, quantiles.shape[1]), np.nan)
    pool = max(_POOL, draws)
    grid = (np.arange(pool) + 0.5) / pool
    scores = normal_scores(recent)
    for vm in np.flatnonzero(np.isfinite(quantiles).all(axis=(1, 2))):
        rank = _ranks(scores[vm], horizon, recent.step_s, pool, rng)
        some = rng.choice(pool, size=draws, replace=False)
        values = at_levels(quantiles[vm : vm + 1], PATH_LEVELS, tuple(grid))[0]  # [H, pool], increasing
        out[vm] = np.maximum(np.take_along_axis(values, rank[some].T, axis=1).T, 0.0)
    return out


def window_needs(drawn: Floats, need: Need) -> Floats:
    """What each path's window needs, [V, D, H] -> float64[V, D]: its distribution over the draws is that of the need."""
    return measured(drawn, need)


def normal_scores(recent: Panel) -> Floats:
    """The last four weeks' use by its rank among the VM's use at that hour of the day, as a normal deviate: [V, T'].

    Equal values get the same score. Among all of its use, where the past is shorter than three days; 0 in gaps.
    """
    values = recent.values[:, -max(1, round(_LOOK_BACK_S / recent.step_s)) :]
    steps = values.shape[1]
    seconds = recent.start_ns / 1e9 + (recent.values.shape[1] - steps + np.arange(steps)) * recent.step_s
    by_hour = steps * recent.step_s >= 3 * _DAY_S and recent.step_s <= _HOUR_S
    group = (seconds % _DAY_S // _HOUR_S).astype(np.int64) if by_hour else np.zeros(steps, np.int64)
    out = np.zeros(values.shape)
    for one in np.unique(group):
        at = np.flatnonzero(group == one)
        out[:, at] = _scored(values[:, at])
    return out


def _scored(values: Floats) -> Floats:
    """Rows' values by their middle rank, as an approximate normal deviate; 0 for NaN."""
    ordered = np.sort(values, axis=1)
    out = np.zeros(values.shape)
    for row, (has, line) in enumerate(zip(values, ordered, strict=True)):
        there = np.isfinite(has)
        count = int(there.sum())
        if count:
            low = np.searchsorted(line[:count], has[there], side="left")
            high = np.searchsorted(line[:count], has[there], side="right")
            share = 0.5 * (low + high) / count
            out[row, there] = np.log(share / (1.0 - share + 1e-12) + 1e-12) / 1.702  # the logistic, near the normal
    return out


def _ranks(score: Floats, horizon: Horizon, step_s: float, pool: int, rng: Generator) -> Ints:
    """Each of `pool` stretches' rank at each step ahead, int64[pool, H], of what the hour before it didn't let expect.

    Where the past ends before a stretch does, it goes on with the past's beginning.
    """
    steps, ahead = len(score), horizon.ahead
    before = min(max(1, round(_NOW_S / step_s)), max(steps // 4, 1))
    latest = max(steps - horizon.steps, before + 1)
    origin = rng.integers(before, max(latest, before) + 1, size=pool)
    total = np.concatenate([[0.0], np.cumsum(score)])
    now = (total[np.minimum(origin, steps)] - total[np.minimum(origin, steps) - before]) / before
    later = score[(origin[:, None] + ahead - 1) % steps]
    centred = now - now.mean()
    slope = centred @ (later - later.mean(axis=0)) / max(float(centred @ centred), 1e-12)
    surprise = later - now[:, None] * slope[None, :] + 1e-6 * rng.random(pool)[:, None]
    order = np.argsort(surprise, axis=0)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(pool)[:, None], axis=0)
    return rank
