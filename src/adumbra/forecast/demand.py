"""What each VM of a network will need: learn, forecast, and turn a forecast into the demand that the profile stage takes.
The front of this package: panels in, records out. No store, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from adumbra.forecast.adaptive import groups_of
from adumbra.forecast.belief import Belief, Known, believe, drift
from adumbra.forecast.confidence import confidence, gather, reasons
from adumbra.forecast.models.protocol import LEVELS, NOTHING_KNOWN, Covariates, Horizon, foresee_seen
from adumbra.forecast.series import SECONDS_PER_DAY, Statistic, high_water, modelled, resource_named, scale_of, seen_steps
from adumbra.forecast.training import Learned, Training, train
from adumbra.forecast.window import at_levels, mean_of
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import Floats, Panel, Quantiles
from adumbra.schema.sizing import Demand, Estimate, SizingPolicy

__all__ = ["NEED_POINT", "Known", "Training", "demand", "demand_given", "forecast", "train"]

NEED_POINT = "p90"
"""The point of a VM's estimate at which its size is taken. At p50 every second VM would be short more often than asked;
p99 pays, after 15 minutes of learning, for ten times what most will use. At p90 some nine VMs in ten keep the share asked
for each of them, and what the tenth is short by brings the mean over all near that share: asked 1 % for a week, machines
that the horizon table wasn't made from were short of CPU in 0.4 % of intervals when learned from for 7 d, 2.1 % from 1 d
and 1.8 % from 1 h (benchmarks/horizon.py --check, 2026-11-23)."""

SHOWN_LEVELS: tuple[float, ...] = (0.1, 0.5, 0.9, 0.99)
MAX_POINTS = 20_000


def forecast(
    training: Training,
    panels: Mapping[str, Panel],
    horizon_s: float,
    points: int = 48,
    levels: Sequence[float] = SHOWN_LEVELS,
    *,
    covariates: Mapping[str, Covariates] | None = None,
) -> dict[str, Quantiles]:
    """Calibrated quantiles of use from the end of the panels on, resource -> Quantiles at `levels`.

    The horizon is thinned to about `points` evenly spread steps, each of which is forecast as such, not as a mean of those
    between. panels, covariates: what is known now, by resource, as `train` takes them. Storage is its level: the high-water
    mark and the growth since, whose errors at different steps are taken as independent. NaN for a VM without a value. Up to the
    span that the back-test looked ahead the calibration is measured; beyond it each quantile is moved as measured
    machines' use was (belief.drift), so that a forecast of a day from 15 minutes is as unsure as it should be. Raises
    InputError for a horizon of no or too many steps, or levels that aren't increasing between 0 and 1.
    """
    if not (horizon_s > 0 and 1 <= points <= MAX_POINTS):
        raise InputError(
            f"{points} points of a horizon of {horizon_s:g} s can't be forecast",
            f"give a horizon above 0 s, and 1 to {MAX_POINTS} points",
        )
    out = {}
    for learned in training.resources:
        if learned.resource not in panels:
            continue
        panel = panels[learned.resource]
        _same_step(learned, panel)
        history = modelled(panel)
        horizon = Horizon.thinned(max(1, round(horizon_s / panel.step_s)), points)
        known = (covariates or {}).get(learned.resource, NOTHING_KNOWN)
        raw = foresee_seen(learned.fitted, history, horizon, known)
        values = raw.values
        if learned.verdict.adaptive is not None:
            values = learned.verdict.adaptive.apply(values, groups_of(history, known.roles))
        elif learned.verdict.origins:
            scale = scale_of(history, resource_named(learned.resource).floor)
            values = learned.verdict.calibration.apply(values, scale)
        values = values * np.exp(drift(learned, panel, np.asarray(horizon.ahead * panel.step_s, np.float64), LEVELS))
        asked = at_levels(values, LEVELS, levels)
        if resource_named(learned.resource).statistic is Statistic.GROWTH:
            asked = _filled(asked, mean_of(values, LEVELS), panel, raw.step_s)
        out[learned.resource] = replace(raw, levels=tuple(levels), values=asked)
    return out


def demand(
    training: Training,
    panels: Mapping[str, Panel],
    policy: SizingPolicy,
    model_spread: Mapping[str, Floats] | None = None,
    declared_types: Mapping[str, str | None] | None = None,
) -> tuple[Demand, ...]:
    """`demand_given`, where no more is known than how good the emulation is (Known.model_spread), and declared types."""
    return demand_given(training, panels, policy, Known(model_spread or {}, declared_types=declared_types or {}))


def demand_given(training: Training, panels: Mapping[str, Panel], policy: SizingPolicy, known: Known) -> tuple[Demand, ...]:
    """What every VM of the panels needs, in their order, for the policy's horizon and shortfall.

    panels: what is known now, by resource, as `train` takes them (of other steps than trained on: InputError). need is
    the NEED_POINT of estimate, whose points are those of belief.believe. A resource that isn't in both `training` and
    `panels` is absent from need and estimate. A VM of which nothing was seen takes the other VMs' spread and says so.
    Raises TooLittleDataError where no VM has a value.
    """
    beliefs = _beliefs(training, panels, policy, known)
    vms = panels[beliefs[0].resource].vms
    out = []
    for row, vm in enumerate(vms):
        mine = [belief for belief in beliefs if np.isfinite(belief.points[row]).all()]
        estimate = {belief.resource: Estimate(*(float(x) for x in belief.points[row])) for belief in mine}
        out.append(
            Demand(
                vm=vm,
                need={name: getattr(points, NEED_POINT) for name, points in estimate.items()},
                estimate=estimate,
                confidence=confidence(gather(training, mine, row, policy)),
                reasons=reasons(training, mine, row, policy),
                declared_type=known.declared_types.get(vm),
            )
        )
    return tuple(out)


def _beliefs(training: Training, panels: Mapping[str, Panel], policy: SizingPolicy, known: Known) -> list[Belief]:
    if not 0 < policy.shortfall <= 0.5 or policy.horizon_s <= 0:
        raise InputError(
            f"a shortfall of {policy.shortfall:g} over {policy.horizon_s:g} s can't be sized for",
            "give a share above 0 and up to 0.5, and a horizon above 0 s",
        )
    beliefs = []
    for learned in training.resources:
        panel = panels.get(learned.resource)
        if panel is None or not seen_steps(panel).any():
            continue
        _same_step(learned, panel)
        beliefs.append(believe(learned, panel, policy, known))
    if not beliefs:
        raise TooLittleDataError("no VM has a value of anything that was learned", "observe the network, then train again")
    if any(panels[belief.resource].vms != panels[beliefs[0].resource].vms for belief in beliefs):
        raise InputError("the panels are of different VMs", "read them together")
    return beliefs


def _same_step(learned: Learned, panel: Panel) -> None:
    if abs(panel.step_s - learned.step_s) > 1e-6 * learned.step_s:
        raise InputError(
            f"{learned.resource} was learned in steps of {learned.step_s:g} s, and {panel.step_s:g} s are given",
            "read the history at the step that was trained on, or train again",
        )


def _filled(growth: Floats, mean: Floats, panel: Panel, step_s: float) -> Floats:
    """Levels of what grows, [V, H, L], from quantiles and means of its growth a day at each step of `step_s`.

    What has been added up to a step is the sum of the means, and the root of the sum of squared deviations from them;
    it never falls below what is there.
    """
    per_step = step_s / SECONDS_PER_DAY
    deviation = (growth - mean[..., None]) * per_step
    spread = np.sign(deviation) * np.sqrt(np.cumsum(deviation**2, axis=1))
    added = np.cumsum(mean * per_step, axis=1)[..., None] + spread
    return np.asarray(high_water(panel.values)[:, -1][:, None, None] + np.maximum(np.sort(added, axis=-1), 0.0))
