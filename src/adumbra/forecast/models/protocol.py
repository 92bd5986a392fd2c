"""What every forecasting model gives: fit on many VMs at once, then quantiles for many VMs and steps ahead.
The seam that further models (smoothing, a recurrent network, an ensemble) fit into; holds no model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

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


@dataclass(frozen=True, slots=True)
class Covariates:
    """What is known of a panel's VMs beside their use of the resource, in the order of its VMs; all of it may be missing.

    declared: float64[V], the size that was declared or provisioned, in the resource's unit (NaN: not told); roles: a word
    for each VM ("" where not told); traffic: name -> float64[V, T], such as "rx_mbps", on the panel's grid and no longer
    than it (gaps NaN): also of VMs whose use was never measured.
    """

    declared: Floats | None = None
    roles: tuple[str, ...] = ()
    traffic: Mapping[str, Floats] = field(default_factory=dict)

    def until(self, steps: int) -> Covariates:
        """What was known of it after `steps` steps; the values after are not in it, not even as a view."""
        return replace(self, traffic={name: values[:, :steps].copy() for name, values in self.traffic.items()})

    def of(self, rows: Ints, since: int = 0) -> Covariates:
        """Of the VMs `rows` only, and of their traffic what came from step `since` on."""
        return Covariates(
            self.declared[rows] if self.declared is not None else None,
            tuple(self.roles[i] for i in rows) if self.roles else (),
            {name: values[rows, since:] for name, values in self.traffic.items()},
        )


NOTHING_KNOWN = Covariates()


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


@runtime_checkable
class Informed(Protocol):
    """What a fitted model has that can use covariates, and so, perhaps, forecast a VM of which nothing was measured."""

    def informed(
        self, recent: Panel, horizon: Horizon, levels: Sequence[float], covariates: Covariates = NOTHING_KNOWN
    ) -> Quantiles:
        """`quantiles`, knowing covariates on the grid of `recent`. Where no use was measured the fleet stands in, if the model
        can do so; else NaN."""


@runtime_checkable
class Learner(Protocol):
    """What a model before it has learned has, where it can learn from covariates."""

    def learn(self, history: Panel, rng: Generator, covariates: Covariates = NOTHING_KNOWN) -> Fitted:
        """`fit`, knowing covariates on the grid of `history`."""


def learn(model: Forecaster, history: Panel, rng: Generator, covariates: Covariates) -> Fitted:
    """Fits a model, with the covariates where it takes any."""
    return model.learn(history, rng, covariates) if isinstance(model, Learner) else model.fit(history, rng)


def foresee(
    fitted: Fitted, recent: Panel, horizon: Horizon, covariates: Covariates, levels: Sequence[float] = LEVELS
) -> Quantiles:
    """A model's quantiles, with the covariates where it takes any."""
    if isinstance(fitted, Informed):
        return fitted.informed(recent, horizon, levels, covariates)
    return fitted.quantiles(recent, horizon, levels)


def foresee_seen(
    fitted: Fitted, recent: Panel, horizon: Horizon, covariates: Covariates, levels: Sequence[float] = LEVELS
) -> Quantiles:
    """`foresee`, but NaN for a VM of which nothing was measured, whatever the model can say of it: so that all models answer
    for the same VMs."""
    found = foresee(fitted, recent, horizon, covariates, levels)
    values = found.values.copy()
    values[~np.isfinite(recent.values).any(axis=1)] = np.nan
    return replace(found, values=values)


def forecast_of(recent: Panel, horizon: Horizon, levels: Sequence[float], values: Floats) -> Quantiles:
    """Values [V, H, L] as the record that travels on: its grid begins one step after the last of `recent`."""
    start_ns = recent.start_ns + round(recent.values.shape[1] * recent.step_s * 1e9)
    return Quantiles(recent.resource, recent.vms, start_ns, recent.step_s * horizon.stride, tuple(levels), values)
