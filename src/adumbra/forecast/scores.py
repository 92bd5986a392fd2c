"""How good quantile forecasts were: pinball loss, weighted quantile loss, MASE, coverage and width of intervals.
Arithmetic on arrays only; knows no model. No MAPE: use is zero too often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from adumbra.schema.records import Floats

PINBALL_LEVELS: tuple[float, ...] = (0.5, 0.9, 0.95, 0.99)
UPPER_LEVELS: tuple[float, ...] = (0.9, 0.95, 0.99)
INTERVALS: tuple[tuple[str, float, float], ...] = (("80", 0.1, 0.9), ("95", 0.025, 0.975))


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's scores over all origins, VMs and steps; None where there was nothing to divide by.

    pinball: level -> mean loss, as a share of each VM's mean use; upper: the mean of those at UPPER_LEVELS, which is what
    sizing needs; wql: weighted quantile loss over PINBALL_LEVELS; mase: error of the median, relative to that of
    repeating the last value (or season) in the history; coverage: interval -> share of values within; width: interval ->
    mean width, as a share of each VM's mean use; points: how many values were scored.
    """

    pinball: Mapping[str, float]
    upper: float
    wql: float | None
    mase: float | None
    coverage: Mapping[str, float]
    width: Mapping[str, float]
    points: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Scores:
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class Cases:
    """Forecasts and what came: actual float64[n]; quantiles float64[n, L] at `levels`; scale float64[n], each VM's mean
    use; naive float64[n], each VM's error of the naive forecast within its history (NaN: none)."""

    levels: tuple[float, ...]
    actual: Floats
    quantiles: Floats
    scale: Floats
    naive: Floats

    def column(self, level: float) -> Floats:
        """The forecast quantile at one of the levels, float64[n]."""
        return np.asarray(self.quantiles[:, self.levels.index(level)])


def pinball(actual: Floats, forecast: Floats, level: float) -> Floats:
    """The loss whose expectation the level's quantile minimises, elementwise (Koenker and Bassett, 1978)."""
    over = actual - forecast
    return np.asarray(np.maximum(level * over, (level - 1.0) * over))


def score(cases: Cases) -> Scores | None:
    """The scores of some cases, of which at least one; None where there is none.

    WQL as in Amazon's GluonTS and GIFT-Eval: 2 sum(loss) / sum(|actual|), averaged over the levels. MASE: Hyndman and
    Koehler, "Another look at measures of forecast accuracy", International Journal of Forecasting 22 (2006).
    """
    if len(cases.actual) == 0:
        return None
    losses = {level: pinball(cases.actual, cases.column(level), level) for level in PINBALL_LEVELS}
    shares = {f"{level:g}": float(np.mean(loss / cases.scale)) for level, loss in losses.items()}
    total = float(np.abs(cases.actual).sum())
    wql = float(np.mean([2 * loss.sum() / total for loss in losses.values()])) if total > 0 else None
    sound = cases.naive > 0
    errors = np.abs(cases.actual - cases.column(0.5))
    mase = float(np.mean(errors[sound] / cases.naive[sound])) if sound.any() else None
    inside = {name: within(cases.actual, cases.column(low), cases.column(high)) for name, low, high in INTERVALS}
    return Scores(
        pinball=shares,
        upper=float(np.mean([shares[f"{level:g}"] for level in UPPER_LEVELS])),
        wql=wql,
        mase=mase,
        coverage={name: float(np.mean(held)) for name, held in inside.items()},
        width={name: float(np.mean((cases.column(high) - cases.column(low)) / cases.scale)) for name, low, high in INTERVALS},
        points=len(cases.actual),
    )


def coverage(actual: Floats, quantiles: Floats, levels: Sequence[float]) -> dict[str, float]:
    """The share of values within each of INTERVALS: actual [n], quantiles [n, L] at `levels`."""
    at = {level: i for i, level in enumerate(levels)}
    return {
        name: float(np.mean(within(actual, quantiles[:, at[low]], quantiles[:, at[high]])))
        for name, low, high in INTERVALS
    }  # fmt: skip


def within(actual: Floats, low: Floats, high: Floats) -> Floats:
    slack = 1e-9 * (1.0 + np.abs(actual))  # a constant series is on its bounds, whatever the rounding
    return np.asarray((actual >= low - slack) & (actual <= high + slack), np.float64)
