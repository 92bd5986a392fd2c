"""From the expected shortness of candidate sizes to the sizes that keep one dial's promise at the least cost.

Pure: what is expected comes from outside, and what came of earlier sizes too. Knows no model and no resource.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from adumbra.schema.backtests import Risk
from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats, Ints

PRICES = np.geomspace(1e-5, 1e5, 141)
"""The prices of being short all of the time that are tried, in the mean VM's largest candidate."""

_PRIOR_DAYS, _PRIOR_FLEET_DAYS = 0.12, 1.0
"""Days short that weigh as much as what was seen: of a VM, whose short days come in clusters, and of the fleet."""
_LEAST_RATIO, _MOST_RATIO = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Dial:
    """The promise. shortfall: the share of time that a VM may be short, on average over days; risk: whether each VM keeps to
    it, or the fleet does on average, and each VM to `bound` times as much. memory_days: the half-life of what is remembered of
    earlier sizes. Raises InputError for a share that isn't above 0 and at most a half.
    """

    shortfall: float
    risk: Risk = Risk.PER_VM
    bound: float = 3.7
    memory_days: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.shortfall <= 0.5:
            raise InputError(
                f"a shortfall of {self.shortfall:.3%} is out of range", "give a share of time above 0% and up to 50%"
            )


@dataclass(frozen=True, slots=True)
class Curves:
    """What is expected of candidate sizes at one origin. vms int64[n]: which VMs of the fleet; candidates float64[n, A],
    rising; short float64[n, A]: the expected share of the window's steps above each, falling; days: the window's length."""

    vms: Ints
    candidates: Floats
    short: Floats
    days: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of earlier sizes of a fleet of V VMs, older days counting less.

    expected, came float64[V]: days short as expected and as they came; fleet: the same of all; spent float64[V, prices]: the
    days short that each price of being short would have been expected to give, given float64[V]: that the sizes given were,
    and days float64[V]: of how many.
    """

    expected: Floats
    came: Floats
    fleet: tuple[float, float]
    spent: Floats
    given: Floats
    days: Floats

    @classmethod
    def empty(cls, vms: int) -> Memory:
        return cls(np.zeros(vms), np.zeros(vms), (0.0, 0.0), np.zeros((vms, len(PRICES))), np.zeros(vms), np.zeros(vms))


@dataclass(frozen=True, slots=True)
class Decided:
    """Sizes of the VMs of some curves. amounts, expected float64[n]: the sizes, and the share short that is expected of each,
    set right by what came of earlier ones; raw float64[n]: the same as the curves had it; place int64[n]: which candidate."""

    vms: Ints
    amounts: Floats
    expected: Floats
    raw: Floats
    place: Ints
    days: float


def decide(curves: Curves, memory: Memory, dial: Dial) -> tuple[Decided, Memory]:
    """The sizes for one origin, and the memory with what they are expected to spend.

    Each VM takes the candidate that minimises size + price * expected shortness: the Lagrangian of "the least size at so much
    risk". The price is the least at which what is expected to be short, over the remembered days and this window, keeps the
    dial: of each VM on its own (per VM), or of the fleet at one common price, raised for a VM that would exceed `bound` times
    the dial (pooled). What is expected is first multiplied by how it compared with what came: of the fleet, and of each VM by a
    ratio drawn towards 1 while there is little to go by (the credibility estimate of Buehlmann, "Experience rating and
    credibility", ASTIN Bulletin 4, 1967, for counts with a Gamma prior).

    The price keeps the dial over the remembered days as this price would have spent them. What was given on other days at
    other prices may have spent more, so that a VM can pass its share for some days: what is left is spent, never won back.
    """
    short = np.maximum.accumulate(curves.short[:, ::-1], axis=1)[:, ::-1] * _ratios(memory)[curves.vms, None]
    places = _responses(curves.candidates, short)
    spends = np.take_along_axis(short, places, axis=1) * curves.days
    kept = 0.5 ** (curves.days / dial.memory_days)
    spent, given, days = memory.spent * kept, memory.given * kept, memory.days * kept
    spent[curves.vms] += spends
    days[curves.vms] += curves.days
    mean = spent[curves.vms] / days[curves.vms, None]
    price = _least_price(mean, dial.shortfall if dial.risk is Risk.PER_VM else dial.shortfall * dial.bound)
    if dial.risk is Risk.POOLED:
        price = _common_price(mean, price, dial.shortfall)
    rows = np.arange(len(curves.vms))
    place = places[rows, price]
    if dial.risk is Risk.PER_VM:
        left = (dial.shortfall * days[curves.vms] - given[curves.vms]) / curves.days
        place = _spend(short, place, np.minimum(left, dial.shortfall * dial.bound))
    given[curves.vms] += short[rows, place] * curves.days
    decided = Decided(
        curves.vms, curves.candidates[rows, place], short[rows, place], curves.short[rows, place], place, curves.days
    )  # fmt: skip
    return decided, replace(memory, spent=spent, given=given, days=days)


def learned(memory: Memory, decided: Decided, came: Floats, dial: Dial) -> Memory:
    """The memory with what came: float64[n], the share of the window's steps that were short; NaN where it isn't known."""
    kept = 0.5 ** (decided.days / dial.memory_days)
    known = np.isfinite(came)
    vms, days = decided.vms[known], decided.days
    fleet = _fleet_ratio(memory.fleet)
    expected, seen = memory.expected * kept, memory.came * kept
    np.add.at(expected, vms, decided.raw[known] * fleet * days)
    np.add.at(seen, vms, came[known] * days)
    totals = (
        memory.fleet[0] * kept + float((decided.expected[known] / fleet).sum()) * days,
        memory.fleet[1] * kept + float(came[known].sum()) * days,
    )
    return replace(memory, expected=expected, came=seen, fleet=totals)


def _ratios(memory: Memory) -> Floats:
    """By how much what is expected of each VM is to be multiplied, float64[V]."""
    of_vm = (_PRIOR_DAYS + memory.came) / (_PRIOR_DAYS + memory.expected)
    return np.asarray(np.clip(of_vm, _LEAST_RATIO, _MOST_RATIO) * _fleet_ratio(memory.fleet))


def _fleet_ratio(fleet: tuple[float, float]) -> float:
    return float(np.clip((_PRIOR_FLEET_DAYS + fleet[1]) / (_PRIOR_FLEET_DAYS + fleet[0]), _LEAST_RATIO, _MOST_RATIO))


def _responses(candidates: Floats, short: Floats) -> Ints:
    """Which candidate each price of being short makes the cheapest, int64[n, prices]; of equals the smaller."""
    unit = float(candidates[:, -1].sum()) / max(len(candidates), 1) or 1.0
    out = np.empty((len(candidates), len(PRICES)), np.int64)
    for i, price in enumerate(PRICES):
        out[:, i] = np.argmin(candidates + price * unit * short, axis=1)
    return out


def _least_price(mean: Floats, most: float) -> Ints:
    """The first price at which each VM keeps to `most`, int64[n]; the highest where none does."""
    keeps = mean <= most
    return np.where(keeps.any(axis=1), np.argmax(keeps, axis=1), len(PRICES) - 1)


def _common_price(mean: Floats, least: Ints, shortfall: float) -> Ints:
    """The first price at which the fleet keeps to the shortfall, no VM's being below its own least."""
    low, high = 0, len(PRICES) - 1
    rows = np.arange(len(mean))
    while low < high and len(mean):
        middle = (low + high) // 2
        if mean[rows, np.maximum(least, middle)].mean() <= shortfall:
            high = middle
        else:
            low = middle + 1
    return np.asarray(np.maximum(least, low))


def _spend(short: Floats, place: Ints, allowed: Floats) -> Ints:
    """The smallest candidate, no larger than that at `place`, of which no more than `allowed` is expected.

    Prices reach only the candidates on the lower convex hull of size and risk. Between two of them what a VM may still be
    short would be lost.
    """
    within = short <= allowed[:, None] + 1e-12
    first = np.where(within.any(axis=1), np.argmax(within, axis=1), short.shape[1] - 1)
    return np.asarray(np.minimum(first, place))
