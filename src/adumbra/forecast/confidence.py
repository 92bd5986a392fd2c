"""How far a size may be trusted, by one table of rules, and the reasons for it in plain words and numbers.
Decides no size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.forecast.backtest import MIN_STEPS
from adumbra.forecast.belief import Belief
from adumbra.forecast.series import Statistic, resource_named
from adumbra.forecast.training import Learned, Training
from adumbra.schema.sizing import Confidence, SizingPolicy
from adumbra.schema.units import format_duration

_DAY_S, _WEEK_S, _HOUR_S = 86_400.0, 604_800.0, 3_600.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is to trust, of one VM. learned_s, seen: the least over the resources; season_s: the longest pattern
    that the horizon holds whole; uncovered: by how much the 80 % intervals held less often than promised, beyond chance;
    spread: the largest standard deviation of an emulation's logarithm; borrowed: whether other VMs stand in for this."""

    learned_s: float
    horizon_s: float
    season_s: float
    origins: int
    seen: float
    uncovered: float
    spread: float
    borrowed: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """`when` it applies, confidence is no more than `most`."""

    most: Confidence
    when: Callable[[Evidence], bool]


RULES: tuple[Rule, ...] = (
    Rule(Confidence.LOW, lambda e: e.borrowed),
    Rule(Confidence.LOW, lambda e: e.learned_s < min(_DAY_S, 8 * e.horizon_s)),
    Rule(Confidence.LOW, lambda e: e.learned_s < e.horizon_s / 7 * (1 - 1e-9)),
    Rule(Confidence.LOW, lambda e: e.origins == 0),
    Rule(Confidence.LOW, lambda e: e.seen < 0.5),
    Rule(Confidence.LOW, lambda e: e.spread >= 0.5),  # wrong by a factor of 1.6 or more, two times in three
    Rule(Confidence.MEDIUM, lambda e: e.learned_s < 2 * e.season_s * 0.98),  # fewer than two of the horizon's seasons
    Rule(Confidence.MEDIUM, lambda e: e.seen < 0.9),
    Rule(Confidence.MEDIUM, lambda e: e.spread >= 0.1),
    Rule(Confidence.MEDIUM, lambda e: e.uncovered > 0),
)
"""Confidence is high where no rule applies, and else the lowest that one allows."""

_ORDER = (Confidence.LOW, Confidence.MEDIUM, Confidence.HIGH)


def confidence(evidence: Evidence) -> Confidence:
    """How far a size may be trusted, by RULES."""
    held = [rule.most for rule in RULES if rule.when(evidence)]
    return min(held, key=_ORDER.index, default=Confidence.HIGH)


def gather(training: Training, beliefs: Sequence[Belief], vm: int, policy: SizingPolicy) -> Evidence:
    """The evidence of one VM, the row `vm`: of each kind the worst over the resources."""
    verdicts = [training.of(belief.resource).verdict for belief in beliefs]
    season = next((s for s in (_WEEK_S, _DAY_S, _HOUR_S) if policy.horizon_s >= s), policy.horizon_s)
    short = []
    for verdict in verdicts:
        groups = max(verdict.calibration.groups, 1)
        short.append(0.8 - 2 * np.sqrt(0.8 * 0.2 / groups) - verdict.coverage.get("80", 0.8))
    return Evidence(
        learned_s=float(min(belief.learned_s[vm] for belief in beliefs)),
        horizon_s=policy.horizon_s,
        season_s=season,
        origins=min(verdict.origins for verdict in verdicts),
        seen=float(min(belief.seen[vm] for belief in beliefs)),
        uncovered=float(max(short)),
        spread=float(max(belief.spread[vm] for belief in beliefs)),
        borrowed=any(bool(belief.borrowed[vm]) for belief in beliefs),
    )


