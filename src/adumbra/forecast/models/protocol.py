"""What every forecasting model gives: fit on many VMs at once, then quantiles for many VMs and steps ahead.
The seam that further models (smoothing, a recurrent network, an ensemble) fit into; holds no model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator

from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats, Ints, Panel, Quantiles

LEVELS: tuple[float, ...] = (0.025, 0.1, 0.5, 0.9, 0.95, 0.975, 0.99)
"""The levels that models are fitted, scored and calibrated at: the median, both ends of the 80 and 95 % intervals, and
the upper levels that sizing needs."""

MAX_HORIZON_STEPS = 10_000_000


@dataclass(frozen=True, slots=True)
class Horizon:
    """Which steps after the history to forecast: of the next `steps`, each `stride`-th, from the first on.

    A stride keeps a week of seconds from becoming 604,800 forecasts. Raises InputError where there is nothing to forecast.
    """

    steps: int
    stride: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.steps <= MAX_HORIZON_STEPS and self.stride >= 1):
            raise InputError(
                f"a horizon of {self.steps} steps, each {self.stride}-th, can't be forecast",
                f"ask for 1 to {MAX_HORIZON_STEPS} steps",
            )

    @classmethod
    def thinned(cls, steps: int, most: int) -> Horizon:
        """A horizon of `steps` steps of which about `most`, evenly spread, are forecast."""
        return cls(steps, max(1, -(-steps // most)))

    @property
    def ahead(self) -> Ints:
        """How many steps after the last known one each forecast lies: int64[H], 1 for the very next."""
        return np.arange(1, self.steps + 1, self.stride, dtype=np.int64)


class Fitted(Protocol):
    """A model that has learned. It sees nothing but what is handed to it, and a panel ends where the future begins."""

    @property
    def name(self) -> str:
        """The model's name, as the registry has it."""

    @property
    def about(self) -> str:
        """What it made of the data, as a clause: "repeats the day before"."""

    def quantiles(self, recent: Panel, horizon: Horizon, levels: Sequence[float]) -> Quantiles:
        """Forecasts from the end of `recent` on: values float64[V, H, L], monotone in level, none below zero.

        The VMs are those of `recent`, also ones that weren't there when it was fitted. NaN for a VM of which `recent`
        holds no value.
        """

    def shortfall(self, recent: Panel, horizon: Horizon, allocations: Floats) -> Floats:
        """The expected share of the horizon's steps in which use exceeds each allocation: [V, A] -> float64[V, A]."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, from which the registry's `restore` makes the same model."""


class Forecaster(Protocol):
    """A model before it has learned: its settings only."""

    @property
    def name(self) -> str:
        """The model's name, as the registry has it."""

    def fit(self, history: Panel, rng: Generator) -> Fitted:
        """Learns from a panel of many VMs. The same history and the same state of `rng` give the same model.

        Raises TooLittleDataError where the history is too short for it, saying how much it takes.
        """


def forecast_of(recent: Panel, horizon: Horizon, levels: Sequence[float], values: Floats) -> Quantiles:
    """Values [V, H, L] as the record that travels on: its grid begins one step after the last of `recent`."""
    start_ns = recent.start_ns + round(recent.values.shape[1] * recent.step_s * 1e9)
    return Quantiles(recent.resource, recent.vms, start_ns, recent.step_s * horizon.stride, tuple(levels), values)
