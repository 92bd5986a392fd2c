"""A linear law with costs that can't be negative, fitted to measured use and held towards a belief. Arithmetic on arrays only.

Knows neither CPU nor memory; draws nothing, reads nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.records import Floats

INNER_80 = 1.2815515655446004
"""Standard deviations either side of the mean between which a normal variable lies with probability 0.8."""
FLOOR = 0.1
"""A cost believed to be (nearly) nothing may still come to be this share of the use, for one unit of `each_sd`."""
_LEVELS = np.exp(np.linspace(-5.0, 5.0, 41))
_LOOSENESS = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
_NOISES = np.geomspace(0.1, 20.0, 24)
_NOISE_SD = 1.0  # of the logarithm of what is believed of the noise
_MISFITS = np.concatenate(([1e-3], np.geomspace(0.01, 0.6, 16)))
_ROUNDS = 5
_HUBER = 2.0  # standardised residuals beyond this pull no harder
_WILD = 10.0  # beyond this they say nothing more of the scatter: no law makes so much of one, be the scatter ever so wide
_LEAST = 0.02  # of the mean use: how well a row is known at best
_BLOCK = 30  # rows of a fold that stand together, so that neighbours don't tell of each other
_FOLDS = 4
_FORWARD = (0.4, 0.6, 0.8, 1.0)  # shares of the time: what lies between two is told from what is before
LEAST_MISFIT = 0.08
"""What work costs is not the same to the last tenth from one part of a day to the next: caches, clocks, neighbours."""
_FAR = 30.0  # standard deviations from which on the tail of a normal is an exponential
_LOOKED_AT = 2000  # rows at most from which noise and misfit are told


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to fit a law to. counts: float64[n, P], what each cost is paid for; used: float64[n], what was measured; works:
    float64[n], how many random amounts of work a row's use is the sum of (0: it isn't).
    """

    counts: Floats
    used: Floats
    works: Floats

    def __len__(self) -> int:
        return len(self.used)

    def part(self, chosen: NDArray[np.bool_]) -> Sample:
        """Some of the rows."""
        return Sample(self.counts[chosen], self.used[chosen], self.works[chosen])

    def summed(self, groups: NDArray[np.int64]) -> Sample:
        """Rows added up by group, int64[n], numbered from 0 without gaps."""
        size = int(groups.max()) + 1 if len(groups) else 0
        counts = np.zeros((size, self.counts.shape[1]))
        np.add.at(counts, groups, self.counts)
        used, works = (np.bincount(groups, values, size).astype(np.float64) for values in (self.used, self.works))
        return Sample(counts, used, works)


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of the costs. mean: float64[P]; level_sd: standard deviation of the logarithm of what they have in
    common; each_sd: of each by itself, relative to its own; moves: bool[P], which of them that common level scales; noise:
    coefficient of variation of one amount of work, within a factor of e or so.
    """

    mean: Floats
    level_sd: float
    each_sd: float
    moves: NDArray[np.bool_]
    noise: float = 1.0


@dataclass(frozen=True, slots=True)
class Law:
    """Fitted costs: mean float64[P] >= 0, the most probable, and covariance float64[P, P] of them about it, given the rows.
    A cost of nothing has a width too: that of the tail of a normal (see _posterior).

    noise: coefficient of variation of one amount of work; misfit: of the whole, for as long as a row and longer, that the
    law doesn't explain. level, looseness: what the data said of the belief: all of it times so much, each by so much.
    """

    mean: Floats
    covariance: Floats
    noise: float
    misfit: float
    level: float
    looseness: float

    def predict(self, counts: Floats, works: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the use of rows: float64[n] each."""
        mean = counts @ self.mean
        within = np.einsum("np,pq,nq->n", counts, self.covariance, counts)
        return mean, np.sqrt(np.maximum(within, 0.0) + self._scatter(mean, works))

    def _scatter(self, mean: Floats, works: Floats) -> Floats:
        return row_variance(mean, works, self.noise, self.misfit, 0.0)

    def total_covariance(self) -> Floats:
        """The covariance with the misfit in it, as an error that all costs share: what sampled parameters should vary by."""
        return with_misfit(self.mean, self.covariance, self.misfit)


def with_misfit(mean: Floats, covariance: Floats, misfit: float) -> Floats:
    """A covariance of costs with what the law doesn't explain in it, as an error that they share: float64[P, P]."""
    return np.asarray(covariance + misfit**2 * np.outer(mean, mean))


