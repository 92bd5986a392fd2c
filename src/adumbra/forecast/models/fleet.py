"""The fleet's use: a VM will use what the others do, in proportion to its declared size, until it has shown its own.
What every forecast of a new VM has to beat. Knows no time of day, and no trend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from adumbra.forecast.models.protocol import LEVELS, NOTHING_KNOWN, Covariates, Horizon, forecast_of
from adumbra.forecast.models.seasonal_naive import row_quantiles
from adumbra.forecast.window import at_levels, rearranged, share_above
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Floats, Panel, Quantiles

NAME = "fleet"
MIN_STEPS = 6
OWN_S = 900.0
"""How much of a VM's own use weighs as much as the fleet's: after an hour its own counts for four fifths. At 6 h, on
Bitbrains, the fleet drowned what a VM had shown in its first day (benchmarks/forecasts.py)."""
_A_VM = 2_000


@dataclass(frozen=True, slots=True)
class Fleet:
    """Quantiles over all VMs, each counting the same, of use to declared size (and of plain use, for a VM of which no size
    is told); averaged level by level with the VM's own quantiles, weighted by how much of it was seen (OWN_S)."""

    @property
    def name(self) -> str:
        return NAME

    def fit(self, history: Panel, rng: Generator) -> FittedFleet:
        """Raises TooLittleDataError where no VM has MIN_STEPS measured steps."""
        return self.learn(history, rng)

    def learn(self, history: Panel, rng: Generator, covariates: Covariates = NOTHING_KNOWN) -> FittedFleet:
        seen = np.isfinite(history.values).sum(axis=1)
        if seen.max(initial=0) < MIN_STEPS:
            raise TooLittleDataError(
                f"the fleet's use of {history.resource} can't be told from {int(seen.max(initial=0))} steps",
                f"observe for at least {MIN_STEPS} steps",
            )
        at = np.sort(rng.choice(history.values.shape[1], min(_A_VM, history.values.shape[1]), replace=False))
        use = row_quantiles(history.values[:, at], np.linspace(0.0025, 0.9975, 200).tolist())  # [V, 200], alike for each VM
        use = np.where(np.isfinite(use), use, np.nan)
        plain = row_quantiles(use.reshape(1, -1), LEVELS)[0]
        share: tuple[float, ...] = ()
        if covariates.declared is not None:
            told = np.isfinite(covariates.declared) & (covariates.declared > 0)
            of_size = (use[told] / covariates.declared[told, None]).reshape(1, -1)
            if np.isfinite(of_size).any():
                share = tuple(float(each) for each in row_quantiles(of_size, LEVELS)[0])
        return FittedFleet(tuple(float(each) for each in plain), share)


@dataclass(frozen=True, slots=True)
class FittedFleet:
    """Quantiles of use, and of use to declared size (empty: no sizes were told), at LEVELS."""

    use: tuple[float, ...]
    share: tuple[float, ...]

    @property
    def name(self) -> str:
        return NAME

    @property
    def about(self) -> str:
        return "it takes a VM to use what the others do, " + ("by its declared size" if self.share else "whatever its size")

    def quantiles(self, recent: Panel, horizon: Horizon, levels: Sequence[float]) -> Quantiles:
        seen = np.isfinite(recent.values).any(axis=1)
        found = self.informed(recent, horizon, levels)
        found.values[~seen] = np.nan
        return found

    def informed(
        self, recent: Panel, horizon: Horizon, levels: Sequence[float], covariates: Covariates = NOTHING_KNOWN
    ) -> Quantiles:
        prior = np.tile(self.use, (len(recent.vms), 1))
        if self.share and covariates.declared is not None:
            told = np.isfinite(covariates.declared) & (covariates.declared > 0)
            prior[told] = covariates.declared[told, None] * np.asarray(self.share)
        count = np.isfinite(recent.values).sum(axis=1)
        weight = (count / (count + OWN_S / recent.step_s))[:, None]
        own = np.where(count[:, None] > 0, row_quantiles(recent.values, LEVELS), 0.0)
        mixed = rearranged(weight * own + (1 - weight) * prior)
        values = np.repeat(mixed[:, None, :], len(horizon.ahead), axis=1)
        return forecast_of(recent, horizon, levels, at_levels(values, LEVELS, levels))

    def shortfall(self, recent: Panel, horizon: Horizon, allocations: Floats) -> Floats:
        return share_above(self.quantiles(recent, horizon, LEVELS).values, LEVELS, allocations)

    def to_dict(self) -> dict[str, Any]:
        return {"name": NAME, "use": list(self.use), "share": list(self.share)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FittedFleet:
        use, share = (tuple(float(each) for each in plain[name]) for name in ("use", "share"))
        if len(use) != len(LEVELS) or len(share) not in {0, len(LEVELS)}:
            raise ValueError("the fleet's use has a value for each level")
        return cls(use, share)
