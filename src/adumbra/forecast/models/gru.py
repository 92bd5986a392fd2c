"""A global recurrent network of quantiles: one network for all VMs, which reads each one's last days and answers any step.
JAX loads when it is first trained or asked (extra [rnn]). Writes nothing but the checkpoint that it is told to."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator

from adumbra.forecast.models.gru_batches import Budget, Examples
from adumbra.forecast.models.gru_features import GRU_LEVELS, WINDOWS, Grid, Singles, layer_sizes, past_of
from adumbra.forecast.models.protocol import NOTHING_KNOWN, Covariates, Horizon, forecast_of
from adumbra.forecast.models.seasonal_naive import row_quantiles
from adumbra.forecast.series import resource_named
from adumbra.forecast.window import at_levels, share_above
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import Floats, Panel, Quantiles
from adumbra.schema.units import format_duration

if TYPE_CHECKING:
    from adumbra.forecast.models.gru_training import Epoch

NAME = "gru"
LEAST_S = 2 * 86_400.0
MIN_EXAMPLES = 200
_LIBRARIES = ("jax", "equinox", "optax")
_MOST_CELLS = 400_000


def missing() -> str:
    """The first of the extra's libraries that isn't installed; "" where all are. Loads none of them."""
    return next((name for name in _LIBRARIES if find_spec(name) is None), "")


def require() -> None:
    """Raises InputError where the extra isn't installed, saying how to install it."""
    absent = missing()
    if absent:
        raise InputError(f"the recurrent network needs {absent}, which isn't installed", "pip install 'adumbra[rnn]'")


def _untold(epoch: Epoch) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Gru:
    """A network before it has learned.

    most_ahead: the furthest step that is learned, beyond which a forecast changes with time of day and week only;
    declared: VM -> its declared size, in the resource's unit, where it is known; budget: how much work it may be;
    checkpoint: where a training keeps how far it is, and goes on from if it was broken off; told: hears of each epoch.
    """

    most_ahead: int
    declared: Mapping[str, float] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    checkpoint: Path | None = None
    told: Callable[[Epoch], None] = _untold

    @property
    def name(self) -> str:
        return NAME

    def fit(self, history: Panel, rng: Generator) -> FittedGru:
        """Learns from random stretches of all VMs. Raises TooLittleDataError below two days, InputError without [rnn]."""
        return self.learn(history, rng)

    def learn(self, history: Panel, rng: Generator, covariates: Covariates = NOTHING_KNOWN) -> FittedGru:
        """`fit`, knowing declared sizes; of roles and traffic it makes no use."""
        _enough(history)
        require()
        from adumbra.forecast.models import gru_training

        seed = int(rng.integers(2**31))
        grid = Grid.of(history, self.most_ahead, resource_named(history.resource).floor)
        some = _some(history, grid, np.random.default_rng([seed, 3]))
        declared = _with(self.declared, history.vms, covariates)
        past = past_of(some, grid, _log_declared(some.vms, declared))
        logs = np.log(past.scale[:, -1][np.isfinite(past.scale[:, -1])].astype(np.float64))
        grid = replace(grid, log_scale=(float(logs.mean()), float(max(logs.std(), 0.1))))
        examples = Examples.of(replace(past, grid=grid), self.budget.size_power)
        flat = gru_training.trained(gru_training.Task(examples, self.budget, seed), self.checkpoint, self.told)
        return FittedGru(grid, len(history.vms), declared, self.budget.hidden, self.budget.width, flat)


