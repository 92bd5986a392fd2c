"""Calibration that follows: how far forecasts must be moved, learned batch by batch as what was forecast comes in.
Arithmetic on forecasts and what came of them; knows no model, and nothing of a batch before its forecasts were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from adumbra.forecast.conformal import Bound
from adumbra.forecast.scores import INTERVALS, within
from adumbra.forecast.series import resource_named
from adumbra.forecast.window import rearranged
from adumbra.schema.records import Floats, Panel

EVERYONE = "all"
RATE = 0.05
"""How far a batch of which everything was missed moves a VM's offset, as a share of the spread of its group's errors.
Angelopoulos, Candes and Tibshirani (below) take a tenth, of streams of single values; what comes in a batch here hangs
together, and on measured machines a twentieth held as well and widened less."""

_MIN_GROUP = 100  # (VM, batch) pairs below which a group's errors are not yet told from the fleet's
_MAX_BATCHES = 100
_MAX_ROWS = 20_000
_MIN_RECENT = 5
_TIGHT = 0.1  # the least unit, as a share of mean use: a forecast of no width still errs
REASON = 2.0
_STEADY, _BURSTY = 2.0, 6.0


@dataclass(frozen=True, slots=True)
class Groups:
    """Which group each VM is of, by name: those whose errors are alike enough to be calibrated together; and float64[V],
    each VM's mean use, 0 where nothing was seen of it."""

    vms: tuple[str, ...]
    names: tuple[str, ...]
    scale: Floats


def groups_of(recent: Panel, roles: Sequence[str] = ()) -> Groups:
    """Groups by how bursty and how large use was, and by role where roles are told.

    Burstiness is the 99 % point of use to its mean: steady below 2, bursty from 6 on. Idle is a mean below twice the
    amount that nobody sizes below. A VM without a value is "unseen". Thresholds are fixed, so that a group means the same
    from one batch to the next.
    """
    values = recent.values
    there = np.isfinite(values)
    count = there.sum(axis=1)
    mean = np.where(there, values, 0.0).sum(axis=1) / np.maximum(count, 1)
    high = np.zeros(len(values))
    ordered = np.sort(values, axis=1)  # NaN last
    some = count > 0
    high[some] = ordered[some, np.maximum(np.ceil(0.99 * count[some]).astype(np.int64) - 1, 0)]
    burst = high / np.maximum(mean, 1e-12)
    kind = np.where(burst < _STEADY, "steady", np.where(burst < _BURSTY, "varied", "bursty"))
    kind = np.where(mean < 2 * resource_named(recent.resource).floor, "idle", kind)
    kind = np.where(some, kind, "unseen")
    role = [f" {role}" if role else "" for role in roles] if roles else [""] * len(values)
    names = tuple(f"{name}{of}" for name, of in zip(kind.tolist(), role, strict=True))
    return Groups(recent.vms, names, np.where(some, np.maximum(mean, resource_named(recent.resource).floor), 0.0))


