"""Which rules and which VMs a report shows in full. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from adumbra.schema.backtests import Risk
from adumbra.schema.records import Floats
from adumbra.schema.units import format_share
from adumbra.service.backtests import DECLARED, ORACLE, OURS, ResourceReport, Scored
from adumbra.service.report.words import called, short_of

_USUAL_DIAL = 0.01


def beside(found: ResourceReport) -> tuple[Scored, ...]:
    """Ours at the dial nearest to 1 %, of each kind of risk, and the rule whose shortness is nearest to it. Or two rules."""
    rules = [
        each for each in found.scored if each.given.rule not in {OURS, ORACLE, DECLARED} and not math.isnan(short_of(each))
    ]
    ours = []
    for risk in Risk:
        some = [each for each in found.scored if each.given.rule == OURS and each.given.risk is risk]
        if some:
            ours.append(min(some, key=lambda each: abs(math.log((each.given.dial or 1e-9) / _USUAL_DIAL))))
    if not ours:
        return tuple(sorted(rules, key=lambda each: abs(short_of(each) - 100 * _USUAL_DIAL))[:2])
    aim = short_of(ours[0]) if not math.isnan(short_of(ours[0])) else 100 * _USUAL_DIAL
    return (*ours, *sorted(rules, key=lambda each: abs(short_of(each) - aim))[:1])


def vms_to_show(chosen: Sequence[Scored]) -> tuple[tuple[str, int], ...]:
    """Why a VM is shown, and its number: the one that saves most, the usual one, the most often short, under the first of those
    that are shown, beside the last.

    VMs of which less than half as much is measured as of the best measured one are left out.
    """
    if not chosen:
        return ()
    first, last = chosen[0], chosen[-1]
    measured = first.point.per_vm.measured
    vms = np.flatnonzero(np.isfinite(first.short_of_vms) & (measured >= measured.max(initial=1.0) / 2))
    if not len(vms):
        return ()
    short, allocated = first.short_of_vms[vms], first.allocated_of_vms[vms]
    saved = (last.point.per_vm.allocated - first.point.per_vm.allocated)[vms]
    within = short <= 100 * (first.given.dial or _USUAL_DIAL)
    said = {
        f"saves most against {called(last.given)} while short no more often than asked": int(
            vms[np.lexsort((-saved, ~within))[0]]
        ),
        "the median by the share allocated": int(vms[np.argsort(allocated, kind="stable")[len(vms) // 2]]),
        "the most often short": int(vms[np.lexsort((allocated, -short))[0]]),
    }
    if first is last:
        del said[next(iter(said))]
    shown: dict[int, str] = {}
    for why, vm in said.items():
        shown[vm] = f"{shown[vm]}, and {why}" if vm in shown else why
    name = called(first.given)
    return tuple((f"{why}. Under {name} {_under(first, vm)}", vm) for vm, why in shown.items())


def _under(scored: Scored, vm: int) -> str:
    short, allocated = _share(scored.short_of_vms, vm), _share(scored.allocated_of_vms, vm)
    return f"short {short} of the time, with {allocated} of what was provisioned."


def _share(percents: Floats, vm: int) -> str:
    return format_share(float(percents[vm]) / 100, 2)
