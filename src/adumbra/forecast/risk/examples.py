"""Looks at many VMs at many origins: candidates, what describes them, and, of the past, how short each would have been.

Chooses which to learn from by the generator that it is given. Fits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from adumbra.forecast.risk import kernels
from adumbra.forecast.risk.layout import CANDIDATES, COLUMNS, LEVELS_1D, LEVELS_14D, SHARES_OF_CAPACITY, TIMES_MAXIMUM, Shape
from adumbra.schema.backtests import MeasuredUse
from adumbra.schema.records import NANOSECONDS, Floats, Ints

PAIRS = 30_000
"""How many pairs of a VM and an origin are learned from, at most."""

CANDIDATES_A_PAIR = 10
_ORIGINS_A_DAY = 4
_YOUNG = 0.15
_YOUNG_H = (0.0, 1.0, 6.0, 24.0, 72.0, 168.0)
"""Of so large a share of the pairs all but the last hours are hidden, so that VMs that live for so long only are learned of."""

_LEVELS = tuple(np.array(each) for each in (LEVELS_14D, LEVELS_1D, TIMES_MAXIMUM, SHARES_OF_CAPACITY))
_THURSDAY = 3  # the first of January 1970, Monday being 0
_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Pairs:
    """n pairs of a VM and an origin, int64[n] each: the VM's row, the first step that is looked at, and how many are known."""

    vms: Ints
    begins: Ints
    origins: Ints

    @classmethod
    def at(cls, origin: int, vms: int) -> Pairs:
        """All VMs at one origin."""
        return cls(np.arange(vms), np.zeros(vms, np.int64), np.full(vms, origin, np.int64))

    def only(self, chosen: Ints | slice) -> Pairs:
        return Pairs(self.vms[chosen], self.begins[chosen], self.origins[chosen])

    def __len__(self) -> int:
        return len(self.vms)


@dataclass(frozen=True, slots=True)
class Looks:
    """What was looked at of n pairs. candidates float64[n, A], rising, NaN of a VM of which nothing is known; described
    float32[n, A, F] (layout.COLUMNS); short float64[n, A]: the share of the window's steps above each candidate but not above
    the capacity, NaN where it isn't known."""

    candidates: Floats
    described: NDArray[np.float32]
    short: Floats


def look(use: MeasuredUse, shape: Shape, pairs: Pairs, future: bool = False) -> Looks:
    """Looks at each pair. Nothing at or after its origin is looked at, but for what came, where `future` asks for it."""
    panel = use.panel
    seconds = panel.start_ns // NANOSECONDS + (pairs.origins * panel.step_s).astype(np.int64)
    weekdays, hours = (seconds // 86_400 + _THURSDAY) % 7, seconds % 86_400 / 3600.0
    capacities = np.where(use.provisioned > 0, use.provisioned, np.inf)
    sizes = (shape.day, shape.hour, shape.held)
    looks = Looks(
        np.empty((len(pairs), CANDIDATES)),
        np.empty((len(pairs), CANDIDATES, len(COLUMNS)), np.float32),
        np.full((len(pairs), CANDIDATES), np.nan),
    )
    each = zip(pairs.vms.tolist(), pairs.begins.tolist(), pairs.origins.tolist(), strict=True)
    for i, (vm, begin, origin) in enumerate(each):
        past = _plain(panel.values[vm, max(begin, origin - shape.context) : origin])
        ordered = _ordered(past[-14 * shape.day :]), _ordered(past[-shape.day :])
        limits, calendar = (float(shape.floor), float(capacities[vm])), (float(weekdays[i]), float(hours[i]))
        candidates = looks.candidates[i]
        kernels.look(past, *ordered, sizes, limits, _LEVELS, calendar, candidates, looks.described[i])
        if future:
            kernels.came(_plain(panel.values[vm, origin : origin + shape.held]), candidates, limits[1], looks.short[i])
    return looks


def _plain(values: Floats) -> Floats:
    """The values in the one form that kernels are compiled for; those of other forms are copied."""
    return np.require(values, np.float64, ("C", "W"))


def _ordered(values: Floats) -> Floats:
    """What was measured of the values, in order."""
    ordered = np.sort(values)  # NaN come last
    return ordered[: np.searchsorted(ordered, np.nan)]


def examples(use: MeasuredUse, shape: Shape, known: int, rng: Generator) -> tuple[NDArray[np.float32], Floats]:
    """What is learned from: described float32[n, F] and short float64[n], of windows that end by step `known`.

    Origins are a quarter of a day or a window apart, whichever is less, counted back from the last; at most PAIRS of them and
    the VMs, by chance, with CANDIDATES_A_PAIR candidates each.
    """
    pairs = _some_pairs(use, shape, known, rng)
    described, short = [], []
    for first in range(0, len(pairs), _AT_ONCE):
        some = look(use, shape, pairs.only(slice(first, first + _AT_ONCE)), future=True)
        n, many = some.candidates.shape
        kept = np.argsort(rng.random((n, many)), axis=1)[:, :CANDIDATES_A_PAIR]
        rows = np.arange(n)[:, None]
        sound = np.isfinite(some.candidates[rows, kept]) & np.isfinite(some.short[rows, kept])
        described.append(some.described[rows, kept][sound])
        short.append(some.short[rows, kept][sound])
    if not described:
        return np.empty((0, 0), np.float32), np.empty(0)
    return np.concatenate(described), np.concatenate(short)


def _some_pairs(use: MeasuredUse, shape: Shape, known: int, rng: Generator) -> Pairs:
    """Pairs of which something was seen in the 14 days before, and half of the window was measured."""
    sums = np.zeros((len(use.panel.vms), known + 1), np.int32)
    np.cumsum(np.isfinite(use.panel.values[:, :known]), axis=1, out=sums[:, 1:])
    apart = max(1, min(shape.day // _ORIGINS_A_DAY, shape.held))
    origins = np.arange(known - shape.held, 0, -apart)[::-1].astype(np.int64)
    if not len(origins):
        return Pairs(*(np.empty(0, np.int64) for _ in range(3)))
    before = sums[:, origins] - sums[:, np.maximum(origins - 14 * shape.day, 0)]
    held = sums[:, origins + shape.held] - sums[:, origins]
    vms, place = np.nonzero((before > 0) & (2 * held >= shape.held))
    if len(vms) > PAIRS:
        some = np.sort(rng.choice(len(vms), PAIRS, replace=False))
        vms, place = vms[some], place[some]
    pairs = Pairs(vms, np.zeros(len(vms), np.int64), origins[place])
    hidden = rng.random(len(pairs)) < _YOUNG
    age = np.round(np.asarray(_YOUNG_H) * 3600.0 / shape.step_s).astype(np.int64)[rng.integers(len(_YOUNG_H), size=len(pairs))]
    return replace(pairs, begins=np.where(hidden, np.maximum(pairs.origins - age, 0), 0))