@dataclass(frozen=True, slots=True)
class FittedGru:
    """A trained network: parameters float32[P] of its so many hidden and decoding units, and how its inputs are made."""

    grid: Grid
    learned_vms: int
    declared: Mapping[str, float]
    hidden: int
    width: int
    parameters: Singles

    @property
    def name(self) -> str:
        return NAME

    @property
    def about(self) -> str:
        some = f"{self.learned_vms} VM{'s' if self.learned_vms > 1 else ''}"
        return f"one recurrent network of {some}, {len(self.parameters)} parameters, up to {self.grid.most_ahead} steps ahead"

    def quantiles(self, recent: Panel, horizon: Horizon, levels: Sequence[float]) -> Quantiles:
        return forecast_of(recent, horizon, levels, at_levels(self._native(recent, horizon), GRU_LEVELS, levels))

    def informed(
        self, recent: Panel, horizon: Horizon, levels: Sequence[float], covariates: Covariates = NOTHING_KNOWN
    ) -> Quantiles:
        told = replace(self, declared=_with(self.declared, recent.vms, covariates))
        return told.quantiles(recent, horizon, levels)

    def shortfall(self, recent: Panel, horizon: Horizon, allocations: Floats) -> Floats:
        return share_above(self._native(recent, horizon), GRU_LEVELS, allocations)

    def to_dict(self) -> dict[str, Any]:
        text = base64.b64encode(self.parameters.astype("<f4").tobytes()).decode("ascii")
        return {
            "name": NAME, "grid": self.grid.to_dict(), "learned_vms": self.learned_vms, "declared": dict(self.declared),
            "levels": list(GRU_LEVELS), "hidden": self.hidden, "width": self.width, "parameters": text,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FittedGru:
        """Raises KeyError, TypeError or ValueError for what isn't such a model."""
        if tuple(plain["levels"]) != GRU_LEVELS:
            raise ValueError("the stored network gives other levels than this version's")
        raw = np.frombuffer(base64.b64decode(plain["parameters"], validate=True), "<f4").astype(np.float32)
        if not np.isfinite(raw).all():
            raise ValueError("the stored network's parameters aren't finite")
        hidden, width = int(plain["hidden"]), int(plain["width"])
        wanted = sum((inputs + 1) * outputs for inputs, outputs in layer_sizes(hidden, width))
        if len(raw) != wanted:
            raise ValueError(f"a network of {hidden} and {width} units has {wanted} parameters, not {len(raw)}")
        return cls(Grid.from_dict(plain["grid"]), int(plain["learned_vms"]), dict(plain["declared"]), hidden, width, raw)

    def _native(self, recent: Panel, horizon: Horizon) -> Floats:
        """Quantiles at GRU_LEVELS, float64[V, H, L]; NaN for a VM of which nothing is known within the grid's reach."""
        require()
        from adumbra.forecast.models.gru_answers import MOST_VMS, answers

        reach = self.grid.reach * self.grid.bin_steps
        values = recent.values[:, -reach:]
        late = recent.start_ns + round((recent.values.shape[1] - values.shape[1]) * recent.step_s * 1e9)
        out = np.full((len(recent.vms), len(horizon.ahead), len(GRU_LEVELS)), np.nan)
        fresh = np.isfinite(values[:, -max(WINDOWS) * self.grid.bin_steps :]).any(axis=1)
        stale = np.flatnonzero(~fresh & np.isfinite(recent.values).any(axis=1))
        out[stale] = row_quantiles(recent.values[stale], GRU_LEVELS)[:, None]
        seen = np.flatnonzero(fresh)
        for part in np.array_split(seen, -(-len(seen) // MOST_VMS)) if len(seen) else ():
            vms = tuple(recent.vms[i] for i in part)
            some = replace(recent, vms=vms, start_ns=late, values=values[part])
            past = past_of(some, self.grid, _log_declared(vms, self.declared))
            out[part] = answers(self.parameters, self.hidden, self.width, past, horizon.ahead)
        return out


def _enough(history: Panel) -> None:
    span_s = history.values.shape[1] * history.step_s
    seen = int(np.isfinite(history.values).sum())
    if span_s < LEAST_S or seen < MIN_EXAMPLES:
        raise TooLittleDataError(
            f"the recurrent network can't learn {history.resource} from {seen} values in {history.values.shape[1]} steps of "
            f"{format_duration(history.step_s)}",
            f"observe for at least {format_duration(LEAST_S)}, {MIN_EXAMPLES} values in all",
        )


def _some(history: Panel, grid: Grid, rng: Generator) -> Panel:
    """The VMs that hold a value, at most as many of them, by chance, as make a bounded number of origins."""
    seen = np.flatnonzero(np.isfinite(history.values).any(axis=1))
    most = max(1, _MOST_CELLS * grid.bin_steps // history.values.shape[1])
    if len(seen) > most:
        seen = np.sort(rng.choice(seen, size=most, replace=False))
    return replace(history, vms=tuple(history.vms[i] for i in seen), values=history.values[seen])


def _with(declared: Mapping[str, float], vms: Sequence[str], covariates: Covariates) -> dict[str, float]:
    """Declared sizes by VM, with those that the covariates tell."""
    if covariates.declared is None:
        return dict(declared)
    told = zip(vms, covariates.declared.tolist(), strict=True)
    return {**declared, **{vm: size for vm, size in told if size > 0}}


def _log_declared(vms: Sequence[str], declared: Mapping[str, float]) -> Singles:
    sizes = np.array([declared.get(vm, np.nan) for vm in vms], np.float64)
    return np.log(np.where(sizes > 0, sizes, np.nan)).astype(np.float32)
