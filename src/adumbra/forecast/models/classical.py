"""Exponential smoothing and Theta, a VM at a time: the classical models that a learned one is held against.
The only module that imports statsforecast (extra `[statsforecast]`), and only when a forecast is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator

from adumbra.forecast.models.protocol import LEVELS, Horizon, forecast_of
from adumbra.forecast.models.seasonal_naive import row_quantiles
from adumbra.forecast.window import at_levels, rearranged, share_above
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import Floats, Panel, Quantiles
from adumbra.schema.units import format_duration

ETS, THETA = "autoets", "theta"
METHODS: Mapping[str, str] = {ETS: "exponential smoothing (AutoETS)", THETA: "Theta"}
MIN_STEPS = 10
MAX_VMS = 500
MAX_FITTED_STEPS = 336  # of a block each: two weeks of hours
_BLOCK_S, _DAY_S = 3_600.0, 86_400.0
_LEAST_BLOCKS = 60
_REACH = 256
_MAX_REACH = 1_024  # blocks ahead that are smoothed; beyond, as at the last of them
_SHRINK = 2.0  # days of a phase's own values that weigh as much as there being no pattern


@dataclass(frozen=True, slots=True)
class Classical:
    """A model of `method` ETS or THETA, each VM's by itself.

    statsforecast's AutoETS takes no season as long as a day of 5-minute steps (it stops at 24), and with a season of 24
    on hourly means it takes 0.7 s a VM. So: a day's pattern (mean of each hour of the day, shrunk to none where few days
    are known) is taken off hourly means; AutoETS without a season (Hyndman, Koehler, Ord, Snyder, "Forecasting with
    Exponential Smoothing", 2008), or the optimised Theta model (Fiorucci et al., "Models for optimising the theta method",
    International Journal of Forecasting 32, 2016), continues what is left, and the pattern comes back on. Within an hour,
    steps vary as they did within the hours known: quantiles of both are put together as the root of the sum of squared
    deviations from the middle. Where steps are longer than 30 min, or the history is short, a block is a step.
    Gaps are filled along a straight line for the smoothing only. Time is bounded: the last MAX_FITTED_STEPS blocks are
    fitted, and of no more than MAX_VMS VMs.
    """

    method: str

    @property
    def name(self) -> str:
        return self.method

    def fit(self, history: Panel, rng: Generator) -> FittedClassical:  # noqa: ARG002 (nothing here is left to chance)
        """Chooses the blocks; smoothing itself is of the recent past. Raises TooLittleDataError below MIN_STEPS measured steps
        of any one VM, InputError for more than MAX_VMS VMs, or where statsforecast isn't installed."""
        library()
        if len(history.vms) > MAX_VMS:
            raise InputError(
                f"{METHODS[self.method]} fits each VM by itself, and {len(history.vms)} are more than {MAX_VMS}",
                "leave it out, or give fewer VMs",
            )
        seen = int(np.isfinite(history.values).sum(axis=1).max(initial=0))
        if seen < MIN_STEPS:
            raise TooLittleDataError(
                f"{METHODS[self.method]} can't learn {history.resource} from {seen} steps of {format_duration(history.step_s)}",
                f"observe for at least {MIN_STEPS} steps",
            )
        return FittedClassical(self.method, _block_of(history))


