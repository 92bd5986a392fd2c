"""What a stretch of use needs: the amount that is short in no more than a share of its steps, measured or forecast.
Arithmetic on arrays only; knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.forecast.series import Statistic
from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats

_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Need:
    """Which amount of a window is asked for: the statistic, and the share of steps in which it may be short."""

    statistic: Statistic
    shortfall: float

    @property
    def allowed(self) -> float:
        return 0.0 if self.statistic is Statistic.PEAK else self.shortfall


def requirement(values: Floats, shortfall: float) -> Floats:
    """The least of the values, along the last axis, that no more than `shortfall` of them exceed; NaN: not measured.

    An order statistic, not an interpolation: of 3 values at 1 % it is the largest. NaN where there is no value.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)  # NaN sorts last
    count = np.isfinite(ordered).sum(axis=-1)
    may_exceed = np.floor(count * shortfall + 1e-9).astype(np.int64)
    at = np.clip(count - 1 - may_exceed, 0, None)
    if ordered.shape[-1] == 0:
        return np.full(ordered.shape[:-1], np.nan)
    return np.asarray(np.take_along_axis(ordered, at[..., None], axis=-1)[..., 0])


def measured(values: Floats, need: Need) -> Floats:
    """What a stretch of use [..., T] turned out to need, by the statistic; NaN where nothing was measured."""
    if need.statistic is not Statistic.GROWTH:
        return requirement(values, need.allowed)
    finite = np.isfinite(values)
    count = finite.sum(axis=-1)
    total = np.where(finite, values, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def foreseen(quantiles: Floats, levels: Sequence[float], need: Need, steps: int) -> Floats:
    """What a forecast [V, H, L] says a stretch of `steps` steps needs, float64[V]: the same statistic, of the mixture of
    the steps' distributions. The peak of n steps is taken as what one step in n exceeds, no rarer than 1 in 1,000: the
    tail beyond that is nothing that the forecast knows (calibration sets right what this leaves wrong).
    """
    if need.statistic is Statistic.GROWTH:
        return np.asarray(mean_of(quantiles, levels).mean(axis=1))
    if need.statistic is Statistic.PEAK:
        return smallest_allocation(quantiles, levels, min(max(1.0 / max(steps, 1), 1e-3), 0.1))
    return smallest_allocation(quantiles, levels, need.shortfall)


def share_above(quantiles: Floats, levels: Sequence[float], allocations: Floats) -> Floats:
    """The expected share of steps whose use exceeds each allocation: quantiles [V, H, L], allocations [V, A] -> [V, A].

    Within the levels the distribution is linear between its quantiles. Above the highest it falls off exponentially, at
    the rate of its last two levels; below the lowest it is linear to zero.
    """
    steps = _Steps.of(quantiles, np.asarray(levels, np.float64))
    out = np.empty(allocations.shape)
    for column in range(allocations.shape[1]):
        out[:, column] = steps.survival(allocations[:, column, None]).mean(axis=1)
    return out


def smallest_allocation(quantiles: Floats, levels: Sequence[float], shortfall: float) -> Floats:
    """The least allocation whose expected share of short steps is `shortfall`: quantiles [V, H, L] -> float64[V].

    By bisection on `share_above`, which falls as the allocation grows. NaN for a VM without a forecast.
    """
    if not 0 < shortfall < 1:
        raise InputError(f"a shortfall of {shortfall} is no share above 0 and below 1", "give one such as 0.01")
    tau = np.asarray(levels, np.float64)
    known = np.asarray(np.isfinite(quantiles).all(axis=(1, 2)))
    sound = np.where(known[:, None, None], quantiles, 0.0)
    low = np.zeros(len(sound))
    high = np.maximum(sound[..., -1].max(axis=1), 0.0)
    reach = _tail_rate(sound, tau).max(axis=1) * max(np.log((1 - tau[-1]) / min(shortfall, 1 - tau[-1])), 0.0)
    high = high + reach
    steps = _Steps.of(sound, tau)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        short = steps.survival(middle[:, None]).mean(axis=1) > shortfall
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.where(known, high, np.nan)


def mean_of(quantiles: Floats, levels: Sequence[float]) -> Floats:
    """The mean of each step's distribution, [V, H], from its quantiles [V, H, L] by the trapezoid rule."""
    tau = np.concatenate(([0.0], np.asarray(levels, np.float64), [1.0]))
    ends = np.concatenate((quantiles[..., :1], quantiles, quantiles[..., -1:]), axis=-1)
    return np.asarray(np.trapezoid(ends, tau, axis=-1))


def at_levels(quantiles: Floats, levels: Sequence[float], wanted: Sequence[float]) -> Floats:
    """Quantiles [V, H, L] at `levels`, read off at the levels `wanted`: linear between, the tails as in `share_above`."""
    tau, want = np.asarray(levels, np.float64), np.asarray(wanted, np.float64)
    if tau.shape == want.shape and np.allclose(tau, want, atol=1e-12):
        return quantiles
    if (want <= 0).any() or (want >= 1).any() or (np.diff(want) <= 0).any():
        raise InputError(f"the levels {list(wanted)[:9]} are not increasing and between 0 and 1", "give such as 0.5 0.9 0.99")
    out = np.empty((*quantiles.shape[:-1], len(want)))
    rate = _tail_rate(quantiles, tau)
    for i, level in enumerate(want):
        if level > tau[-1]:
            out[..., i] = quantiles[..., -1] + rate * np.log((1 - tau[-1]) / (1 - level))
        elif level < tau[0]:
            out[..., i] = quantiles[..., 0] * (level / tau[0])
        else:
            at = min(int(np.searchsorted(tau, level, side="right")), len(tau) - 1)
            part = (level - tau[at - 1]) / (tau[at] - tau[at - 1]) if at > 0 else 0.0
            out[..., i] = quantiles[..., max(at - 1, 0)] * (1 - part) + quantiles[..., at] * part
    return out


def rearranged(quantiles: Floats) -> Floats:
    """Quantiles made monotone in their level by sorting, and none below zero, as no use is.

    Sorting never worsens them: Chernozhukov, Fernandez-Val, Galichon, "Quantile and probability curves without
    crossing", Econometrica 78 (2010).
    """
    return np.asarray(np.maximum(np.sort(quantiles, axis=-1), 0.0))


def _tail_rate(quantiles: Floats, tau: Floats) -> Floats:
    """The scale of the exponential upper tail of each step's distribution, [V, H]."""
    if len(tau) < 2:
        return np.zeros(quantiles.shape[:-1])
    return np.asarray((quantiles[..., -1] - quantiles[..., -2]) / np.log((1 - tau[-2]) / (1 - tau[-1])))


@dataclass(frozen=True, slots=True)
class _Steps:
    """Each step's distribution, made ready to be asked for many amounts. low, gap float64[V, H, L]: where each stretch
    between two quantiles begins (the first: at zero) and how wide it is; share float64[L]: what it holds; last, rate
    float64[V, H]: the highest quantile, and the scale of the tail above it; beyond: the share of the tail."""

    low: Floats
    gap: Floats
    share: Floats
    last: Floats
    rate: Floats
    beyond: float

    @classmethod
    def of(cls, quantiles: Floats, tau: Floats) -> _Steps:
        low = np.concatenate((np.zeros_like(quantiles[..., :1]), quantiles[..., :-1]), axis=-1)
        low = np.minimum(low, np.nextafter(quantiles, -np.inf))  # a stretch of no width is a jump at its end
        last, rate = quantiles[..., -1], _tail_rate(quantiles, tau)
        return cls(low, quantiles - low, np.diff(tau, prepend=0.0), last, rate, float(1.0 - tau[-1]))

    def survival(self, amount: Floats) -> Floats:
        """P(use > amount) at each step: amount [V, 1] -> [V, H]."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            passed = (amount[..., None] - self.low) / self.gap
            np.clip(passed, 0.0, 1.0, out=passed)
            tail = np.where(self.rate > 0, np.exp(-np.maximum(amount - self.last, 0.0) / self.rate), 0.0)
        tail = np.where(amount >= self.last, tail, 1.0)
        return np.asarray(np.maximum(1.0 - passed @ self.share - self.beyond * (1.0 - tail), 0.0))
