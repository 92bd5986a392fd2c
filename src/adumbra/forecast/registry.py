"""Which forecasting models there are, by name; a model's module, and its library, loads when it is first asked for.
Holds no trained model: those are stored with the network's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adumbra.forecast.models.protocol import Fitted, Forecaster
from adumbra.schema.records import Panel
from adumbra.schema.units import format_duration

BASELINE = "seasonal-naive"
NAMES: tuple[str, ...] = (BASELINE, "lightgbm")
LONG: tuple[str, ...] = ("gru",)
"""Models that take minutes: tried only where `why_not` says nothing against it."""
TITLES: Mapping[str, str] = {BASELINE: "seasonal naive", "lightgbm": "LightGBM", "gru": "recurrent network"}

_LONG_S, _LONG_VMS, _LONG_VALUES = 7 * 86_400.0, 20, 50_000
_LONG_BATCHES = 500  # a back-test and the fit after it learn three times a resource: half of what is best, at half the time


def why_not(name: str, history: Panel) -> str:
    """Why one of LONG isn't tried on a history, as a clause; "" where it is. Loads no heavy library."""
    from adumbra.forecast.models.gru import missing

    seen = np.isfinite(history.values)
    span_s, vms, values = history.values.shape[1] * history.step_s, int(seen.any(axis=1).sum()), int(seen.sum())
    title = TITLES[name]
    if span_s < _LONG_S or vms < _LONG_VMS or values < _LONG_VALUES:
        return (
            f"the {title} wasn't tried: it takes {format_duration(_LONG_S)} of {_LONG_VMS} VMs, {_LONG_VALUES} values in "
            f"all, to be worth its minutes"
        )
    absent = missing()
    return f"the {title} wasn't tried: {absent} isn't installed (pip install 'adumbra[rnn]')" if absent else ""


def forecaster(name: str, most_ahead: int) -> Forecaster:
    """A model before it has learned, meant for forecasts up to `most_ahead` steps. Raises KeyError for a name unknown."""
    if name == BASELINE:
        from adumbra.forecast.models.seasonal_naive import SeasonalNaive

        return SeasonalNaive()
    if name == "lightgbm":
        from adumbra.forecast.models.lightgbm import LightGbm

        return LightGbm(most_ahead)
    if name == "gru":
        from adumbra.forecast.models.gru import Gru
        from adumbra.forecast.models.gru_batches import Budget

        return Gru(most_ahead, budget=Budget(steps=_LONG_BATCHES))
    raise KeyError(name)


def restore(plain: Mapping[str, Any]) -> Fitted:
    """The fitted model that `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
    if plain["name"] == BASELINE:
        from adumbra.forecast.models.seasonal_naive import FittedSeasonalNaive

        return FittedSeasonalNaive.from_dict(plain)
    if plain["name"] == "lightgbm":
        from adumbra.forecast.models.lightgbm import FittedLightGbm

        return FittedLightGbm.from_dict(plain)
    if plain["name"] == "gru":
        from adumbra.forecast.models.gru import FittedGru

        return FittedGru.from_dict(plain)
    raise KeyError(plain["name"])
