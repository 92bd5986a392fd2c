"""One gradient-boosted quantile model of all VMs: what is known now and how far ahead is asked, to a quantile of use.
The only module that imports LightGBM. Writes nothing and prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.random import Generator

from adumbra.forecast.models.features import Asked, Plan, rows
from adumbra.forecast.models.protocol import LEVELS, NOTHING_KNOWN, Covariates, Horizon, forecast_of
from adumbra.forecast.models.seasonal_naive import SeasonalNaive
from adumbra.forecast.series import resource_named
from adumbra.forecast.window import at_levels, rearranged, share_above
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Floats, Ints, Panel, Quantiles
from adumbra.schema.units import format_duration

NAME = "lightgbm"
MIN_ROWS = 200
_MIN_CONTEXT = 12
_MIN_PAIRS, _SOME_PAIRS, _MAX_PAIRS, _PAIRS_A_VM, _VALUES_A_PAIR = 1_000, 5_000, 12_000, 10, 200
_LARGE = 400_000  # values from which on more is tried
_HORIZONS_A_PAIR = 5
_MIN_FLEET = 10  # VMs from which on something is learned of what their declared sizes and traffic say
_BLANK = 0.4
_YOUNG = 0.2  # the share of examples that are shown with a short history of their VM, or none


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard is tried: what a fit costs grows with the history, from a second to about half a minute on one core. least:
    the least share of the examples in a leaf."""

    pairs: int
    trees: int
    leaves: int
    learning_rate: float
    least: float = 0.0
    features: float = 1.0

    @classmethod
    def of(cls, history: Panel) -> Effort:
        vms, steps = history.values.shape
        pairs = max(_MIN_PAIRS, _PAIRS_A_VM * vms, vms * steps // _VALUES_A_PAIR)
        if vms * steps < _LARGE:
            return cls(min(pairs, _SOME_PAIRS), 50, 12, 0.1)
        return cls(min(pairs, _MAX_PAIRS), 100 if pairs < _MAX_PAIRS else 150, 16, 0.08, features=0.5)


_COLD = Effort(0, 40, 6, 0.1, 0.05)


@dataclass(frozen=True, slots=True)
class LightGbm:
    """Direct forecasts of many horizons by one model a level, the step ahead being a feature.

    Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017; the pinball loss is that of
    Koenker and Bassett, "Regression Quantiles", Econometrica 46 (1978). Trees set right what a simple forecast says, the
    quantiles of the VM's own last day, rather than rebuild it. `most_ahead`: the furthest step that is learned;
    beyond it the forecast stays as at it, but for the time of day and the season.
    """

    most_ahead: int

    @property
    def name(self) -> str:
        return NAME

    def fit(self, history: Panel, rng: Generator) -> FittedLightGbm:
        """Learns from sampled origins and horizons. Raises TooLittleDataError below MIN_ROWS of them."""
        return self.learn(history, rng)

    def learn(self, history: Panel, rng: Generator, covariates: Covariates = NOTHING_KNOWN) -> FittedLightGbm:
        season = SeasonalNaive().fit(history, rng).season_steps
        plan = Plan.of(history, season, self.most_ahead, resource_named(history.resource).floor, covariates)
        effort = Effort.of(history)
        asked = _sample(history, plan, effort.pairs, rng)
        known = rows(history, plan, asked, covariates)
        blank, seed = known.blank, int(rng.integers(2**31))
        if (~blank).sum() < MIN_ROWS:
            raise TooLittleDataError(
                f"LightGBM can't learn {history.resource} from {(~blank).sum()} examples in {history.values.shape[1]} steps of "
                f"{format_duration(history.step_s)}",
                f"observe for longer: it takes {MIN_ROWS} examples",
            )
        target = np.log1p(history.values[asked.vm, asked.origin + asked.ahead - 1] / known.scale)
        unseen = blank if blank.sum() >= MIN_ROWS else np.ones(len(target), np.bool_)
        prior = np.quantile(target[unseen], LEVELS)
        warm = _train(known.x[~blank], target[~blank], known.base[~blank], effort, seed)
        cold: tuple[lightgbm.Booster, ...] = ()
        if len(np.unique(asked.vm[blank])) >= _MIN_FLEET:
            cold = _train(known.aside[blank], target[blank], np.tile(prior, (blank.sum(), 1)), _COLD, seed)
        return FittedLightGbm(plan, history.vms, tuple(float(each) for each in prior), warm, cold)


@dataclass(frozen=True, slots=True)
class FittedLightGbm:
    """A booster for each of LEVELS, the features they take, and the names of the VMs they know.

    prior: log(1 + use / scale) at LEVELS over all that was learned: what a VM without use of its own begins from.
    """

    plan: Plan
    vms: tuple[str, ...]
    prior: tuple[float, ...]
    boosters: tuple[lightgbm.Booster, ...]
    cold: tuple[lightgbm.Booster, ...] = ()

    @property
    def name(self) -> str:
        return NAME

    @property
    def about(self) -> str:
        return f"one model of {len(self.vms)} VMs, {len(LEVELS)} quantiles, up to {self.plan.most_ahead} steps ahead"

    def quantiles(self, recent: Panel, horizon: Horizon, levels: Sequence[float]) -> Quantiles:
        seen = np.isfinite(recent.values).any(axis=1)
        return self._quantiles(recent, horizon, levels, NOTHING_KNOWN, np.flatnonzero(seen))

    def informed(
        self, recent: Panel, horizon: Horizon, levels: Sequence[float], covariates: Covariates = NOTHING_KNOWN
    ) -> Quantiles:
        return self._quantiles(recent, horizon, levels, covariates, np.arange(len(recent.vms)))

    def _quantiles(
        self, recent: Panel, horizon: Horizon, levels: Sequence[float], covariates: Covariates, which: Ints
    ) -> Quantiles:
        ahead, known = horizon.ahead, recent.values.shape[1]
        vm, step = np.repeat(which, len(ahead)), np.tile(ahead, len(which))
        values = np.full((len(recent.vms), len(ahead), len(LEVELS)), np.nan)
        if len(which):
            whole = np.full(len(vm), known)
            table = rows(recent, self.plan, Asked(vm, whole, step, np.zeros_like(vm)), covariates)
            raw = np.where(table.blank[:, None], self.prior, table.base)
            for some, boosters, x in ((~table.blank, self.boosters, table.x), (table.blank, self.cold, table.aside)):
                if some.any() and boosters:
                    raw[some] += np.stack([np.asarray(b.predict(x[some], num_threads=1)) for b in boosters], axis=-1)
            use = np.expm1(np.clip(raw, 0.0, 50.0)) * table.scale[:, None]
            values[which] = rearranged(use).reshape(len(which), len(ahead), len(LEVELS))
        return forecast_of(recent, horizon, levels, at_levels(values, LEVELS, levels))

    def shortfall(self, recent: Panel, horizon: Horizon, allocations: Floats) -> Floats:
        return share_above(self.quantiles(recent, horizon, LEVELS).values, LEVELS, allocations)

    def to_dict(self) -> dict[str, Any]:
        text, cold = ([booster.model_to_string() for booster in each] for each in (self.boosters, self.cold))
        plan, prior = self.plan.to_dict(), list(self.prior)
        return {"name": NAME, "plan": plan, "vms": list(self.vms), "prior": prior, "boosters": text, "cold": cold}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FittedLightGbm:
        if len(plain["boosters"]) != len(LEVELS):
            raise ValueError("a LightGBM model has one booster for each level")
        try:
            boosters, cold = (tuple(lightgbm.Booster(model_str=text) for text in plain[name]) for name in ("boosters", "cold"))
        except lightgbm.basic.LightGBMError as error:
            raise ValueError("the booster's text can't be read") from error
        prior = tuple(float(each) for each in plain["prior"])
        return cls(Plan.from_dict(plain["plan"]), tuple(plain["vms"]), prior, boosters, cold)


def _sample(history: Panel, plan: Plan, pairs: int, rng: Generator) -> Asked:
    """What to learn from: random origins, horizons spread evenly in their logarithm, and of some pairs a short past only,
    its length spread likewise from none to all: so the model has seen what a VM is that went live an hour ago."""
    vms, known = history.values.shape
    first = min(_MIN_CONTEXT, known // 4)
    last = known - 1
    if last <= first:
        nothing = np.empty(0, np.int64)
        return Asked(nothing, nothing, nothing, nothing)
    count = min(pairs, vms * (last - first))
    pair = rng.choice(vms * (last - first), size=count, replace=False)
    at = first + pair % (last - first)
    young = (rng.random(count) < _YOUNG) & (plan.day_steps > 0)
    shown = np.floor(np.expm1(rng.random(count) * np.log1p(at))).astype(np.int64)
    shown[rng.random(count) < _BLANK] = 0
    vm = np.repeat(pair // (last - first), _HORIZONS_A_PAIR)
    origin = np.repeat(at, _HORIZONS_A_PAIR)
    since = np.repeat(np.where(young, at - shown, 0), _HORIZONS_A_PAIR)
    furthest = np.minimum(plan.most_ahead, known - origin)
    ahead = np.floor(np.exp(rng.random(len(vm)) * np.log(furthest + 1.0))).astype(np.int64)
    ahead = np.clip(ahead, 1, furthest)
    sound = np.isfinite(history.values[vm, origin + ahead - 1])
    return Asked(vm[sound], origin[sound], ahead[sound], since[sound])


def _train(x: Floats, target: Floats, base: Floats, effort: Effort, seed: int) -> tuple[lightgbm.Booster, ...]:
    """A booster a level. One thread, as more of them are slower on tables of some thousand rows, and results then don't
    hang on the machine. A leaf holds enough rows for its level's quantile to mean something: some 2 beyond it.
    """
    shared = {
        "objective": "quantile", "learning_rate": effort.learning_rate, "num_leaves": effort.leaves, "max_bin": 63,
        "verbosity": -1, "num_threads": 1, "deterministic": True, "force_row_wise": True, "seed": seed,
        "feature_pre_filter": False, "boost_from_average": False, "feature_fraction": effort.features,
    }  # fmt: skip
    data = lightgbm.Dataset(x, label=target, params=shared, free_raw_data=False)
    boosters = []
    for i, level in enumerate(LEVELS):
        leaf = int(np.clip(2.0 / min(level, 1.0 - level), max(20, effort.least * len(target)), max(len(target) // 8, 20)))
        data.set_init_score(np.ascontiguousarray(base[:, i]))
        boosters.append(
            lightgbm.train({**shared, "alpha": level, "min_data_in_leaf": leaf}, data, num_boost_round=effort.trees)
        )
    return tuple(boosters)
