"""Seasonal naive: what was a season ago comes again, with errors as large as they were from season to season.
The model that every other has to beat. Learns nothing from other VMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from adumbra.forecast.models.protocol import LEVELS, Horizon, forecast_of
from adumbra.forecast.series import resource_named, scale_of
from adumbra.forecast.window import rearranged, share_above
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Floats, Panel, Quantiles
from adumbra.schema.units import format_duration

NAME = "seasonal-naive"
SEASONS_S: tuple[tuple[str, float], ...] = (("day", 86_400.0), ("week", 604_800.0), ("hour", 3_600.0))
MIN_STEPS = 6
_MAX_CYCLES = 8
_MIN_ERRORS = 8


@dataclass(frozen=True, slots=True)
class SeasonalNaive:
    """Takes of day, week and hour the one that the data covers at least twice and that repeats best; else none.

    Hyndman and Athanasopoulos, "Forecasting: Principles and Practice", 3rd edition, section 5.2. Its errors at each
    number of seasons back are measured in the history, as far back as that goes, and not grown by a formula: the
    textbook's growth with the root of the seasons passed is that of a random walk, which use is not.
    """

    @property
    def name(self) -> str:
        return NAME

    def fit(self, history: Panel, rng: Generator) -> FittedSeasonalNaive:  # noqa: ARG002 (nothing here is left to chance)
        """Chooses the season. Raises TooLittleDataError below MIN_STEPS measured steps of any one VM."""
        seen = np.isfinite(history.values).sum(axis=1)
        if seen.max(initial=0) < MIN_STEPS:
            raise TooLittleDataError(
                f"seasonal naive can't learn {history.resource} from {int(seen.max(initial=0))} steps of "
                f"{format_duration(history.step_s)}",
                f"observe for at least {MIN_STEPS} steps",
            )
        season, steps = _season_of(history)
        return FittedSeasonalNaive(season, steps)


@dataclass(frozen=True, slots=True)
class FittedSeasonalNaive:
    """A season ("" for none) of so many steps; all else is in the recent past that it is handed."""

    season: str
    season_steps: int

    @property
    def name(self) -> str:
        return NAME

    @property
    def about(self) -> str:
        if not self.season:
            return "no hour, day or week was covered twice: it takes what is next to be distributed like what was last"
        return f"it repeats the {self.season} before"

    def quantiles(self, recent: Panel, horizon: Horizon, levels: Sequence[float]) -> Quantiles:
        plain = row_quantiles(recent.values, levels)  # [V, L]
        values = np.repeat(plain[:, None, :], len(horizon.ahead), axis=1)
        if self.season_steps and recent.values.shape[1] > self.season_steps:
            seasonal = self._seasonal(recent.values, horizon, levels)
            values = np.where(np.isfinite(seasonal), seasonal, values)
        return forecast_of(recent, horizon, levels, rearranged(values))

    def shortfall(self, recent: Panel, horizon: Horizon, allocations: Floats) -> Floats:
        return share_above(self.quantiles(recent, horizon, LEVELS).values, LEVELS, allocations)

    def to_dict(self) -> dict[str, Any]:
        return {"name": NAME, "season": self.season, "season_steps": self.season_steps}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FittedSeasonalNaive:
        return cls(str(plain["season"]), int(plain["season_steps"]))

    def _seasonal(self, values: Floats, horizon: Horizon, levels: Sequence[float]) -> Floats:
        """[V, H, L]: the value of the same phase in the last season, and the errors of looking so far back."""
        season, known = self.season_steps, values.shape[1]
        ahead = horizon.ahead
        cycle = -(-ahead // season)  # seasons that lie between a step and the one it repeats: 1 within the first
        base = values[:, known - 1 + ahead - season * cycle]
        most = max(1, min(_MAX_CYCLES, known // season - 1))
        out = np.full((*base.shape, len(levels)), np.nan)
        for back in np.unique(np.minimum(cycle, most)):
            errors = values[:, season * back :] - values[:, : known - season * back]
            at = np.minimum(cycle, most) == back
            out[:, at] = base[:, at, None] + row_quantiles(errors, levels, least=_MIN_ERRORS)[:, None, :]
        return out


def row_quantiles(values: Floats, levels: Sequence[float], least: int = 1) -> Floats:
    """Each row's quantiles, [V, N] -> [V, L], over the values that are there; NaN where there are fewer than `least`."""
    if values.shape[1] == 0:
        return np.full((len(values), len(levels)), np.nan)
    ordered = np.sort(values, axis=1)
    count = np.isfinite(ordered).sum(axis=1)
    place = np.asarray(levels)[None, :] * np.maximum(count - 1, 0)[:, None]
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0)[:, None])
    q_low, q_high = np.take_along_axis(ordered, low, axis=1), np.take_along_axis(ordered, high, axis=1)
    return np.where((count >= max(least, 1))[:, None], q_low + (place - low) * (q_high - q_low), np.nan)


def _season_of(history: Panel) -> tuple[str, int]:
    """The season that the data covers twice and whose repetition errs least, relative to each VM's mean use."""
    scale = scale_of(history, resource_named(history.resource).floor)
    best: tuple[float, str, int] | None = None
    known = history.values.shape[1]
    for name, seconds in SEASONS_S:
        steps = round(seconds / history.step_s)
        if steps < 2 or known < 2 * steps:
            continue
        errors = np.abs(history.values[:, steps:] - history.values[:, :-steps]) / scale[:, None]
        finite = np.isfinite(errors)
        if finite.sum() < _MIN_ERRORS:
            continue
        error = float(errors[finite].mean())
        if best is None or error < best[0]:
            best = (error, name, steps)
    return (best[1], best[2]) if best else ("", 0)