def least_squares(gram: Floats, moment: Floats) -> Floats:
    """The x >= 0 that minimises x'Gx/2 - m'x, for gram G (float64[P, P], positive definite) and moment m: float64[P].

    Active sets, as in Lawson and Hanson, "Solving Least Squares Problems" (1974), chapter 23.
    """
    size = len(moment)
    free = np.zeros(size, np.bool_)
    x = np.zeros(size)
    tolerance = 1e-10 * max(float(np.abs(moment).max(initial=0.0)), 1e-300)
    for _ in range(10 * size + 10):
        pull = np.where(free, -np.inf, moment - gram @ x)
        if free.all() or pull.max() <= tolerance:
            break
        free[int(pull.argmax())] = True
        while True:
            wanted = np.zeros(size)
            wanted[free] = np.linalg.solve(gram[np.ix_(free, free)], moment[free])
            below = free & (wanted <= 0.0)
            if not below.any():
                x = wanted
                break
            step = float((x[below] / np.maximum(x[below] - wanted[below], 1e-300)).min())
            x = x + step * (wanted - x)
            free &= x > 1e-14 * max(float(x.max()), 1e-300)
            x[~free] = 0.0
            if not free.any():
                break
    return x


def fit(sample: Sample, belief: Belief) -> Law:
    """The law that the rows and the belief make most probable.

    Row variances grow with the use: works of coefficient of variation c add use^2 c^2 / works, what the law misses adds
    (misfit x use)^2; both are set to what makes the residuals most probable, in turns with the costs. The belief's level
    and looseness are those under which the rows are most probable (empirical Bayes: MacKay, "Bayesian Interpolation",
    Neural Computation 4, 1992). Rows far off count less (Huber's weights).
    Raises ValueError for rows without any use.
    """
    if not len(sample) or not sample.used.sum() > 0 or not np.isfinite(sample.counts).all():
        raise ValueError("a law needs rows with some use in them, and finite counts; give those")
    typical = _typical(sample)
    guess = np.maximum(sample.used, 0.2 * typical)
    weights = 1.0 / row_variance(guess, sample.works, 1.0, 0.1, _LEAST * typical)
    for _ in range(_ROUNDS):
        posterior = _posterior(sample, belief, weights)
        mean = np.maximum(sample.counts @ posterior.mean, 1e-3 * typical)
        residual = sample.used - mean
        noise, misfit = _scatter_of(residual, mean, sample.works, _LEAST * typical, belief.noise)
        variance = row_variance(mean, sample.works, noise, misfit, _LEAST * typical)
        weights = np.minimum(1.0, _HUBER / np.maximum(np.abs(residual) / np.sqrt(variance), 1e-12)) / variance
    return replace(posterior, noise=noise, misfit=misfit)


def fit_level(sample: Sample, belief: Belief) -> Law:
    """The law where the rows can't tell the costs apart: only what those that move have in common is learned."""
    fixed = np.where(belief.moves, 0.0, belief.mean)
    whole = sample.counts @ np.where(belief.moves, belief.mean, 0.0)
    rest = sample.used - sample.counts @ fixed
    typical = _typical(sample)
    level = max(_ratio(rest, whole, _LEAST * typical), 0.0)
    if level == 0.0:  # even at no cost there is less use than at rest
        level, fixed = 1e-3, fixed * float(sample.used.sum()) / max(float((sample.counts @ fixed).sum()), 1e-300)
    mean = np.where(belief.moves, belief.mean * level, fixed)
    predicted = np.maximum(sample.counts @ mean, 1e-300)
    noise, misfit = _scatter_of(sample.used - predicted, predicted, sample.works, _LEAST * typical, belief.noise)
    # Each cost by itself is as unsure as before; their sum is known. Both can't stand in one matrix without a common part.
    moved = np.where(belief.moves, mean, 0.0)
    share = np.where(belief.moves, sample.counts.mean(axis=0) * mean, 0.0)
    share = share / max(float(share.sum()), 1e-300)
    spread = np.diag((belief.each_sd * moved) ** 2)
    keep = np.eye(len(mean)) - np.outer(moved, share / np.maximum(moved, 1e-300))
    covariance = keep @ spread @ keep.T
    return Law(mean, covariance, noise, misfit, level, belief.each_sd)


def _typical(sample: Sample) -> float:
    """What a usual row used, of those with any use: a median, as a few wild rows would make a mean of anything."""
    return float(np.median(sample.used[sample.used > 0]))


def _ratio(rest: Floats, whole: Floats, least: float) -> float:
    """The factor by which `whole` makes `rest`, float64[n] each: least squares, in which rows far off count less (Huber's
    weights, by the median of what is off, or `least`). 1 where there is nothing to compare.
    """
    if not float(whole @ whole) > 0:
        return 1.0
    there = whole > 0
    ratio = float(np.median(rest[there] / whole[there]))
    for _ in range(_ROUNDS):
        off = np.abs(rest - ratio * whole)
        bound = _HUBER * max(float(np.median(off)), least)
        weighed = whole * np.minimum(1.0, bound / np.maximum(off, 1e-300))
        ratio = float(weighed @ rest) / float(weighed @ whole)
    return ratio


