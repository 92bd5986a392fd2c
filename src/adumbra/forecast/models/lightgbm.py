"""One gradient-boosted quantile model of all VMs: what is known now and how far ahead is asked, to a quantile of use.
The only module that imports LightGBM. Writes nothing and prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.random import Generator

from adumbra.forecast.models.features import Plan, rows
from adumbra.forecast.models.protocol import LEVELS, Horizon, forecast_of
from adumbra.forecast.models.seasonal_naive import SeasonalNaive
from adumbra.forecast.series import resource_named
from adumbra.forecast.window import at_levels, rearranged, share_above
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Floats, Ints, Panel, Quantiles
from adumbra.schema.units import format_duration

NAME = "lightgbm"
MIN_ROWS = 200
_MIN_CONTEXT = 12
_MIN_PAIRS, _MAX_PAIRS, _PAIRS_A_VM = 1_000, 5_000, 10
_HORIZONS_A_PAIR = 5
_TREES = 50


@dataclass(frozen=True, slots=True)
class LightGbm:
    """Direct forecasts of many horizons by one model a level, the step ahead being a feature.

    Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017; the pinball loss is that of
    Koenker and Bassett, "Regression Quantiles", Econometrica 46 (1978). `most_ahead`: the furthest step that is learned;
    beyond it the forecast stays as at it, but for the time of day and the season.
    """

    most_ahead: int

    @property
    def name(self) -> str:
        return NAME

    def fit(self, history: Panel, rng: Generator) -> FittedLightGbm:
        """Learns from sampled origins and horizons. Raises TooLittleDataError below MIN_ROWS of them."""
        season = SeasonalNaive().fit(history, rng).season_steps
        plan = Plan.of(history, season, self.most_ahead, resource_named(history.resource).floor)
        vm, origin, ahead = _sample(history, plan, rng)
        if len(vm) < MIN_ROWS:
            raise TooLittleDataError(
                f"LightGBM can't learn {history.resource} from {len(vm)} examples in {history.values.shape[1]} steps of "
                f"{format_duration(history.step_s)}",
                f"observe for longer: it takes {MIN_ROWS} examples",
            )
        known = rows(history, plan, vm, origin, ahead)
        target = np.log1p(history.values[vm, origin + ahead - 1] / known.scale)
        x = np.concatenate([known.x, vm[:, None].astype(np.float64)], axis=1)
        seed = int(rng.integers(2**31))
        boosters = _train(x, target, len(history.vms) > 1, seed)
        return FittedLightGbm(plan, history.vms, boosters)


@dataclass(frozen=True, slots=True)
class FittedLightGbm:
    """A booster for each of LEVELS, the features they take, and the names of the VMs they know."""

    plan: Plan
    vms: tuple[str, ...]
    boosters: tuple[lightgbm.Booster, ...]

    @property
    def name(self) -> str:
        return NAME

    @property
    def about(self) -> str:
        return f"one model of {len(self.vms)} VMs, {len(LEVELS)} quantiles, up to {self.plan.most_ahead} steps ahead"

    def quantiles(self, recent: Panel, horizon: Horizon, levels: Sequence[float]) -> Quantiles:
        seen = np.flatnonzero(np.isfinite(recent.values).any(axis=1))
        ahead, known = horizon.ahead, recent.values.shape[1]
        vm, step = np.repeat(seen, len(ahead)), np.tile(ahead, len(seen))
        table = rows(recent, self.plan, vm, np.full(len(vm), known), step)
        number = {name: float(i) for i, name in enumerate(self.vms)}
        category = np.array([number.get(name, np.nan) for name in recent.vms])[vm]
        x = np.concatenate([table.x, category[:, None]], axis=1)
        values = np.full((len(recent.vms), len(ahead), len(LEVELS)), np.nan)
        if len(seen):
            raw = np.stack([np.asarray(b.predict(x, num_threads=1)) for b in self.boosters], axis=-1)
            use = np.expm1(np.clip(raw, 0.0, 50.0)) * table.scale[:, None]
            values[seen] = rearranged(use).reshape(len(seen), len(ahead), len(LEVELS))
        return forecast_of(recent, horizon, levels, at_levels(values, LEVELS, levels))

    def shortfall(self, recent: Panel, horizon: Horizon, allocations: Floats) -> Floats:
        return share_above(self.quantiles(recent, horizon, LEVELS).values, LEVELS, allocations)

    def to_dict(self) -> dict[str, Any]:
        text = [booster.model_to_string() for booster in self.boosters]
        return {"name": NAME, "plan": self.plan.to_dict(), "vms": list(self.vms), "boosters": text}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FittedLightGbm:
        if len(plain["boosters"]) != len(LEVELS):
            raise ValueError("a LightGBM model has one booster for each level")
        try:
            boosters = tuple(lightgbm.Booster(model_str=text) for text in plain["boosters"])
        except lightgbm.basic.LightGBMError as error:
            raise ValueError("the booster's text can't be read") from error
        return cls(Plan.from_dict(plain["plan"]), tuple(plain["vms"]), boosters)


def _sample(history: Panel, plan: Plan, rng: Generator) -> tuple[Ints, Ints, Ints]:
    """VM rows, origins and steps ahead to learn from: random origins, and horizons spread evenly in their logarithm."""
    vms, known = history.values.shape
    first = min(_MIN_CONTEXT, known // 4)
    last = known - 1
    if last <= first:
        nothing = np.empty(0, np.int64)
        return nothing, nothing, nothing
    most = min(max(_MIN_PAIRS, _PAIRS_A_VM * vms), _MAX_PAIRS)
    count = min(most, vms * (last - first))
    pair = rng.choice(vms * (last - first), size=count, replace=False)
    vm = np.repeat(pair // (last - first), _HORIZONS_A_PAIR)
    origin = np.repeat(first + pair % (last - first), _HORIZONS_A_PAIR)
    furthest = np.minimum(plan.most_ahead, known - origin)
    ahead = np.floor(np.exp(rng.random(len(vm)) * np.log(furthest + 1.0))).astype(np.int64)
    ahead = np.clip(ahead, 1, furthest)
    sound = np.isfinite(history.values[vm, origin + ahead - 1])
    return vm[sound], origin[sound], ahead[sound]


def _train(x: Floats, target: Floats, many_vms: bool, seed: int) -> tuple[lightgbm.Booster, ...]:
    """A booster a level. One thread, as more of them are slower on tables of some thousand rows, and results then don't
    hang on the machine. A leaf holds enough rows for its level's quantile to mean something: some 2 beyond it.
    """
    shared = {
        "objective": "quantile", "learning_rate": 0.1, "num_leaves": 12, "max_bin": 63, "verbosity": -1, "num_threads": 1,
        "deterministic": True, "force_row_wise": True, "seed": seed, "feature_pre_filter": False,
    }  # fmt: skip
    category = [x.shape[1] - 1] if many_vms else []
    data = lightgbm.Dataset(x, label=target, categorical_feature=category, params=shared, free_raw_data=False)
    boosters = []
    for level in LEVELS:
        leaf = int(np.clip(2.0 / min(level, 1.0 - level), 20, max(len(target) // 8, 20)))
        boosters.append(lightgbm.train({**shared, "alpha": level, "min_data_in_leaf": leaf}, data, num_boost_round=_TREES))
    return tuple(boosters)
