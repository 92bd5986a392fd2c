"""Follows a law's costs through time, row by row, as live use comes in: state and row in, state out. Pure; reads no clock.

A Kalman filter whose costs wander a little, are never below zero, and are set free when the law is seen to have changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from adumbra.emulate.calibration.regression import Law, row_variance
from adumbra.schema.records import Floats

WANDER = 0.01
"""How far each cost may wander from one row to the next: standard deviation, relative to its own."""
OUTLIER_SD = 3.0
"""A row further off than this pulls no harder than one that is just so far off."""
_MEMORY = 0.15  # weight of the newest row in the running mean of what was unexpected
_CHANGED = 1.5  # standard deviations, in that running mean: 5 times what chance gives to it (sqrt(w / (2 - w)) = 0.28)
_FREE = 1.0  # how unsure costs are once the law changed, relative to their own
_SHARE = 0.02  # of the use: what a cost of nothing may come to be, for one unit of that
_LEAST_SURE = 0.5  # relative standard deviation that no cost's exceeds but after a change


@dataclass(frozen=True, slots=True)
class Tracked:
    """Costs as they are believed now. mean float64[P] >= 0 and covariance float64[P, P]; noise, misfit: as in regression.Law;
    scale: float64[P], what a cost's standard deviation is measured by: its mean, or for one of nearly nothing what would show;
    surprise: the running mean of how far rows were off, in standard deviations; rows, changes: how many came, and how often the
    law was seen to have changed.
    """

    mean: Floats
    covariance: Floats
    noise: float
    misfit: float
    scale: Floats
    surprise: float = 0.0
    rows: int = 0
    changes: int = 0

    def predict(self, counts: Floats, works: float) -> tuple[float, float]:
        """Mean and standard deviation of the use of a row. counts: float64[P]; works: see regression.Sample."""
        mean = float(counts @ self.mean)
        return mean, float(np.sqrt(max(float(counts @ self.covariance @ counts), 0.0) + self._scatter(mean, works)))

    def _scatter(self, mean: float, works: float) -> float:
        return float(row_variance(np.array([mean]), np.array([works]), self.noise, self.misfit, 0.0)[0])


def begin(law: Law, typical: Floats) -> Tracked:
    """Follows on from a fitted law. typical: float64[P], counts of a usual row, which tell what a cost of nothing might be."""
    use = float(typical @ law.mean)
    floor = np.where(typical > 0, _SHARE * use / np.where(typical > 0, typical, 1.0), 0.0)
    return Tracked(law.mean.copy(), law.covariance.copy(), law.noise, max(law.misfit, 0.02), np.maximum(law.mean, floor))


def follow(state: Tracked, counts: Floats, used: float, works: float, wander: float = WANDER) -> Tracked:
    """The state after one more row: counts float64[P], its measured use, and its works. A row that can't be (NaN, negative,
    infinite), or in which nothing was paid for, changes nothing but the count of rows.

    The gain is that of Kalman (1960), of an innovation bounded at OUTLIER_SD; costs below zero are put to zero. Where the
    running mean of innovations leaves what chance gives, the law has changed, and the costs are set free to be learned anew.
    """
    if not (np.isfinite(counts).all() and np.isfinite(used) and used >= 0 and counts.min() >= 0 and counts.max() > 0):
        return replace(state, rows=state.rows + 1)
    prior = _wandered(state, wander)
    spread = prior @ counts
    expected = float(counts @ state.mean)
    variance = float(counts @ spread) + state._scatter(max(expected, 0.25 * used), works)  # noqa: SLF001
    if not variance > 0:
        return replace(state, rows=state.rows + 1)
    off = (used - expected) / np.sqrt(variance)
    bounded = float(np.clip(off, -OUTLIER_SD, OUTLIER_SD))
    surprise = (1.0 - _MEMORY) * state.surprise + _MEMORY * bounded
    if abs(surprise) > _CHANGED:
        return replace(
            state, covariance=prior + np.diag((_FREE * state.scale) ** 2), surprise=0.0, rows=state.rows + 1,
            changes=state.changes + 1,
        )  # fmt: skip
    gain = spread / variance
    mean = np.maximum(state.mean + gain * bounded * np.sqrt(variance), 0.0)
    covariance = prior - np.outer(gain, spread)
    shows = np.where(counts > 0, _SHARE * used / np.where(counts > 0, counts, 1.0), np.inf)
    return replace(
        state, mean=mean, covariance=0.5 * (covariance + covariance.T), surprise=surprise, rows=state.rows + 1,
        scale=np.maximum(mean, np.minimum(state.scale, shows) if used > 0 else 0.0),
    )  # fmt: skip


def _wandered(state: Tracked, wander: float) -> Floats:
    """The covariance once the costs wandered, no cost less sure than _LEAST_SURE, or than it was before: what is never paid for
    doesn't become less sure for ever.
    """
    step = np.diag((wander * state.scale) ** 2)
    covariance = state.covariance + step
    sd = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    most = np.maximum(_LEAST_SURE * state.scale, np.sqrt(np.maximum(np.diag(state.covariance), 0.0)))
    shrink = np.minimum(1.0, most / sd)
    return np.asarray(covariance * np.outer(shrink, shrink))
