"""Compares scored sizes: which are dominated, how much two rules differ and how surely, who needs less at the same risk.

Arithmetic on points and their sums per VM; the use isn't looked at again. Chance comes as an argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from adumbra.profile.frontier import PerVm, Point
from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats

DRAWS = 2000
_INTERVAL = (2.5, 97.5)
_AT_ONCE = 4_000_000  # weights drawn together: bounds the memory, whatever the number of VMs


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, and the 95 % interval around it: percentiles of the draws. NaN where it can't be told."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Ours less theirs, in percentage points, over `vms` VMs; below 0 is better for us.

    chance_*: the share of draws in which ours is strictly less; chance_better: in which we allocate less and are short no more
    often. NaN where there are fewer than two VMs, as one says nothing of how VMs differ.
    """

    vms: int
    draws: int
    allocated: Interval
    short: Interval
    chance_allocates_less: float
    chance_short_less: float
    chance_better: float


@dataclass(frozen=True, slots=True)
class SameRisk:
    """What we allocate where we are short no more often than a rule, read off our curve.

    reached: whether any of our points is short no more often; if none is, ours is NaN, as nothing is read off beyond the
    curve's end. allocated: ours less theirs, in percentage points of the capacity; of_theirs: that in % of what the rule
    allocates. chance_less: the share of all draws in which we reach the risk and allocate less; reached_share: in which we
    reach it, and to which the intervals pertain.
    """

    rule: str
    short_percent: float
    theirs_percent: float
    ours_percent: float
    allocated: Interval
    of_theirs: Interval
    reached: bool
    reached_share: float
    chance_less: float


def dominated(points: Sequence[Point]) -> tuple[bool, ...]:
    """Of each point, whether another one allocates no more and is short no more often, and is better in one of both."""
    where = [(point.figures.allocated_percent, point.figures.short_percent) for point in points]
    return tuple(
        any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in where)  # equals don't dominate
        for mine in where
    )