@dataclass(frozen=True, slots=True)
class FittedClassical:
    """How many steps make a block, the means of which are smoothed; all else is in the recent past that it is handed."""

    method: str
    block: int

    @property
    def name(self) -> str:
        return self.method

    @property
    def about(self) -> str:
        return (
            f"it continues the means of {self.block} steps each, less the day's pattern"
            if self.block > 1
            else "it continues each VM's steps"
        )

    def quantiles(self, recent: Panel, horizon: Horizon, levels: Sequence[float]) -> Quantiles:
        if len(recent.vms) > MAX_VMS:
            raise InputError(f"{METHODS[self.method]} fits at most {MAX_VMS} VMs at a time", "give fewer VMs")
        values = np.full((len(recent.vms), len(horizon.ahead), len(LEVELS)), np.nan)
        for row in np.flatnonzero(np.isfinite(recent.values).any(axis=1)):
            values[row] = self._of_vm(recent.values[row], recent, horizon)
        return forecast_of(recent, horizon, levels, at_levels(rearranged(values), LEVELS, levels))

    def shortfall(self, recent: Panel, horizon: Horizon, allocations: Floats) -> Floats:
        return share_above(self.quantiles(recent, horizon, LEVELS).values, LEVELS, allocations)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.method, "block": self.block}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FittedClassical:
        if plain["name"] not in METHODS or int(plain["block"]) < 1:
            raise ValueError("no classical model")
        return cls(str(plain["name"]), int(plain["block"]))

    def _of_vm(self, use: Floats, recent: Panel, horizon: Horizon) -> Floats:
        """One VM's quantiles at LEVELS, [H, L]."""
        plain = row_quantiles(use[None, :], LEVELS)[0]
        per_day = round(_DAY_S / (recent.step_s * self.block))
        blocks = use[len(use) % self.block :].reshape(-1, self.block)[-MAX_FITTED_STEPS:]
        there = np.isfinite(blocks)
        count = there.sum(axis=1)
        mean = np.where(count > 0, np.where(there, blocks, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)
        if (count > 0).sum() < MIN_STEPS or np.nanmax(mean) - np.nanmin(mean) <= 1e-9 * (1 + np.nanmax(mean)):
            return np.broadcast_to(plain, (len(horizon.ahead), len(plain)))
        pattern = _pattern(mean, per_day)
        phase = np.arange(len(mean)) % len(pattern)
        level = _filled(mean - pattern[phase])
        ahead = (horizon.ahead - 1) // self.block
        near = np.minimum(ahead, _MAX_REACH - 1)
        coming = _continued(self.method, level, int(near[-1]) + 1)[near]  # [H, L]
        coming = coming + pattern[(len(mean) + ahead) % len(pattern), None]
        within = row_quantiles((blocks - mean[:, None]).reshape(1, -1), LEVELS)[0] if self.block > 1 else np.zeros(len(LEVELS))
        middle = LEVELS.index(0.5)
        deviation = coming - coming[:, middle : middle + 1]
        apart = within - within[middle]
        spread = np.sign(np.asarray(LEVELS) - 0.5) * np.hypot(deviation, apart)
        most = 10 * float(np.nanmax(use)) + 1e-9  # a trend carried far says amounts that nothing ever used
        return np.asarray(np.clip(coming[:, middle : middle + 1] + within[middle] + spread, 0.0, most))


def library() -> Any:
    """statsforecast's models. Raises InputError, with what to install, where they aren't there."""
    try:
        from statsforecast import models
    except ImportError as error:
        raise InputError(
            "exponential smoothing and Theta need statsforecast, which is not installed", 'pip install "adumbra[statsforecast]"'
        ) from error
    return models


def _block_of(history: Panel) -> int:
    """Steps a block: an hour's, or fewer, so that the history has at least as many blocks as a model is fitted on at least."""
    steps = history.values.shape[1]
    hour = round(_BLOCK_S / history.step_s)
    return int(np.clip(min(hour, steps // _LEAST_BLOCKS), 1, None)) if hour > 1 else 1


def _pattern(mean: Floats, per_day: int) -> Floats:
    """How the blocks of a day differ from the mean of all, [per_day], shrunk where few days are known; [0] below two days."""
    if not 2 <= per_day <= len(mean) // 2:
        return np.zeros(1)
    whole = np.full(-(-len(mean) // per_day) * per_day, np.nan)
    whole[: len(mean)] = mean - np.nanmedian(mean)
    days = whole.reshape(-1, per_day)
    there = np.isfinite(days)
    count = there.sum(axis=0)
    return np.asarray(np.where(there, days, 0.0).sum(axis=0) / (count + _SHRINK))


def _filled(values: Floats) -> Floats:
    """Gaps along straight lines; at the ends as the nearest value."""
    there = np.isfinite(values)
    at = np.arange(len(values))
    return np.interp(at, at[there], values[there])


def _continued(method: str, level: Floats, blocks: int) -> Floats:
    """What is left after the pattern, continued: [blocks, L] at LEVELS."""
    reach = max(_REACH, 1 << (blocks - 1).bit_length())
    return _fitted(method, np.ascontiguousarray(level, np.float64).tobytes(), reach)[:blocks]


@lru_cache(maxsize=MAX_VMS)
def _fitted(method: str, values: bytes, blocks: int) -> Floats:
    """A continuation, kept, as the same past is asked for several horizons. A flat line with the spread of the steps before
    where the library can fit nothing. Errors of smoothing are additive: use is zero at times."""
    level = np.frombuffer(values)
    models = library()
    model = models.AutoETS(season_length=1, model="AZN") if method == ETS else models.OptimizedTheta(season_length=1)
    size = float(np.abs(level).max()) or 1.0
    try:
        said = model.forecast(y=level / size, h=blocks, level=[60, 80, 90, 95, 98])
    except (ValueError, ZeroDivisionError, FloatingPointError, IndexError, np.linalg.LinAlgError):
        said = {"mean": np.full(blocks, np.nan)}
    out = np.full((blocks, len(LEVELS)), np.nan)
    for i, tau in enumerate(LEVELS):
        key = "mean" if tau == 0.5 else f"{'hi' if tau > 0.5 else 'lo'}-{round(200 * abs(tau - 0.5)):d}"
        if key in said:
            out[:, i] = np.asarray(said[key], np.float64) * size
    flat = level[-1] + row_quantiles(np.diff(level)[None, :], LEVELS)[0]
    found = np.where(np.isfinite(out).all(axis=1, keepdims=True), out, flat)
    found.setflags(write=False)
    return found