def out_of_sample(sample: Sample, belief: Belief, groups: NDArray[np.int64]) -> tuple[Sample, Floats]:
    """Rows summed by group, and what laws that never saw them say of their use: float64[rows].

    Twice: with every fourth block of neighbouring rows left out, and with all left out that comes after a moment, since the
    law will be used for times to come. Groups are int64[n], in order, numbered from 0 without gaps; none is torn.
    """
    size = int(groups.max()) + 1
    block = max(1, min(_BLOCK, len(sample) // (3 * _FOLDS)))
    fold = (np.searchsorted(groups, np.arange(size)) // block % _FOLDS)[groups]
    splits = [(fold != each, fold == each) for each in range(_FOLDS)]
    steps = [int(share * size) for share in _FORWARD]
    splits += [(groups < a, (groups >= a) & (groups < b)) for a, b in pairwise(steps)]
    rows, said = [], []
    for seen, unseen in splits:
        known, left = sample.part(seen), sample.part(unseen)
        if len(known) < 2 * sample.counts.shape[1] or not len(left) or not known.used.sum() > 0:
            continue
        at = np.unique(groups[unseen], return_inverse=True)[1]
        rows.append(left.summed(at))
        said.append(np.bincount(at, left.counts @ fit(known, belief).mean))
    if not rows:
        return sample.part(np.zeros(len(sample), np.bool_)), np.zeros(0)
    joined = [np.concatenate([getattr(each, name) for each in rows]) for name in ("counts", "used", "works")]
    return Sample(*joined), np.concatenate(said)


def scattered(law: Law, belief: Belief, rows: Sample, said: Floats) -> Law:
    """The law with the noise and misfit that rows showed of which it `said` so much without having seen them.

    Both are widened or narrowed so that four fifths of the rows lie inside the 80 % interval.
    """
    if not len(rows) or not rows.used.sum() > 0:
        return replace(law, misfit=max(law.misfit, LEAST_MISFIT))
    typical = _typical(rows)
    mean = np.maximum(said, 1e-3 * typical)
    residual = rows.used - mean
    noise, misfit = _scatter_of(residual, mean, rows.works, _LEAST * typical, belief.noise)
    off = np.abs(residual) / np.sqrt(row_variance(mean, rows.works, noise, misfit, 0.0))
    wider = float(np.clip(np.quantile(off, 0.8) / INNER_80, 0.5, 3.0))
    return replace(law, noise=min(noise * wider, 20.0), misfit=max(misfit * wider, LEAST_MISFIT))


def _posterior(sample: Sample, belief: Belief, weights: Floats) -> Law:
    """The costs that are most probable for rows of these weights (1 / variance), at the most probable level and looseness.

    Their covariance is about these, by the form's curvature. Of costs above zero it is the inverse of theirs. A cost at zero,
    the others at zero left there and those above it following, has a density that falls from zero on as exp(-slope x -
    curvature x^2 / 2): the tail of a normal, of which what lies below zero is cut off. Its variance is the mean of x^2 under
    that, as if it were half a normal about zero. What rows pay in all hardly depends on it: the others make room.
    """
    counts, used = sample.counts, sample.used
    weighed = counts * weights[:, None]
    gram, moment, power = weighed.T @ counts, weighed.T @ used, float(weights @ used**2)
    paid = counts.mean(axis=0)
    floor = np.where(paid > 0, FLOOR * _typical(sample) / np.where(paid > 0, paid, 1.0), 0.0)
    levels, loose = (each.ravel() for each in np.meshgrid(_LEVELS, _LOOSENESS * belief.each_sd, indexing="ij"))
    centres = np.where(belief.moves, belief.mean * levels[:, None], belief.mean)
    sds = loose[:, None] * np.maximum(np.maximum(centres, floor), 1e-30)
    probable = _evidence(gram, moment, power, centres, sds)
    probable -= 0.5 * (np.log(levels) / belief.level_sd) ** 2 + 0.5 * np.log(loose / belief.each_sd) ** 2
    best = int(probable.argmax())
    level, looseness, centre, sd = float(levels[best]), float(loose[best]), centres[best], sds[best]
    # in units of sd, so that nanoseconds a byte and cores stand on one scale
    inner = _in_units(gram, sd)
    pull = moment * sd + centre / sd
    scaled = least_squares(inner, pull)
    covariance = _covariance(inner, inner @ scaled - pull, scaled > 0)
    return Law(scaled * sd, covariance * np.outer(sd, sd), 1.0, 0.0, level, looseness)


def _covariance(curvature: Floats, slope: Floats, free: NDArray[np.bool_]) -> Floats:
    """Of costs about the minimum of a form over those that aren't negative, float64[P, P]. curvature: float64[P, P]; slope:
    float64[P], of the form there; free: bool[P], which are above zero.
    """
    held = ~free
    known = np.linalg.inv(curvature[np.ix_(free, free)])
    follow = -known @ curvature[np.ix_(free, held)]  # float64[free, held]: what the free ones do as a held one rises
    bent = np.diag(curvature)[held] + np.einsum("fh,fh->h", curvature[np.ix_(free, held)], follow)  # Schur's complement
    width = np.diag([_square_of_tail(float(s), float(c)) for s, c in zip(slope[held], bent, strict=True)])
    covariance = np.empty_like(curvature)
    covariance[np.ix_(free, free)] = known + follow @ width @ follow.T
    covariance[np.ix_(free, held)] = follow @ width
    covariance[np.ix_(held, free)] = (follow @ width).T
    covariance[np.ix_(held, held)] = width
    return covariance


def _square_of_tail(slope: float, curvature: float) -> float:
    """The mean of x^2 under a density proportional to exp(-slope x - curvature x^2 / 2) from 0 on: a normal's, truncated."""
    start = max(slope, 0.0) / math.sqrt(curvature)  # where in a standard normal the tail begins
    if start > _FAR:
        return 2.0 / slope**2  # an exponential's, to a share of 6 / start^2
    hazard = math.exp(-0.5 * start**2) / math.sqrt(2 * math.pi) / (0.5 * math.erfc(start / math.sqrt(2)))
    return (1.0 + start**2 - start * hazard) / curvature


def _evidence(gram: Floats, moment: Floats, power: float, centres: Floats, sds: Floats) -> Floats:
    """Log probability of the rows under normal costs about each of some centres, float64[K, P], up to a constant: float64[K]
    (the costs' sign is not heeded).
    """
    inner = _in_units(gram, sds)
    pull = (moment - centres @ gram) * sds
    solved = np.linalg.solve(inner, pull[:, :, None])[:, :, 0]
    at_centre = power - 2.0 * centres @ moment + np.einsum("kp,pq,kq->k", centres, gram, centres)
    return np.asarray(-0.5 * (at_centre - (pull * solved).sum(axis=1)) - 0.5 * np.linalg.slogdet(inner)[1])


def _in_units(gram: Floats, sd: Floats) -> Floats:
    """The gram of costs in units of sd, float64[..., P], with the belief's own weight, and never so little that rounding makes
    it singular: float64[..., P, P].
    """
    scaled = gram * sd[..., :, None] * sd[..., None, :]
    weight = np.maximum(1.0, 1e-11 * np.trace(scaled, axis1=-2, axis2=-1))
    return np.asarray(scaled + np.eye(sd.shape[-1]) * weight[..., None, None])


def row_variance(mean: Floats, works: Floats, noise: float, misfit: float | Floats, least: float) -> Floats:
    """Of rows' use: `works` amounts of work each vary by themselves, and the whole by what the law misses (a float, or
    float64[K, 1] for K rows of variances).
    """
    varied = np.where(works > 0, noise**2 / np.maximum(works, 1.0), 0.0)
    return np.asarray(mean**2 * (varied + misfit**2) + least**2)


def _scatter_of(residual: Floats, mean: Floats, works: Floats, least: float, believed: float) -> tuple[float, float]:
    """The most probable noise and misfit, for normal residuals and the noise believed; far ones count as Huber has it, wild
    ones as the far ones do.
    """
    every = len(residual) // _LOOKED_AT + 1
    residual, mean, works = residual[::every], mean[::every], works[::every]
    best = (-np.inf, 1.0, 0.1)
    size = np.abs(residual)
    for noise in _NOISES if (works > 0).any() else np.array([believed]):
        variance = row_variance(mean, works, float(noise), _MISFITS[:, None], least)  # float64[misfits, rows]
        off = np.minimum(size / np.sqrt(variance), _WILD)
        cost = np.where(off < _HUBER, 0.5 * off**2, _HUBER * (off - 0.5 * _HUBER))
        probable = -(cost + 0.5 * np.log(variance)).sum(axis=1) * every
        probable -= 0.5 * (np.log(noise / believed) / _NOISE_SD) ** 2
        at = int(probable.argmax())
        if probable[at] > best[0]:
            best = (float(probable[at]), float(noise), float(_MISFITS[at]))
    return best[1], best[2]
