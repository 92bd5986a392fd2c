"""Which forecasting models there are, by name; a model's module, and its library, loads when it is first asked for.
Holds no trained model: those are stored with the network's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adumbra.forecast.models.protocol import Fitted, Forecaster

BASELINE = "seasonal-naive"
NAMES: tuple[str, ...] = (BASELINE, "lightgbm")
TITLES: Mapping[str, str] = {BASELINE: "seasonal naive", "lightgbm": "LightGBM"}


def forecaster(name: str, most_ahead: int) -> Forecaster:
    """A model before it has learned, meant for forecasts up to `most_ahead` steps. Raises KeyError for a name unknown."""
    if name == BASELINE:
        from adumbra.forecast.models.seasonal_naive import SeasonalNaive

        return SeasonalNaive()
    if name == "lightgbm":
        from adumbra.forecast.models.lightgbm import LightGbm

        return LightGbm(most_ahead)
    raise KeyError(name)


def restore(plain: Mapping[str, Any]) -> Fitted:
    """The fitted model that `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
    if plain["name"] == BASELINE:
        from adumbra.forecast.models.seasonal_naive import FittedSeasonalNaive

        return FittedSeasonalNaive.from_dict(plain)
    if plain["name"] == "lightgbm":
        from adumbra.forecast.models.lightgbm import FittedLightGbm

        return FittedLightGbm.from_dict(plain)
    raise KeyError(plain["name"])