@dataclass(frozen=True, slots=True)
class Pool:
    """A group's latest errors, in units of the forecasts' spread: batches of float64[n, L], the oldest first; counts: of how
    many VMs each batch has errors."""

    batches: tuple[Floats, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def groups(self) -> int:
        return sum(self.counts)

    def with_batch(self, errors: Floats, vms: int) -> Pool:
        batches, counts = (*self.batches, errors), (*self.counts, vms)
        drop = max(0, len(batches) - _MAX_BATCHES)
        rows = sum(map(len, batches[drop:]))
        while rows > _MAX_ROWS and len(batches) - drop > _MIN_RECENT:
            rows -= len(batches[drop])
            drop += 1
        return Pool(batches[drop:], counts[drop:])


@dataclass(frozen=True, slots=True)
class Adaptive:
    """A calibration after some batches. Each quantile is moved by an offset, in units of the forecast's own spread:

    offset = what split conformal prediction makes of the group's latest errors (conformal.bound) + what is learned of the
    VM itself, theta, which after each batch moves by theta += eta (share above the moved quantile - (1 - level)).

    Where use drifts, the first follows within its window and the second at once. The second is online quantile tracking
    (the P of conformal PID control, with the first as its scorecaster): Angelopoulos, Candes, Tibshirani, "Conformal PID
    control for time series prediction", NeurIPS 2023; it descends from adaptive conformal inference: Gibbs, Candes,
    "Adaptive conformal inference under distribution shift", NeurIPS 2021. Whatever comes, also from an adversary, the
    share of T batches' values that lay above a level's moved quantile differs from 1 - level by no more than
    (b + eta) / (eta T) for a constant eta, b being the largest |error - group's offset| seen (proposition 1 there); where eta
    changes, by (2 b + max eta) / T times the total variation of 1 / eta (Angelopoulos, Barber, Bates, "Online conformal
    prediction with decaying step sizes", ICML 2024, theorem 1). That holds before quantiles are kept above zero, in order and
    within reason: no quantile is raised above REASON times the most that any VM had used by then. Of VMs that were watched
    for an hour the few that then did a hundred times as much would else carry all others to sizes that no machine has.

    offsets: group -> a Bound a level; own: VM -> theta float64[L]; eta: group -> float64[L]; most: the most that any VM used,
    None where that isn't known.
    """

    levels: tuple[float, ...]
    offsets: Mapping[str, tuple[Bound, ...]] = field(default_factory=dict)
    own: Mapping[str, Floats] = field(default_factory=dict)
    eta: Mapping[str, Floats] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    most: float | None = None

    @classmethod
    def start(cls, levels: Sequence[float]) -> Adaptive:
        return cls(tuple(levels))

    def shift(self, groups: Groups) -> Floats:
        """What each VM's quantiles are moved by, float64[V, L], in units of `unit_of`."""
        out = np.zeros((len(groups.vms), len(self.levels)))
        base = {name: np.array([offset.value for offset in each]) for name, each in self.offsets.items()}
        for row, (vm, group) in enumerate(zip(groups.vms, groups.names, strict=True)):
            out[row] = next((base[each] for each in _wider(group) if each in base), 0.0) + self.own.get(vm, 0.0)
        return out

    def apply(self, quantiles: Floats, groups: Groups) -> Floats:
        """Calibrated quantiles [V, H, L] of quantiles at this calibration's levels."""
        moved = quantiles + self.shift(groups)[:, None, :] * unit_of(quantiles, self.levels, groups.scale)[..., None]
        if self.most is not None:
            moved = np.minimum(moved, np.maximum(quantiles, REASON * self.most))
        return rearranged(moved)

    def learn(self, actual: Floats, quantiles: Floats, groups: Groups) -> Adaptive:
        """The calibration after a batch: actual [V, H] is what came of the forecasts [V, H, L] (as they were before any
        calibration); gaps are left out, and a VM that has none but gaps learns nothing."""
        errors = (actual[..., None] - quantiles) / unit_of(quantiles, self.levels, groups.scale)[..., None]
        sound = np.isfinite(errors).all(axis=-1)
        largest = float(np.max(actual, initial=0.0, where=np.isfinite(actual)))
        most = max(largest, self.most or 0.0) if sound.any() else self.most
        return replace(self._with_pools(errors, sound, groups, self._tracked(errors, sound, groups)), most=most)

    def _tracked(self, errors: Floats, sound: Any, groups: Groups) -> dict[str, Floats]:
        """Theta of each VM after the batch."""
        own = dict(self.own)
        if not self.offsets:
            return own
        above = (errors > self.shift(groups)[:, None, :] + 1e-9) & sound[..., None]
        count = sound.sum(axis=1)
        missed = above.sum(axis=1) / np.maximum(count, 1)[:, None]
        over = missed - (1.0 - np.asarray(self.levels))
        for row in np.flatnonzero(count):
            vm = groups.vms[row]
            eta = next(self.eta[each] for each in _wider(groups.names[row]) if each in self.eta)
            own[vm] = own.get(vm, 0.0) + eta * over[row]
        return own

    def _with_pools(self, errors: Floats, sound: Any, groups: Groups, own: dict[str, Floats]) -> Adaptive:
        pools, offsets, eta = dict(self.pools), dict(self.offsets), dict(self.eta)
        of = [set(_wider(name)) for name in groups.names]
        for group in (EVERYONE, *sorted(set().union(*of) - {EVERYONE})):
            mine = sound & np.array([group in each for each in of], np.bool_)[:, None]
            if not mine.any():
                continue
            pool = pools[group] = pools.get(group, Pool()).with_batch(errors[mine], int(mine.any(axis=1).sum()))
            if group != EVERYONE and pool.groups < _MIN_GROUP:
                continue
            ordered = np.sort(np.concatenate(pool.batches), axis=0)
            offsets[group] = tuple(_offset(ordered[:, i], pool.groups, level) for i, level in enumerate(self.levels))
            eta[group] = _stepped(eta.get(group), ordered)
        return replace(self, offsets=offsets, own=own, eta=eta, pools=pools)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data of what it takes to move forecasts; the errors that it was learned from are not kept."""
        return {
            "levels": list(self.levels),
            "offsets": {name: [[each.value, each.promised] for each in found] for name, found in self.offsets.items()},
            "own": {vm: np.round(theta, 6).tolist() for vm, theta in self.own.items()},
            "eta": {name: np.round(step, 9).tolist() for name, step in self.eta.items()},
            "most": self.most,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Adaptive:
        levels = tuple(float(level) for level in plain["levels"])
        offsets = {str(name): tuple(Bound(float(v), bool(p)) for v, p in each) for name, each in plain["offsets"].items()}
        own = {str(vm): np.asarray(theta, np.float64) for vm, theta in plain["own"].items()}
        eta = {str(name): np.asarray(step, np.float64) for name, step in plain["eta"].items()}
        if any(len(each) != len(levels) for table in (offsets, own, eta) for each in table.values()):
            raise ValueError("a calibration has an offset for each level")
        most = plain.get("most")  # not kept by earlier versions
        return cls(levels, offsets, own, eta, most=None if most is None else float(most))


def _wider(group: str) -> tuple[str, ...]:
    """A group, and those that it is part of, each larger than the one before: of its kind whatever the role, and everyone."""
    return group, group.partition(" ")[0], EVERYONE


def unit_of(quantiles: Floats, levels: Sequence[float], scale: Floats) -> Floats:
    """The spread of each forecast, [V, H, L] -> [V, H]: half its 80 % interval (or what comes nearest), and a share of
    its VM's mean use (of the forecast median where nothing was seen). Errors of a wide forecast and of a narrow one are
    alike in it; so calibration keeps their difference."""
    tau = np.asarray(levels)
    low, middle, high = (int(np.argmin(np.abs(tau - level))) for level in (0.1, 0.5, 0.9))
    typical = np.where(scale > 0, scale, quantiles[..., middle].mean(axis=1))[:, None]
    return np.asarray(0.5 * (quantiles[..., high] - quantiles[..., low]) + _TIGHT * typical + 1e-6)


def _stepped(was: Floats | None, ordered: Floats) -> Floats:
    """The step eta: RATE of the spread of the errors (sorted, [n, L]), changed only when that has halved or doubled, as each
    change loosens the guarantee."""
    last = len(ordered) - 1
    wanted = np.maximum(RATE * (ordered[round(0.975 * last)] - ordered[round(0.025 * last)]), 1e-6)
    if was is None:
        return np.asarray(wanted)
    return np.asarray(np.where((wanted > 2 * was) | (wanted < was / 2), wanted, was))


def _offset(ordered: Floats, groups: int, level: float) -> Bound:
    """Split conformal's rank among all the errors, in their order; promised where the (VM, batch) pairs, counted as such,
    would allow it.

    From _MIN_GROUP pairs on it is the rank for groups (conformal.bound), which of fewer would take the largest error; what
    taking the errors of those for independent leaves out, the tracking makes good.
    """
    if level < 0.5:
        mirrored = _offset(-ordered[::-1], groups, 1 - level)
        return Bound(-mirrored.value, mirrored.promised)
    n = len(ordered)
    hung = level * (groups + 1) / max(groups, 1)
    share = hung if groups >= _MIN_GROUP else level * (n + 1) / n
    rank = int(np.ceil(share * n - 1e-9))
    return Bound(float(ordered[min(max(rank, 1), n) - 1]), bool(hung <= 1 + 1e-9))


@dataclass(frozen=True, slots=True)
class Held:
    """How often an interval held for one VM: asked and held are shares, of n values."""

    vm: str
    asked: float
    held: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        return {"vm": self.vm, "asked": self.asked, "held": round(self.held, 4), "n": self.n}


def held_by_vm(vms: Sequence[str], actual: Floats, quantiles: Floats, levels: Sequence[float]) -> tuple[Held, ...]:
    """How often each of scores.INTERVALS held for each VM with a value: actual [O, V, H], quantiles [O, V, H, L]."""
    at = {level: i for i, level in enumerate(levels)}
    sound = np.isfinite(actual) & np.isfinite(quantiles).all(axis=-1)
    count = sound.sum(axis=(0, 2))
    out = []
    for _, low, high in INTERVALS:
        inside = within(actual, quantiles[..., at[low]], quantiles[..., at[high]]) * sound
        share = inside.sum(axis=(0, 2)) / np.maximum(count, 1)
        out += [Held(vms[int(i)], round(high - low, 6), float(share[i]), int(count[i])) for i in np.flatnonzero(count)]
    return tuple(out)


def guaranteed(eta: Sequence[float], largest: float) -> float:
    """The bound on |share above - (1 - level)| after len(eta) batches with steps `eta`, errors at most `largest` from the
    group's offset (theorem 1 of Angelopoulos, Barber and Bates, with a range of 2 * largest)."""
    inverse = [1.0 / step for step in eta]
    variation = inverse[0] + sum(abs(after - before) for before, after in pairwise(inverse))
    return (2 * largest + max(eta)) / len(eta) * variation
