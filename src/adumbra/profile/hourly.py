"""A size for each hour of the week, from a forecast of it: for what can be resized without a restart, or scheduled.

Pure; forecasts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Floats, Quantiles

DAYS: tuple[str, ...] = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_THURSDAY = 3  # the first of January 1970, Monday being 0


@dataclass(frozen=True, slots=True)
class HourlySizes:
    """Sizes float64[V, 7, 24] of one resource, in its unit, by weekday (Monday first) and hour, UTC; NaN of a VM unseen."""

    resource: str
    vms: tuple[str, ...]
    sizes: Floats

    @property
    def mean(self) -> Floats:
        """Each VM's mean over the week, [V]: what it would pay for, resized by the hour."""
        return np.asarray(self.sizes.mean(axis=(1, 2)))

    @property
    def most(self) -> Floats:
        """Each VM's largest, [V]: the one size that holds all week."""
        return np.asarray(self.sizes.max(axis=(1, 2)))

    def to_dict(self) -> dict[str, Any]:
        return {"resource": self.resource, "days": list(DAYS), "vms": dict(zip(self.vms, self.sizes.tolist(), strict=True))}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> HourlySizes:
        """The sizes that `to_dict` gave, through JSON or not (null: NaN). Raises KeyError or ValueError for anything else."""
        sizes = np.array(list(plain["vms"].values()), np.float64).reshape(len(plain["vms"]), 7, 24)
        return cls(plain["resource"], tuple(plain["vms"]), sizes)


def hourly(forecast: Quantiles, shortfall: float) -> HourlySizes:
    """The sizes that a forecast of a week or more at 1 - shortfall asks for: the largest of each hour of the week.

    Raises InputError where some hour has none.
    """
    at = level_of(forecast.levels, 1.0 - shortfall)
    seconds = forecast.start_ns // NANOSECONDS + np.round(np.arange(forecast.values.shape[1]) * forecast.step_s).astype(
        np.int64
    )
    hours = (seconds // 86_400 + _THURSDAY) % 7 * 24 + seconds % 86_400 // 3600
    sizes = np.full((len(forecast.vms), 168), -np.inf)
    for column, hour in enumerate(hours):
        sizes[:, hour] = np.maximum(sizes[:, hour], forecast.values[:, column, at])
    if np.isneginf(sizes).any():
        raise InputError("the forecast doesn't reach every hour of a week", "forecast 7 days in steps of an hour or less")
    return HourlySizes(forecast.resource, forecast.vms, sizes.reshape(-1, 7, 24))


def level_of(levels: Sequence[float], wanted: float) -> int:
    """The place of a level. Raises InputError where it isn't there."""
    for place, level in enumerate(levels):
        if abs(level - wanted) < 1e-9:
            return place
    raise InputError(f"the forecast has no quantile at {wanted:g}", "ask for it")
