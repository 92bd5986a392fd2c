"""Several models' quantiles averaged level by level, with weights fitted to what was held out. Learns nothing else itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator

from adumbra.forecast.models.protocol import (
    LEVELS,
    NOTHING_KNOWN,
    Covariates,
    Fitted,
    Forecaster,
    Horizon,
    forecast_of,
    foresee,
    learn,
)
from adumbra.forecast.scores import UPPER_LEVELS, pinball
from adumbra.forecast.series import resource_named, scale_of
from adumbra.forecast.window import at_levels, rearranged, share_above
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import Floats, Panel, Quantiles

NAME = "ensemble"
LEAST_WEIGHT = 0.05
_FITTED_LEVELS = tuple(sorted({0.5, *UPPER_LEVELS}))
_ROUNDS = 200
_MAX_CASES = 20_000
_HELD_OUT_ORIGINS = 4


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Quantile averaging (Vincentization): the ensemble's quantile at a level is the weighted mean of its members'.

    Ratcliff, "Group reaction time distributions and an analysis of distribution statistics", Psychological Bulletin 86
    (1979); Lichtendahl, Grushka-Cockayne, Winkler, "Is it better to average probabilities or quantiles?", Management
    Science 59 (2013). weights: as given (a back-test has them already), one a member; None: members learn from all but the
    last fifth of the history, weights are fitted to forecasts of that, and members learn anew from all of it.
    """

    members: tuple[Forecaster, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.members or (self.weights is not None and len(self.weights) != len(self.members)):
            raise InputError("an ensemble has a member at least, and a weight for each", "give them")

    @property
    def name(self) -> str:
        return NAME

    def fit(self, history: Panel, rng: Generator) -> FittedEnsemble:
        """Learns its members. Those that can't learn are left out; raises TooLittleDataError where none can."""
        return self.learn(history, rng)

    def learn(self, history: Panel, rng: Generator, covariates: Covariates = NOTHING_KNOWN) -> FittedEnsemble:
        seeds = rng.integers(2**32, size=(2, len(self.members)))
        weights = self.weights
        if weights is None:
            weights = _held_out(self.members, history, covariates, seeds[0])
        kept, shares = [], []
        failed = ""
        for member, weight, seed in zip(self.members, weights, seeds[1], strict=True):
            if weight < LEAST_WEIGHT:
                continue
            try:
                kept.append(learn(member, history, np.random.default_rng(int(seed)), covariates))
                shares.append(weight)
            except TooLittleDataError as error:
                failed = error.what
        if not kept:
            raise TooLittleDataError(f"no member of the ensemble can learn {history.resource}: {failed}", "observe for longer")
        return FittedEnsemble(tuple(kept), tuple(float(share) for share in np.asarray(shares) / sum(shares)))


@dataclass(frozen=True, slots=True)
class FittedEnsemble:
    """Members that have learned, and their weights: above zero, 1 in sum."""

    members: tuple[Fitted, ...]
    weights: tuple[float, ...]

    @property
    def name(self) -> str:
        return NAME

    @property
    def about(self) -> str:
        return "it averages " + ", ".join(
            f"{100 * weight:.0f} % {member.name}" for member, weight in zip(self.members, self.weights, strict=True)
        )

    def quantiles(self, recent: Panel, horizon: Horizon, levels: Sequence[float]) -> Quantiles:
        said = np.stack([member.quantiles(recent, horizon, LEVELS).values for member in self.members])
        return forecast_of(recent, horizon, levels, at_levels(averaged(said, self.weights), LEVELS, levels))

    def informed(
        self, recent: Panel, horizon: Horizon, levels: Sequence[float], covariates: Covariates = NOTHING_KNOWN
    ) -> Quantiles:
        """Of a VM that only some members forecast, their average."""
        said = np.stack([foresee(member, recent, horizon, covariates).values for member in self.members])
        return forecast_of(recent, horizon, levels, at_levels(averaged(said, self.weights), LEVELS, levels))

    def shortfall(self, recent: Panel, horizon: Horizon, allocations: Floats) -> Floats:
        return share_above(self.quantiles(recent, horizon, LEVELS).values, LEVELS, allocations)

    def to_dict(self) -> dict[str, Any]:
        return {"name": NAME, "weights": list(self.weights), "members": [member.to_dict() for member in self.members]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], members: Sequence[Fitted]) -> FittedEnsemble:
        """From its plain data and its members, restored."""
        weights = tuple(float(weight) for weight in plain["weights"])
        if not weights or len(weights) != len(members) or min(weights) <= 0:
            raise ValueError("an ensemble has a weight above zero for each member")
        return cls(tuple(members), weights)


