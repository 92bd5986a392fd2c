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
QUANTILE_MODEL = "lightgbm"
ENSEMBLE = "ensemble"
CLASSICAL: tuple[str, ...] = ("autoets", "theta")
NAMES: tuple[str, ...] = (BASELINE, QUANTILE_MODEL)
"""The models that training always tries; beside them, the ensemble of those is tried at no cost of fitting."""
LONG: tuple[str, ...] = ("gru",)
"""Models that take minutes: tried only where `why_not` says nothing against it."""
TITLES: Mapping[str, str] = {
    BASELINE: "seasonal naive", QUANTILE_MODEL: "LightGBM", ENSEMBLE: "the ensemble", "autoets": "AutoETS", "theta": "Theta",
    "fleet": "the fleet's use", "gru": "the recurrent network",
}  # fmt: skip

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
            f"{title} wasn't tried: it takes {format_duration(_LONG_S)} of {_LONG_VMS} VMs, {_LONG_VALUES} values in "
            f"all, to be worth its minutes"
        )
    absent = missing()
    return f"{title} wasn't tried: {absent} isn't installed (pip install 'adumbra[rnn]')" if absent else ""


def forecaster(name: str, most_ahead: int, members: Mapping[str, float] | None = None) -> Forecaster:
    """A model before it has learned, meant for forecasts up to `most_ahead` steps. Raises KeyError for a name unknown.

    members: of an ensemble, its members and their weights; without, it is of NAMES and fits its weights itself.
    """
    if name == BASELINE:
        from adumbra.forecast.models.seasonal_naive import SeasonalNaive

        return SeasonalNaive()
    if name == QUANTILE_MODEL:
        from adumbra.forecast.models.lightgbm import LightGbm

        return LightGbm(most_ahead)
    if name == "gru":
        from adumbra.forecast.models.gru import Gru
        from adumbra.forecast.models.gru_batches import Budget

        return Gru(most_ahead, budget=Budget(steps=_LONG_BATCHES))
    if name in CLASSICAL:
        from adumbra.forecast.models.classical import Classical

        return Classical(name)
    if name == "fleet":
        from adumbra.forecast.models.fleet import Fleet

        return Fleet()
    if name == ENSEMBLE:
        from adumbra.forecast.models.ensemble import Ensemble

        inside = tuple(forecaster(member, most_ahead) for member in members or NAMES)
        return Ensemble(inside, tuple(members.values()) if members else None)
    raise KeyError(name)


def restore(plain: Mapping[str, Any]) -> Fitted:
    """The fitted model that `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
    name = plain["name"]
    if name == BASELINE:
        from adumbra.forecast.models.seasonal_naive import FittedSeasonalNaive

        return FittedSeasonalNaive.from_dict(plain)
    if name == QUANTILE_MODEL:
        from adumbra.forecast.models.lightgbm import FittedLightGbm

        return FittedLightGbm.from_dict(plain)
    if name == "gru":
        from adumbra.forecast.models.gru import FittedGru

        return FittedGru.from_dict(plain)
    if name in CLASSICAL:
        from adumbra.forecast.models.classical import FittedClassical

        return FittedClassical.from_dict(plain)
    if name == "fleet":
        from adumbra.forecast.models.fleet import FittedFleet

        return FittedFleet.from_dict(plain)
    if name == ENSEMBLE:
        from adumbra.forecast.models.ensemble import FittedEnsemble

        members = plain["members"]
        if any(member["name"] == ENSEMBLE for member in members):
            raise ValueError("an ensemble is no member of one")
        return FittedEnsemble.from_dict(plain, [restore(member) for member in members])
    raise KeyError(name)
