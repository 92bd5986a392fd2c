"""How a back-test's rules, resources and figures are called where people read: tables, verdicts. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from adumbra.schema.backtests import Allocations, Risk
from adumbra.schema.units import format_duration, format_number, format_share
from adumbra.service.backtests import DECLARED, ORACLE, OURS, Comparison, ResourceReport, Scored

UNITS: Mapping[str, str] = {"cpu_cores": "cores", "memory_gb": "GB", "bandwidth_mbps": "Mbps", "storage_gb": "GB"}
RESOURCE_NAMES: Mapping[str, str] = {
    "cpu_cores": "CPU", "memory_gb": "Memory", "bandwidth_mbps": "Bandwidth", "storage_gb": "Storage",
}  # fmt: skip
FIGURES = (
    "rule", "allocated\n%", "short\n%", "p95\nVM %", "worst\nVM %", "unmet\n%", "longest\nshort", "resizes\na week",
    "$ a\nmonth",
)  # fmt: skip
"""The columns of the table of rules; `cells` gives what stands under them, but for the first."""
_DIALS: Mapping[Risk, str] = {Risk.PER_VM: "per VM", Risk.POOLED: "pooled over the VMs"}


def called(given: Allocations) -> str:
    """A rule's short name, with its dial where it has one: adumbra per-vm 1 %."""
    parts = [given.rule, given.risk.value if given.risk else "", format_share(given.dial) if given.dial else ""]
    return " ".join(part for part in parts if part)


def cells(each: Scored) -> tuple[str, ...]:
    """The figures of a rule, under FIGURES without its first."""
    found = each.point.figures
    longest = format_duration(found.longest_run_s) if found.longest_run_s > 0 else "-"
    return (
        percent(found.allocated_percent, 1), percent(found.short_percent), percent(found.short_p95_percent),
        percent(found.short_worst_percent), percent(found.unmet_percent), longest, percent(found.resizes_per_vm_week, 1),
        _money(each),
    )  # fmt: skip


def compared(found: ResourceReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Of ours beside the rules: the columns, and a row a rule."""
    risks = list(dict.fromkeys(each.risk for each in found.comparisons))
    columns = ["rule", "short\n%", "size\n%"]
    for risk in risks:
        columns += [f"{risk.value}\n%", "saving, %\n(its 95 %)"]
    rows: dict[str, list[str]] = {}
    for each in found.comparisons:
        theirs = each.found
        start = [theirs.rule, percent(theirs.short_percent), percent(theirs.theirs_percent, 1)]
        rows.setdefault(theirs.rule, start).extend(_comparison_cells(each))
    return tuple(columns), [tuple(row) for row in rows.values()]


PROMISED = ("dial", "asked\n%", "came\n%", "times\nwhat was asked", "VMs short over\n3 times that, %")
"""The columns of the table of promises."""


def promises(found: ResourceReport) -> list[tuple[str, ...]]:
    """What the dial was asked for, and what came: a row a setting, under PROMISED."""
    rows: list[tuple[str, ...]] = []
    for each in found.shown:
        dial, risk = each.given.dial, each.given.risk
        if dial and risk:
            over = each.point.figures.over_dial_percent
            times = short_of(each) / (100 * dial)
            said = percent(over, 1) if over is not None else "-"
            rows.append((risk.value, format_number(100 * dial), percent(short_of(each)), percent(times), said))
    return rows


def _comparison_cells(each: Comparison) -> tuple[str, str]:
    found, saving = each.found, each.saving
    if not found.reached:
        return "-", "not reached"
    interval = "" if math.isnan(saving.low) else f" ({_short(saving.low)} to {_short(saving.high)})"
    return percent(found.ours_percent, 1), _short(saving.estimate) + interval


def _short(value: float) -> str:
    return percent(value, 0 if abs(value) >= 10 else 1)


def short_of(each: Scored) -> float:
    return each.point.figures.short_percent


def allocated_of(each: Scored) -> float:
    return each.point.figures.allocated_percent


def percent(value: float, decimals: int = 2) -> str:
    """A percentage for a column of them."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.{decimals}f}" if abs(value) < 1_000 else format_number(value)


def _money(each: Scored) -> str:
    return "-" if each.cost is None or not math.isfinite(each.cost.allocated) else f"{each.cost.allocated:,.0f}"


def verdicts(found: ResourceReport) -> list[str]:
    """A sentence for each kind of risk: whether ours needs less than the rules at their own shortness, and by how much."""
    if not found.comparisons:
        return [_without_ours(found)]
    said = []
    for risk in dict.fromkeys(each.risk for each in found.comparisons):
        some = [each for each in found.comparisons if each.risk is risk]
        said.append(f"The dial {_DIALS[risk]} {_of_one_dial(some)}")
    return said


def _of_one_dial(some: list[Comparison]) -> str:
    """What is said of a dial beside the rules."""
    reached = [each for each in some if each.found.reached]
    cheaper = [each for each in reached if each.saving.low > 0]
    dearer = [each for each in reached if each.saving.high < 0]
    unclear = [each for each in reached if each not in cheaper and each not in dearer]
    missed = [each for each in some if not each.found.reached]
    parts = []
    if cheaper:
        best = max(cheaper, key=lambda each: each.saving.estimate)
        parts.append(f"allocates less than {_listed(cheaper)} at the same shortness ({_by_how_much(best)})")
    if unclear:
        parts.append(f"shows no clear difference from {_listed(unclear)}")
    if dearer:
        worst = min(dearer, key=lambda each: each.saving.estimate)
        parts.append(f"allocates more than {_listed(dearer)} at the same shortness ({_by_how_much(worst)})")
    if missed:
        parts.append(f"is as seldom short as {_listed(missed)} at no setting that was tried")
    return "; ".join(parts) + "."


def _by_how_much(each: Comparison) -> str:
    found, saving = each.found, each.saving
    sign, ends = ("less", (saving.low, saving.high)) if saving.estimate >= 0 else ("more", (-saving.high, -saving.low))
    return (
        f"{found.rule} {percent(found.theirs_percent, 1)} % of what was provisioned, Adumbra "
        f"{percent(found.ours_percent, 1)} %: "
        f"{percent(abs(saving.estimate), 0)} % {sign}, 95 % interval {percent(ends[0], 0)} to {percent(ends[1], 0)}"
    )


def _listed(some: list[Comparison]) -> str:
    names = [each.found.rule for each in some]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _without_ours(found: ResourceReport) -> str:
    rules = [
        each for each in found.scored if each.given.rule not in {OURS, ORACLE, DECLARED} and not math.isnan(short_of(each))
    ]
    if not rules:
        return "Nothing could be scored."
    safe = [each for each in rules if short_of(each) <= 1.0]
    if not safe:
        best = min(rules, key=short_of)
        return f"No rule is short less than 1 % of the time; the safest is {best.given.rule}, {_figures(best)}."
    best = min(safe, key=allocated_of)
    return f"Of the rules that are short no more than 1 % of the time, {best.given.rule} allocates least: {_figures(best)}."


def _figures(each: Scored) -> str:
    return f"{percent(allocated_of(each), 1)} % of what was provisioned, short {percent(short_of(each))} % of the time"
