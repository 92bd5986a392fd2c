"""What each VM needs where risks were learned: the least size that keeps the dial, in place of a point of an interval.

Reads no store; changes nothing but the needs of those resources and the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adumbra.forecast.belief import POINTS, Known
from adumbra.forecast.demand import NEED_POINT
from adumbra.forecast.risk.layout import DAY_S
from adumbra.forecast.risk.learned import LearnedRisk, of_horizon
from adumbra.forecast.series import Statistic, resource_named
from adumbra.profile.decide import Decided, Dial
from adumbra.schema.backtests import MeasuredUse, Risk
from adumbra.schema.records import Panel
from adumbra.schema.sizing import Demand, SizingPolicy
from adumbra.schema.units import format_duration
from adumbra.service.risk_sizer import Book

_Z90 = next(deviations for name, _, deviations in POINTS if name == NEED_POINT)

SEEN_DAYS = 1.0
"""A VM that was measured for less is sized by what is believed of it, not by its risk."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A resource's sizes by risk. kept: the share of the time that sizes set so in the past days were short, NaN without any;
    tried: how many of them (a VM, a day)."""

    decided: Decided
    kept: float
    tried: int


def size_now(risk: LearnedRisk, use: MeasuredUse, dial: Dial) -> Sized:
    """The sizes at the end of `use`. What earlier sizes would have been, and how short they then were, sets the risks right."""
    book, past = Book.of(dial, len(use.panel.vms)), [np.empty(0)]
    for step in risk.steps(use):
        past += book.settle(use, risk.model.shape.held, step.origin)
        decided = book.size(step, min(risk.horizon_s, DAY_S) / DAY_S)
    short = np.concatenate(past)
    tried = int(np.isfinite(short).sum())
    return Sized(decided, float(np.nanmean(short)) if tried else np.nan, tried)


def with_risks(
    needs: Sequence[Demand],
    risks: Sequence[LearnedRisk],
    use: Mapping[str, Panel],
    known: Known,
    policy: SizingPolicy,
) -> tuple[Demand, ...]:
    """The needs, with those of the resources that risks were learned of, over the policy's horizon, by risk.

    known: what each VM has, and how far its emulation may be off, in the order of the panels' VMs. What throttles may be short
    by the dial; memory, which kills, is never less than was held within the last window. Use that was emulated, not measured,
    is taken at the 90 % point of what the emulation may be wrong by, as a lognormal factor.
    """
    sized = list(needs)
    for resource, panel in use.items():
        risk = of_horizon(risks, resource, policy.horizon_s)
        if risk is None or resource_named(resource).statistic is Statistic.GROWTH:
            continue
        has = np.broadcast_to(known.capacity.get(resource, np.nan), len(panel.vms))
        off = np.exp(_Z90 * np.nan_to_num(np.broadcast_to(known.model_spread.get(resource, 0.0), len(panel.vms))))
        found = size_now(risk, MeasuredUse(panel, has), Dial(policy.shortfall, policy.risk))
        for vm, amount, expected in zip(found.decided.vms, found.decided.amounts, found.decided.expected, strict=True):
            seen = np.isfinite(panel.values[vm])
            if seen.sum() * panel.step_s < SEEN_DAYS * DAY_S:
                continue
            least = _held(panel, int(vm), risk) if resource_named(resource).statistic is Statistic.PEAK else 0.0
            why = _why(found, float(expected), risk, policy)
            if off[vm] > 1.005:
                why += f"; times {off[vm]:.2g}, as the use is emulated: 9 in 10 such emulations are off by less"
            sized[vm] = _with(sized[vm], resource, max(float(amount), least) * float(off[vm]), why)
    return tuple(sized)


def _held(panel: Panel, vm: int, risk: LearnedRisk) -> float:
    """The most that a VM held within the last window."""
    window = panel.values[vm, -risk.model.shape.held :]
    return float(np.nanmax(window, initial=0.0)) if np.isfinite(window).any() else 0.0


def _with(demand: Demand, resource: str, amount: float, why: str) -> Demand:
    return replace(demand, need={**demand.need, resource: amount}, reasons=(f"{resource}: {why}", *demand.reasons))


def _why(found: Sized, expected: float, risk: LearnedRisk, policy: SizingPolicy) -> str:
    whose = "this VM's" if policy.risk is Risk.PER_VM else "the fleet's"
    said = f"the least size that keeps {100 * policy.shortfall:.3g} % of {whose} time; {100 * expected:.2g} % is expected to be"
    said += f" short of it over {format_duration(risk.horizon_s)}"
    if found.tried:
        said += f"; {found.tried:,} sizes set so in the past days were short in {100 * found.kept:.2g} %"
    return said
