"""The model of the risk: the expected share of a window's steps above a candidate size, one for all VMs of a resource.

Gradient boosting with LightGBM, monotone in the size, loaded when it is first needed. Chooses no size; writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adumbra.forecast.risk.examples import Looks, Pairs, examples, look
from adumbra.forecast.risk.layout import COLUMNS, RISING, Shape
from adumbra.schema.backtests import MeasuredUse
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Floats
from adumbra.schema.units import format_duration

if TYPE_CHECKING:
    import lightgbm

MIN_EXAMPLES = 3_000
_TREES = 260
_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class RiskModel:
    """A model that has learned. shape: the steps and the window it was learned for."""

    shape: Shape
    booster: lightgbm.Booster

    def short(self, looks: Looks) -> Floats:
        """The expected share of the window's steps above each candidate, float64[n, A], falling; NaN where that is NaN."""
        n, many, columns = looks.described.shape
        if not n:
            return np.empty((0, many))
        said = np.asarray(self.booster.predict(looks.described.reshape(n * many, columns), num_threads=1)).reshape(n, many)
        falling = np.maximum.accumulate(said[:, ::-1], axis=1)[:, ::-1]
        return np.where(np.isfinite(looks.candidates), falling, np.nan)

    def curves(self, use: MeasuredUse, pairs: Pairs) -> tuple[Floats, Floats]:
        """Candidate sizes and what is expected of them, float64[n, A] each, of pairs of a VM and an origin."""
        found = []
        for first in range(0, len(pairs), _AT_ONCE):
            looks = look(use, self.shape, pairs.only(slice(first, first + _AT_ONCE)))
            found.append((looks.candidates, self.short(looks)))
        return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        shape = {"step_s": self.shape.step_s, "held": self.shape.held, "floor": self.shape.floor}
        return {"shape": shape, "booster": self.booster.model_to_string()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RiskModel:
        """The model that `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        if not isinstance(plain["booster"], str):
            raise TypeError("a booster is text")
        import lightgbm

        try:
            booster = lightgbm.Booster(model_str=plain["booster"])
        except lightgbm.basic.LightGBMError as error:
            raise ValueError("the booster's text can't be read") from error
        if booster.num_feature() != len(COLUMNS):
            raise ValueError(f"the booster takes {booster.num_feature()} columns, not {len(COLUMNS)}")
        return cls(Shape(**plain["shape"]), booster)


def fit(use: MeasuredUse, shape: Shape, known: int, seed: int) -> RiskModel:
    """Learns from windows that end by step `known`. The same use, shape and seed give the same model.

    The loss is the cross entropy of the share, as for a probability: small shares count by their ratio. The size's columns are
    constrained to be monotone. Raises TooLittleDataError below MIN_EXAMPLES.
    """
    import lightgbm

    rng = np.random.default_rng([seed, known, shape.held])
    described, short = examples(use, shape, known, rng)
    if len(short) < MIN_EXAMPLES or not short.any():
        span = format_duration(known * shape.step_s)
        raise TooLittleDataError(
            f"{len(short):,} windows and sizes of {use.panel.resource} in {span} are too few to learn risks from",
            f"it takes {MIN_EXAMPLES:,}, some of them short: a longer history, or more VMs",
        )
    settings = {
        "objective": "cross_entropy", "learning_rate": 0.08, "num_leaves": 31, "min_data_in_leaf": 80, "max_bin": 63,
        "monotone_constraints": [1] * RISING + [0] * (len(COLUMNS) - RISING), "feature_fraction": 0.6,
        "bagging_fraction": 0.7, "bagging_freq": 1, "lambda_l2": 5.0, "verbosity": -1, "num_threads": 1,
        "deterministic": True, "force_row_wise": True, "seed": seed, "feature_pre_filter": False,
    }  # fmt: skip
    data = lightgbm.Dataset(described, label=np.clip(short, 0.0, 1.0), params=settings)
    return RiskModel(shape, lightgbm.train(settings, data, num_boost_round=_TREES))