def reasons(training: Training, beliefs: Sequence[Belief], vm: int, policy: SizingPolicy) -> tuple[str, ...]:
    """Why one VM's sizes are what they are, and what would narrow them: sentences, the weightiest first."""
    evidence = gather(training, beliefs, vm, policy)
    told = [_span(evidence, beliefs, vm)]
    if evidence.borrowed:
        names = ", ".join(belief.resource for belief in beliefs if belief.borrowed[vm])
        told.append(f"fewer than {MIN_STEPS} steps of its {names} were seen: the spread of this network's VMs stands in for it")
    told += [_emulated(belief, vm) for belief in beliefs if belief.spread[vm] >= 0.1]
    capped = [belief.resource for belief in beliefs if belief.capped[vm]]
    if capped:
        told.append(f"{', '.join(capped)}: what other machines needed was not carried beyond the size of this machine")
    peak = [belief.resource for belief in beliefs if resource_named(belief.resource).statistic is Statistic.PEAK]
    told.append(
        f"each size not set by risk is the 90 % point of what is believed to be needed to be short in no more than "
        f"{100 * policy.shortfall:g} % of intervals" + (f"; {peak[0]} has to hold the largest value" if peak else "")
    )
    learned = [training.of(belief.resource) for belief in beliefs]
    told += [entry.verdict.why for entry in learned]
    held = _held(learned)
    if held:
        told.append(held)
    unpromised = [belief.resource for belief in beliefs if not all(belief.promised)]
    if unpromised:
        told.append(
            f"{', '.join(unpromised)}: the held-out windows are too few to promise the 99 % point; the largest error among "
            "them stands in for it"
        )
    if evidence.seen < 0.9:
        told.append(f"{100 * (1 - evidence.seen):.0f} % of its intervals were not measured; they are gaps, not zeros")
    told += [f"{name} was not learned: {why}" for name, why in training.skipped.items()]
    return tuple(told)


def _span(evidence: Evidence, beliefs: Sequence[Belief], vm: int) -> str:
    """How long was learned for how long a horizon, what that can't have shown, and what it was worth elsewhere."""
    span = format_duration(evidence.learned_s) if evidence.learned_s > 0 else "nothing of its own"
    told = f"learned from {span}; the horizon is {format_duration(evidence.horizon_s)}"
    unseen = [
        name for name, season_s in (("day", _DAY_S), ("week", _WEEK_S))
        if evidence.learned_s < 1.9 * season_s and evidence.horizon_s > season_s / 2
    ]  # fmt: skip
    if unseen:
        told += f": it can't show the pattern of a {' or a '.join(unseen)}"
    leaning = [belief for belief in beliefs if belief.weight < 1 and not belief.borrowed[vm]]
    if leaning:
        said = ", ".join(f"{b.resource} {b.ratios[vm, 0]:.2g} to {b.ratios[vm, 2]:.2g}" for b in leaning)
        told += (
            f"; on {leaning[0].machines} measured machines, of those that had used about as much, the next "
            f"{format_duration(evidence.horizon_s)} needed so many times what such a window had shown (10 to 90 %): {said}"
        )
        tested = min(belief.tested_s for belief in leaning)
        if tested > 0:
            told += f"; the forecast could be tested {format_duration(tested)} ahead, and counts for that share of the horizon"
    return told


def _emulated(belief: Belief, vm: int) -> str:
    factor = f"good to a factor of {float(np.exp(belief.spread[vm])):.2g}"
    if belief.calibrated[vm]:
        return f"{belief.resource} is simulated by what its measured use said, {factor}"
    return f"{belief.resource} is simulated from what is known of the role, {factor}: only measured use narrows it"


def _held(learned: Sequence[Learned]) -> str:
    """How often the calibrated intervals held, on origins that they weren't calibrated on."""
    said = [
        f"{entry.resource} {100 * entry.verdict.coverage['80']:.0f} and {100 * entry.verdict.coverage['95']:.0f} %"
        for entry in learned
        if entry.verdict.coverage
    ]
    if not said:
        return ""
    return f"on held-out data the calibrated 80 and 95 % intervals held: {', '.join(said)} of the time"
