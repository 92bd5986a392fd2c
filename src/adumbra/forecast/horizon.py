"""How much further use wanders over a long horizon than a short history shows: measured on real machines, read from a table.
Interpolates what benchmarks/horizon.py measured; measures and forecasts nothing itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from adumbra.schema.records import Floats

TABLE = "horizon.json"
LEVELS: tuple[float, ...] = (0.1, 0.5, 0.9, 0.99)
SHORTEST_LEARNED_S = 60.0
NO_WIDENING_S = 10.0
LONGEST_S = 90 * 86_400.0
_UPPER = np.array(LEVELS) >= 0.5


@dataclass(frozen=True, slots=True)
class Measured:
    """One resource's table. log_ratios float64[S, B, W, H, 4]: quantiles (LEVELS) over machines and origins of log(what the
    horizon needed / what the learned window needed), at `shares` short (S), for machines whose learned window needed
    about `used` (B: the first is for those below `floor`, in which both are counted as the floor), for windows_s (W)
    and horizons_s (H). what: what was measured, in words.
    """

    what: str
    floor: float
    shares: tuple[float, ...]
    used: tuple[float, ...]
    windows_s: tuple[float, ...]
    horizons_s: tuple[float, ...]
    log_ratios: Floats


@dataclass(frozen=True, slots=True)
class Widening:
    """The whole table: resource -> what was measured of it, with how many machines, of what source and date."""

    source: str
    machines: int
    resources: Mapping[str, Measured]

    def log_ratios(self, resource: str, shortfall: float, used: Floats, learned_s: Floats, horizon_s: float) -> Floats:
        """Quantiles (LEVELS) of log(what the horizon will need / what the learned window needed), float64[V, 4].

        used: float64[V], what the learned window needed, in the table's unit; learned_s: float64[V]. Linear in the
        logarithms of share, use, window and horizon between what was measured. Beyond it: a window shorter than the
        shortest measured (15 min) goes on along the line of the two shortest, down to a minute, and is no narrower; a
        horizon shorter than the shortest measured tapers to no widening at 10 s; a longer one than the longest (7 d) goes
        on along the line of the two longest, up to 90 d. Raises KeyError for a resource that the table doesn't have.
        """
        table = self.resources[resource]
        by_share = _along(
            table.log_ratios, np.log(table.shares), np.log(min(max(shortfall, table.shares[0]), table.shares[-1]))
        )
        h = float(np.clip(horizon_s, NO_WIDENING_S, LONGEST_S))
        by_horizon = _horizon(by_share, np.asarray(table.horizons_s), h)  # [B, W, 4]
        out = np.empty((len(used), len(LEVELS)))
        for i, (amount, span_s) in enumerate(zip(used, learned_s, strict=True)):
            if amount < table.floor or len(table.used) < 2:
                by_use = by_horizon[0]
            else:
                place = np.log(np.clip(amount, table.used[1], table.used[-1]))
                by_use = _along(by_horizon[1:], np.log(table.used[1:]), float(place))
            window = float(np.clip(span_s, SHORTEST_LEARNED_S, table.windows_s[-1]))
            out[i] = _along(by_use, np.log(table.windows_s), np.log(window))
            if window < table.windows_s[0]:
                out[i] = np.where(_UPPER, np.maximum(out[i], by_use[0]), np.minimum(out[i], by_use[0]))
        return np.sort(out, axis=1)


@lru_cache(maxsize=1)
def load() -> Widening:
    """The table that comes with the package."""
    return widening_of(json.loads(files("adumbra.forecast").joinpath(TABLE).read_text("utf-8")))


def widening_of(plain: Mapping[str, Any]) -> Widening:
    """The table from its plain data: ratios, of which logarithms are kept. Raises KeyError or ValueError for other data."""
    resources = {}
    for name, entry in plain["resources"].items():
        ratios = np.log(np.asarray(entry["ratios"], np.float64))
        wanted = (len(entry["shares"]), len(entry["used"]), len(plain["windows_s"]), len(plain["horizons_s"]), len(LEVELS))
        if ratios.shape != wanted or tuple(plain["levels"]) != LEVELS:
            raise ValueError(f"the horizon table of {name} is {ratios.shape}, not {wanted}")
        resources[name] = Measured(
            entry["what"], float(entry["floor"]), tuple(entry["shares"]), tuple(entry["used"]),
            tuple(plain["windows_s"]), tuple(plain["horizons_s"]), ratios,
        )  # fmt: skip
    return Widening(plain["source"], int(plain["machines"]), resources)


def _along(table: Floats, grid: Floats, at: float) -> Floats:
    """A table's values at a place along its first axis: linear between the grid's points, and beyond its ends along the
    line of the two nearest."""
    if len(grid) == 1:
        return np.asarray(table[0])
    high = int(np.clip(np.searchsorted(grid, at), 1, len(grid) - 1))
    part = (at - grid[high - 1]) / (grid[high] - grid[high - 1])
    return np.asarray(table[high - 1] * (1 - part) + table[high] * part)


def _horizon(table: Floats, horizons_s: Floats, horizon_s: float) -> Floats:
    """[B, W, H, 4] at one horizon: [B, W, 4]."""
    moved = np.moveaxis(table, 2, 0)
    if horizon_s >= horizons_s[0]:
        return _along(moved, np.log(horizons_s), float(np.log(horizon_s)))
    part = np.log(horizon_s / NO_WIDENING_S) / np.log(horizons_s[0] / NO_WIDENING_S)
    return np.asarray(moved[0] * part)