def averaged(quantiles: Floats, weights: Sequence[float]) -> Floats:
    """Members' quantiles [M, ..., L] averaged level by level; where a member has none (NaN), by the others'."""
    share = np.asarray(weights, np.float64).reshape(-1, *([1] * (quantiles.ndim - 1)))
    there = np.isfinite(quantiles)
    held = np.where(there, share, 0.0).sum(axis=0)
    total = (np.where(there, quantiles, 0.0) * share).sum(axis=0)
    known = np.where(held > 0, total / np.where(held > 0, held, 1.0), 0.0)
    return np.where(held > 0, rearranged(known), np.nan)


def weights_of(actual: Floats, quantiles: Floats, scale: Floats) -> tuple[float, ...]:
    """The weights, none below zero and 1 in sum, with which an average of members loses least at the median and at
    scores.UPPER_LEVELS: actual [n], quantiles [M, n, L] at LEVELS, scale [n] that losses are divided by.

    By exponentiated gradients (Kivinen, Warmuth, "Exponentiated gradient versus gradient descent", Information and
    Computation 132, 1997) from equal weights; a member below LEAST_WEIGHT is left out. The same cases give the same weights.
    """
    members = len(quantiles)
    sound = np.isfinite(actual) & np.isfinite(quantiles).all(axis=(0, 2))
    at = np.flatnonzero(sound)
    if members == 1 or not len(at):
        return (1.0 / members,) * members
    at = at[:: -(-len(at) // _MAX_CASES)]
    which = [LEVELS.index(level) for level in _FITTED_LEVELS]
    tau = np.asarray(_FITTED_LEVELS)
    came = (actual[at] / scale[at])[:, None]
    said = quantiles[:, at][..., which] / scale[at][None, :, None]
    best, lowest, weight = np.full(members, 1.0 / members), np.inf, np.full(members, 1.0 / members)
    for turn in range(_ROUNDS):
        mixed = np.tensordot(weight, said, axes=1)
        loss = float(np.mean(np.maximum(tau * (came - mixed), (tau - 1) * (came - mixed))))
        if loss < lowest:
            best, lowest = weight.copy(), loss
        slope = np.where(came > mixed, -tau, 1 - tau)
        gradient = np.array([float(np.mean(slope * each)) for each in said])
        gradient -= gradient.mean()
        step = 1.0 / np.sqrt(turn + 1.0) / max(float(np.abs(gradient).max()), 1e-12)
        weight = weight * np.exp(-step * gradient)
        weight /= weight.sum()
    best = np.where(best < LEAST_WEIGHT, 0.0, best)
    alone = [_loss(came[:, 0], each, tau) for each in said]
    if min(alone) <= lowest:
        best = np.eye(members)[int(np.argmin(alone))]
    return tuple(float(each) for each in best / best.sum())


def _loss(actual: Floats, quantiles: Floats, levels: Floats) -> float:
    return float(np.mean([pinball(actual, quantiles[:, i], float(level)).mean() for i, level in enumerate(levels)]))


def _held_out(members: Sequence[Forecaster], history: Panel, covariates: Covariates, seeds: Floats) -> tuple[float, ...]:
    """Weights fitted to forecasts of the last fifth of a history by members that didn't see it; 0 for one that can't learn."""
    steps = history.values.shape[1]
    if steps < 5 * _HELD_OUT_ORIGINS:
        raise TooLittleDataError(
            f"{steps} steps of {history.resource} are too few to hold some out from",
            f"observe for {5 * _HELD_OUT_ORIGINS} steps",
        )
    known = steps - max(1, steps // 5)
    reach = max(1, (steps - known) // _HELD_OUT_ORIGINS)
    horizon = Horizon.thinned(reach, 24)
    first = replace(history, values=history.values[:, :known].copy())
    scale = scale_of(first, resource_named(history.resource).floor)
    said: list[Floats | None] = []
    for member, seed in zip(members, seeds, strict=True):
        try:
            fitted = learn(member, first, np.random.default_rng(int(seed)), covariates.until(known))
        except TooLittleDataError:
            said.append(None)
            continue
        each = []
        for k in range(_HELD_OUT_ORIGINS):
            origin = known + k * reach
            recent = replace(history, values=history.values[:, :origin].copy())
            each.append(foresee(fitted, recent, horizon, covariates.until(origin)).values)
        said.append(np.stack(each))
    came = [history.values[:, known + k * reach + horizon.ahead - 1] for k in range(_HELD_OUT_ORIGINS)]
    able = [i for i, each in enumerate(said) if each is not None]
    if not able:
        raise TooLittleDataError(f"no member of the ensemble can learn {history.resource}", "observe for longer")
    actual = np.stack(came)
    spread = np.broadcast_to(scale[None, :, None], actual.shape).reshape(-1)
    forecasts = np.stack([each.reshape(-1, len(LEVELS)) for each in said if each is not None])
    found = weights_of(actual.reshape(-1), forecasts, spread)
    return tuple(found[able.index(i)] if i in able else 0.0 for i in range(len(members)))
