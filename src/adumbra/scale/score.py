"""Scores what was predicted of a VM against what was measured of it. Pure: takes aligned series, knows no store and no clock.

Only steps in which both are known are compared; a gap is no zero, on either side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.records import Floats
from adumbra.schema.sizing import Estimate

Flags = NDArray[np.bool_]
HELD = 0.8
"""The share of measured use that the emulation's interval is to hold: it reaches from the 10th to the 90th percentile."""
LEAST_STEPS = 30
"""Steps in which something was measured; of fewer, no word is said."""
_Z95 = 1.959963984540054  # of the normal distribution, for 95 % two-sided


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, and the 95 % interval of the share (Wilson's score interval, 1927). It takes steps for independent:
    of use that changes slowly the true interval is wider."""

    count: int
    of: int
    share: float
    low: float
    high: float

    def is_above(self, share: float) -> bool:
        """Whether it is, beyond doubt by chance."""
        return self.low > share

    def is_below(self, share: float) -> bool:
        return self.high < share


@dataclass(frozen=True, slots=True)
class Figures:
    """The mean and percentiles of what a VM used, in the resource's unit."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Promise:
    """What the profile promised of a resource. provisioned: its size, None where none is known; short: in how much of the time
    the measured use was above it; shortfall: the dial, in how much it may be. estimate: what was believed to be needed; needed:
    what was, by what was measured: the amount that is exceeded in no more than the dial's share of the time, or, of what must
    never be short, the most; None where it is too short a time to tell.
    """

    shortfall: float
    provisioned: float | None
    short: Share | None
    estimate: Estimate | None
    needed: float | None


@dataclass(frozen=True, slots=True)
class Score:
    """One resource of one VM. resource: as in schema.sizing.RESOURCES; way: "rx" or "tx" of bandwidth each way, else "".

    paired: steps in which both are known, over which predicted and measured are told; only_predicted, only_measured: steps in
    which one of them is missing. judged: those of the paired that the emulation had not learned from; over these are bias
    (the mean of predicted - measured, in the unit), error (the median of |predicted - measured| / measured, where something was
    used), and coverage (how much of what was measured lies in the emulation's 80 % interval, None where it gives none).
    """

    resource: str
    way: str
    paired: int
    only_predicted: int
    only_measured: int
    judged: int
    predicted: Figures | None
    measured: Figures | None
    bias: float | None
    error: float | None
    coverage: Share | None
    promise: Promise | None


@dataclass(frozen=True, slots=True)
class Compared:
    """What is compared of one resource of a VM: float64[T] each, in the resource's unit, NaN where it isn't known. low, high:
    the ends of the emulation's interval, None where it gives none. unseen: bool[T], steps that the emulation had not learned
    from. floor: use below which ratios mean nothing; never: of what must never be short (memory kills, storage fills up).
    """

    resource: str
    predicted: Floats
    measured: Floats
    unseen: Flags
    way: str = ""
    low: Floats | None = None
    high: Floats | None = None
    floor: float = 0.0
    never: bool = False


def wilson(count: int, of: int) -> Share | None:
    """A share with its 95 % interval; None of nothing. (Wilson, E. B. (1927), JASA 22, 209-212.)"""
    if of <= 0:
        return None
    share, z2 = count / of, _Z95**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z95 / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    # Of none and of all the ends are 0 and 1; rounding would leave them beside these.
    low, high = 0.0 if count == 0 else max(0.0, middle - half), 1.0 if count == of else min(1.0, middle + half)
    return Share(count, of, share, low, high)


def figures(values: Floats) -> Figures | None:
    """Of float64[n] without gaps; None of nothing."""
    if not len(values):
        return None
    p50, p95, p99 = (float(each) for each in np.quantile(values, [0.5, 0.95, 0.99]))
    return Figures(float(values.mean()), p50, p95, p99)


def score(
    of: Compared, shortfall: float | None = None, provisioned: float | None = None, estimate: Estimate | None = None
) -> Score:
    """Scores one resource. shortfall: the dial, with what the profile promised; None: there is no profile."""
    has_predicted, has_measured = np.isfinite(of.predicted), np.isfinite(of.measured)
    both = has_predicted & has_measured
    judged = both & of.unseen
    predicted, measured = of.predicted[judged], of.measured[judged]
    return Score(
        of.resource, of.way, int(both.sum()), int((has_predicted & ~has_measured).sum()),
        int((has_measured & ~has_predicted).sum()), int(judged.sum()), figures(of.predicted[both]), figures(of.measured[both]),
        float((predicted - measured).mean()) if len(measured) else None, _error(predicted, measured, of.floor),
        _coverage(of, judged),
        None if shortfall is None else _promise(of, shortfall, provisioned, estimate),
    )  # fmt: skip


def _error(predicted: Floats, measured: Floats, floor: float) -> float | None:
    used = measured > floor
    return float(np.median(np.abs(predicted[used] - measured[used]) / measured[used])) if used.any() else None


def _coverage(of: Compared, judged: Flags) -> Share | None:
    if of.low is None or of.high is None:
        return None
    known = judged & np.isfinite(of.low) & np.isfinite(of.high)
    held = known & (of.low <= of.measured) & (of.measured <= of.high)
    return wilson(int(held.sum()), int(known.sum()))


def _promise(of: Compared, shortfall: float, provisioned: float | None, estimate: Estimate | None) -> Promise:
    measured = of.measured[np.isfinite(of.measured)]
    short = None if provisioned is None else wilson(int((measured > provisioned).sum()), len(measured))
    return Promise(shortfall, provisioned, short, estimate, needed(measured, shortfall, never=of.never))


def needed(measured: Floats, shortfall: float, *, never: bool) -> float | None:
    """The amount that was needed, by what was measured: float64[n], no gaps. None where so few can't show such a share."""
    if not len(measured) or (not never and len(measured) * shortfall < 1):
        return None
    # The least amount that was there and that no more than the share of the steps exceed.
    return float(measured.max() if never else np.quantile(measured, 1 - shortfall, method="inverted_cdf"))


_SAID: Mapping[str, str] = {"cpu_cores": "CPU", "memory_gb": "memory", "bandwidth_mbps": "bandwidth", "storage_gb": "storage"}


def word(scores: Sequence[Score]) -> str:
    """What is to be said of a VM in a few words: what is short comes first, then what was predicted wrongly."""
    if not any(each.paired or each.only_measured for each in scores):
        return "not measured"
    if max(each.paired + each.only_measured for each in scores) < LEAST_STEPS:
        return "too little yet"
    promises = [(each, each.promise) for each in scores if each.promise is not None]
    short = [each for each, promise in promises if promise.short is not None and promise.short.is_above(promise.shortfall)]
    if short:
        return "short of " + _named(short)
    outside = [each for each in scores if each.coverage is not None and each.coverage.is_below(HELD)]
    if outside:
        above = [each for each in outside if each.bias is not None and each.bias > 0]
        if len(above) == len(outside):
            return f"uses less {_named(outside)}"
        return f"uses more {_named(outside)}" if not above else f"other {_named(outside)} use"
    return "as predicted" if any(each.judged for each in scores) else "not judged yet"


def _named(scores: Sequence[Score]) -> str:
    return ", ".join(dict.fromkeys(_SAID.get(each.resource, each.resource) for each in scores))