def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that none dominates, the one that is short most rarely first."""
    kept = [point for point, beaten in zip(points, dominated(points), strict=True) if not beaten]
    return tuple(sorted(kept, key=lambda point: (point.figures.short_percent, point.figures.allocated_percent)))


def bootstrap(ours: PerVm, theirs: PerVm, rng: Generator, draws: int = DRAWS) -> Difference:
    """How two rules' sizes of the same VMs and windows differ, paired: each draw takes as many VMs again, with replacement.

    Percentile intervals: Efron, Tibshirani, "An introduction to the bootstrap" (1993), chapters 8 and 13. VMs that resemble one
    another (copies of a service) make the intervals too narrow. Raises InputError where VMs or windows aren't the same.
    """
    _check_same(ours, theirs)
    taken = ours.counted
    first, second = ours.only(taken), theirs.only(taken)
    whole = np.ones((1, len(first.vms)))
    drawn = [np.stack(_shares(first, weights) + _shares(second, weights)) for weights in _draws(len(first.vms), rng, draws)]
    ours_allocated, ours_short, theirs_allocated, theirs_short = np.concatenate([*drawn, np.empty((4, 0))], axis=1)
    estimate = [float(share[0]) for share in _shares(first, whole) + _shares(second, whole)]
    less, safer = ours_allocated < theirs_allocated, ours_short < theirs_short
    return Difference(
        vms=len(first.vms),
        draws=len(ours_allocated),
        allocated=_interval(estimate[0] - estimate[2], ours_allocated - theirs_allocated),
        short=_interval(estimate[1] - estimate[3], ours_short - theirs_short),
        chance_allocates_less=_mean(less),
        chance_short_less=_mean(safer),
        chance_better=_mean(less & (ours_short <= theirs_short)),
    )


def better_at_same_risk(curve: Sequence[Point], rule: Point, rng: Generator, draws: int = DRAWS) -> SameRisk:
    """What we need where we are short as often as a rule: our curve over its dial, read at the rule's shortness.

    Between two points of the curve, the allocation is linear in the logarithm of the shortness; a point that another one
    dominates counts as the better one. Where the rule is short more often than any of our points, our cheapest one is taken.
    In each draw all points are scored anew on the same VMs. Raises InputError where VMs or windows aren't the same.
    """
    if not curve:
        raise InputError("there is no curve to read sizes off", "give at least one point of it")
    for point in curve:
        _check_same(point.per_vm, rule.per_vm)
    taken = rule.per_vm.counted
    sums = [point.per_vm.only(taken) for point in (*curve, rule)]
    floor = 50 / max(float(sums[-1].measured.sum()), 1.0)  # half a step short, in %: stands for none in a logarithm
    blocks = [np.ones((1, len(sums[-1].vms))), *_draws(len(sums[-1].vms), rng, draws)]
    theirs, ours = [], []
    for weights in blocks:
        shares = np.array([_shares(each, weights) for each in sums])  # [points + 1, (allocated, short), draws]
        theirs.append(shares[-1, 0])
        ours.append(
            [_read_off(shares[:-1, 0, draw], shares[:-1, 1, draw], shares[-1, 1, draw], floor) for draw in range(len(weights))]
        )
    need, against = np.concatenate(ours), np.concatenate(theirs)
    gap = need - against
    reached = ~np.isnan(need)
    return SameRisk(
        rule=rule.rule,
        short_percent=rule.figures.short_percent,
        theirs_percent=float(against[0]),
        ours_percent=float(need[0]),
        allocated=_interval(float(gap[0]), gap[1:][reached[1:]]),
        of_theirs=_interval(_ratio(gap[0], against[0]), 100 * gap[1:][reached[1:]] / against[1:][reached[1:]]),
        reached=bool(reached[0]),
        reached_share=_mean(reached[1:]),
        chance_less=_mean(gap[1:] < 0),
    )


def _read_off(allocated: Floats, short: Floats, at: float, floor: float) -> float:
    """The least allocation at which the curve is short no more often than `at`; NaN where it always is."""
    known = ~(np.isnan(allocated) | np.isnan(short))
    order = np.lexsort((allocated[known], short[known]))
    place = np.log(np.maximum(short[known][order], floor))
    least = np.minimum.accumulate(allocated[known][order])
    if len(place) == 0 or math.isnan(at):
        return math.nan
    wanted = math.log(max(at, floor))
    last = int(np.searchsorted(place, wanted, side="right")) - 1  # points 0..last are short no more often
    if last < 0 or last == len(place) - 1:
        return math.nan if last < 0 else float(least[last])
    part = (wanted - place[last]) / (place[last + 1] - place[last])
    return float(least[last] + part * (least[last + 1] - least[last]))


def _draws(vms: int, rng: Generator, draws: int) -> Iterator[Floats]:
    """How often each VM is drawn, float64[some draws, VMs], until there are enough; none for fewer than two VMs."""
    size = max(1, _AT_ONCE // max(vms, 1))
    for start in range(0, draws if vms > 1 else 0, size):
        yield rng.multinomial(vms, np.full(vms, 1 / vms), size=min(size, draws - start)).astype(np.float64)


def _shares(sums: PerVm, weights: Floats) -> tuple[Floats, Floats]:
    """Allocated and short, in %, of VMs weighted so: float64[draws] each."""
    totals = weights @ np.stack([sums.allocated, sums.capacity, sums.short, sums.measured], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * totals[:, 0] / totals[:, 1], 100 * totals[:, 2] / totals[:, 3]


def _interval(estimate: float, draws: Floats) -> Interval:
    known = draws[np.isfinite(draws)]
    if len(known) == 0:
        return Interval(estimate, math.nan, math.nan)
    low, high = np.percentile(known, _INTERVAL)
    return Interval(estimate, float(low), float(high))


def _mean(flags: Floats | np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    return float(flags.mean()) if len(flags) else math.nan


def _ratio(part: float, whole: float) -> float:
    return 100 * float(part) / float(whole) if whole else math.nan


def _check_same(ours: PerVm, theirs: PerVm) -> None:
    if ours.vms != theirs.vms or not np.array_equal(ours.windows, theirs.windows):
        raise InputError("two scores are of other VMs, or of other times", "score both on the same use and schedule")
