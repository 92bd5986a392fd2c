"""What is believed of the amount that each VM will turn out to need: the forecast, how far it was off when tested, how
much longer the horizon is than what was learned, and how good the emulation is, put together. Arithmetic; no words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from adumbra.forecast import horizon as horizons
from adumbra.forecast.backtest import MIN_STEPS
from adumbra.forecast.models.protocol import LEVELS, NOTHING_KNOWN, Covariates, Horizon, foresee_seen
from adumbra.forecast.series import SECONDS_PER_DAY, Statistic, high_water, modelled, resource_named, seen_steps
from adumbra.forecast.training import Learned
from adumbra.forecast.window import Need, foreseen, measured
from adumbra.schema.records import Floats, Panel
from adumbra.schema.sizing import SizingPolicy

POINTS: tuple[tuple[str, float, float], ...] = (
    ("p50", 0.5, 0.0),
    ("p90", 0.9, 1.2815515655446004),
    ("p99", 0.99, 2.3263478740408408),
)
"""The points of a belief: name, level, and where a normal distribution has it, in standard deviations."""

Flags = NDArray[np.bool_]

_FORECAST_POINTS = 256
_DRIFT_KNOTS = 12


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beside the history; all of it may be missing. Arrays are float64[V], in the order of the panels' VMs.

    model_spread: resource -> standard deviation of the logarithm of what the emulation may be wrong by, 0 where use was
    measured; calibrated: resource -> whether it was fitted to a VM's measured use, bool[V]; declared_types: VM -> the
    instance type that its user declared; capacity: resource -> size of the machine that was emulated or declared (inf: not
    known), in the resource's unit: no widening by analogy with other machines goes beyond it, as those machines' use had
    theirs for a bound too; widening: another horizon table than the package's; covariates: resource -> what the models
    are told beside the history, as they were when they learned.
    """

    model_spread: Mapping[str, Floats] = field(default_factory=dict)
    calibrated: Mapping[str, Flags] = field(default_factory=dict)
    declared_types: Mapping[str, str | None] = field(default_factory=dict)
    capacity: Mapping[str, Floats] = field(default_factory=dict)
    widening: horizons.Widening | None = None
    covariates: Mapping[str, Covariates] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Belief:
    """What each VM will need of a resource: points float64[V, 3], by POINTS, in the resource's unit, none falling.

    learned_s, seen [V]: seconds measured, and the share of the grid's steps that were; ratios [V, 4]: the quantiles
    (horizon.LEVELS) of what measured machines needed over the horizon to what so long a window of them had shown; weight:
    how much the forecast's own word counts, 1 where it was tested as far ahead as the horizon goes; tested_s: how far that
    was; machines: how many the ratios were measured on; capped [V]: whether
    the capacity bounded them; borrowed [V]: whether too little was seen of the VM, and the other VMs stand in; spread [V]:
    the model's, as given, calibrated [V] likewise; promised: whether the held-out windows were enough for each of POINTS.
    """

    resource: str
    points: Floats
    learned_s: Floats
    seen: Floats
    ratios: Floats
    weight: float
    tested_s: float
    machines: int
    capped: Flags
    borrowed: Flags
    spread: Floats
    calibrated: Flags
    promised: tuple[bool, ...]


def believe(learned: Learned, panel: Panel, policy: SizingPolicy, known: Known) -> Belief:
    """The belief of one resource's requirement over the policy's horizon.

    Two voices, averaged in logarithms, point by point. The forecast's: what it says the horizon needs, times how far it
    was off on held-out windows (conformal.bound). The measured machines': what the VM needed while it was watched, times
    what machines that had needed about as much then needed over such a horizon (horizon.Widening). The forecast's weight
    is the share of the horizon that the back-test could look ahead: all of it, and then nothing comes from other machines,
    or, of a week after 15 minutes of learning, next to none. On machines that the table wasn't made from, the requirement
    of a week so believed lay within p90 for 82 to 91 % of them, and within p99 for 95 % or more (benchmarks/horizon.py
    --check, learned from 1 h, 1 d and 7 d).
    Storage is what is there now and its growth, so believed, over the horizon. The emulation's error comes on top as an
    independent lognormal factor.
    """
    traits = resource_named(learned.resource)
    history = modelled(panel)
    need = Need(traits.statistic, policy.shortfall)
    learned_s = seen_steps(panel) * panel.step_s
    used = measured(history.values, need)
    said = np.log(np.maximum(_foreseen(learned, history, need, policy, known), traits.floor))
    bounds = [learned.verdict.window.bound(policy.shortfall, level) for _, level, _ in POINTS]
    own = said[:, None] + np.maximum.accumulate([bound.value for bound in bounds])
    table = known.widening or horizons.load()
    ratios = table.log_ratios(learned.resource, policy.shortfall, np.nan_to_num(used), learned_s, policy.horizon_s)
    elsewhere = np.log(np.maximum(used, traits.floor))[:, None] + ratios[:, 1:]
    weight = min(1.0, learned.reach_s / policy.horizon_s)
    mixed = weight * own + (1 - weight) * elsewhere
    spread = _per_vm(known.model_spread, learned.resource, len(panel.vms), 0.0)
    capacity = _per_vm(known.capacity, learned.resource, len(panel.vms), np.inf)
    shown = np.maximum(own, np.log(np.maximum(used, traits.floor))[:, None])
    least, free = (_with_spread(_amount(np.exp(side), panel, policy), spread) for side in (shown, mixed))
    points = np.minimum(free, np.maximum(least, capacity[:, None]))
    if traits.statistic is Statistic.PEAK:  # what was held once is not let go below the point that is sized at
        points[:, 1:] = np.maximum(points[:, 1:], used[:, None])
    points, borrowed = _borrow(points, panel)
    return Belief(
        resource=learned.resource,
        points=points,
        learned_s=learned_s,
        seen=seen_steps(panel) / max(panel.values.shape[1], 1),
        ratios=np.exp(ratios),
        weight=weight,
        tested_s=learned.reach_s,
        machines=table.machines,
        capped=(free[:, 1] > np.maximum(least[:, 1], capacity) * (1 + 1e-9)) & ~borrowed,
        borrowed=borrowed,
        spread=spread,
        calibrated=known.calibrated.get(learned.resource, np.zeros(len(panel.vms), np.bool_)),
        promised=tuple(bound.promised for bound in bounds),
    )


def _foreseen(learned: Learned, history: Panel, need: Need, policy: SizingPolicy, known: Known) -> Floats:
    """What the forecast says the horizon needs, [V]."""
    steps = max(1, round(policy.horizon_s / history.step_s))
    covariates = known.covariates.get(learned.resource, NOTHING_KNOWN)
    forecast = foresee_seen(learned.fitted, history, Horizon.thinned(steps, _FORECAST_POINTS), covariates)
    return foreseen(forecast.values, LEVELS, need, learned.verdict.horizon_steps or history.values.shape[1])


def drift(learned: Learned, panel: Panel, ahead_s: Floats, levels: Sequence[float]) -> Floats:
    """By how much, in logarithms, quantiles at `levels` move beyond the tested span, float64[V, H, L], `ahead_s` [H] ahead.

    Of measured machines' windows the table says how the amount that they need wanders with the time ahead; a single
    step is taken to wander likewise: the middle by the median, a level by the deviation that the table has at it (between
    its own, linear in the place that a normal distribution has the level at; beyond them, that of the outermost).
    """
    history = modelled(panel)
    need = Need(resource_named(learned.resource).statistic, 0.01)
    used, learned_s = np.nan_to_num(measured(history.values, need)), seen_steps(panel) * panel.step_s
    place = [NormalDist().inv_cdf(level) for level in levels]
    known = [NormalDist().inv_cdf(level) for level in horizons.LEVELS]
    out = np.zeros((len(panel.vms), len(ahead_s), len(place)))
    beyond = np.flatnonzero(ahead_s > learned.reach_s)
    if not len(beyond):
        return out
    knots = np.geomspace(max(ahead_s[beyond[0]], 1e-3), ahead_s[-1] + 1e-3, _DRIFT_KNOTS)
    table = horizons.load()

    def at(horizon_s: float) -> Floats:
        ratios = table.log_ratios(learned.resource, need.shortfall, used, learned_s, horizon_s)
        return ratios - ratios[:, 1:2] * [1, 0, 1, 1]  # deviations from the median, and it

    near = at(learned.reach_s) if learned.reach_s else np.zeros((len(used), len(known)))
    moved = np.empty((_DRIFT_KNOTS, len(used), len(place)))
    for k, horizon_s in enumerate(knots):
        far = at(float(horizon_s))
        middle = np.maximum(far[:, 1] - near[:, 1], 0.0)
        deviation = np.sign(far) * np.sqrt(np.maximum(far**2 - near**2, 0.0))
        deviation[:, 1] = 0.0
        moved[k] = middle[:, None] + [np.interp(place, known, row) for row in deviation]
    for row in range(len(used)):
        for i in range(len(place)):
            out[row, beyond, i] = np.interp(np.log(ahead_s[beyond]), np.log(knots), moved[:, row, i])
    return out


def _amount(rates: Floats, panel: Panel, policy: SizingPolicy) -> Floats:
    """What is needed [V, 3]: of what grows, what is there now and its growth over the horizon; else as it is."""
    if resource_named(panel.resource).statistic is not Statistic.GROWTH:
        return rates
    now = high_water(panel.values)[:, -1:]
    return np.asarray(now + rates * policy.horizon_s / SECONDS_PER_DAY)


def _with_spread(points: Floats, spread: Floats) -> Floats:
    """Points widened by an independent lognormal factor of standard deviation `spread`, [V]."""
    z = np.array([place for _, _, place in POINTS])
    middle = np.log(np.maximum(points[:, :1], 1e-12))
    deviation = np.maximum(np.log(np.maximum(points, 1e-12)) - middle, 0.0)
    return np.asarray(np.exp(middle + np.hypot(deviation, z[None, :] * spread[:, None])))


def _borrow(points: Floats, panel: Panel) -> tuple[Floats, Flags]:
    """VMs of which fewer than MIN_STEPS steps were seen take the spread of the others, and no less than they used.

    Their median is the others' median, their 90 % point what 9 in 10 of the others' lie below, their 99 % point the
    others' largest. Where all are such, they share what little they have; NaN where that is nothing.
    """
    seen = seen_steps(panel)
    poor = seen < MIN_STEPS
    finite = np.isfinite(points).all(axis=1)
    rich = ~poor & finite if (~poor & finite).any() else finite
    out = points.copy()
    if poor.any() and rich.any():
        others = points[rich]
        fleet = np.array([
            np.median(others[:, 0]), np.quantile(others[:, 1], 0.9, method="higher"), others[:, 2].max(),
        ])  # fmt: skip
        peak = np.max(np.where(np.isfinite(panel.values[poor]), panel.values[poor], 0.0), axis=1, initial=0.0)
        out[poor] = np.maximum(np.maximum.accumulate(fleet)[None, :], peak[:, None])
    return np.maximum.accumulate(out, axis=1), poor


def _per_vm(given: Mapping[str, Floats], resource: str, vms: int, default: float) -> Floats:
    if resource not in given:
        return np.full(vms, default)
    values = np.broadcast_to(np.asarray(given[resource], np.float64), (vms,))
    return np.where(np.isnan(values), default, values)
