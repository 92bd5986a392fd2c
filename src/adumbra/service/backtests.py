"""Back-tests of sizes: every sizer's sizes on measured use, scored by what came, beside each other. Reads and writes nothing.

No score is computed here (profile/frontier.py does), and no size is set (sizers.py do).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from adumbra.fanout import IN_PROCESS, Fanout, Part
from adumbra.profile.comparison import Interval, SameRisk, better_at_same_risk, dominated
from adumbra.profile.frontier import Held, OverTime, Point, lay_out, over_time, scored
from adumbra.profile.money import Cost, UnitPrices, cost
from adumbra.profile.rules import RULES, Rule
from adumbra.schema.backtests import Allocations, MeasuredUse, Risk, Schedule, Usages
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import NANOSECONDS, Floats
from adumbra.schema.sizing import RESOURCES
from adumbra.schema.units import format_count, format_time
from adumbra.service.observations import Progress
from adumbra.service.risk_sizer import NAME as OURS
from adumbra.service.risk_sizer import RiskSizer
from adumbra.service.schedules import Periods, schedule_of, times_ns
from adumbra.service.sizers import ORACLE, OracleSizer, RuleSizer, Sizer

__all__ = [
    "DECLARED",
    "ORACLE",
    "OURS",
    "BacktestReport",
    "BacktestRequest",
    "Comparison",
    "ResourceReport",
    "Scored",
    "backtest",
    "sizers_of",
]

DECLARED = "declared"

SHORTFALLS = (0.005, 0.01, 0.02, 0.05)

BETWEEN = (0.0003, 0.0005, 0.001, 0.002, 0.0035, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05)
"""Settings of the dial that are tried beside those asked for, so that our curve can be read where a rule is short as often."""


@dataclass(frozen=True, slots=True)
class BacktestRequest:
    """What is asked. shortfalls: settings of the dial, shares of time; resources: of which (None: all that are measured);
    seed: of what is drawn by chance; prices: None for no money.
    """

    periods: Periods = field(default_factory=Periods)
    shortfalls: tuple[float, ...] = SHORTFALLS
    risks: tuple[Risk, ...] = tuple(Risk)
    rules: tuple[Rule, ...] = tuple(RULES.values())
    resources: tuple[str, ...] | None = None
    seed: int = 1
    prices: UnitPrices | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """One rule's sizes of a resource, and how they fared. cost: None where the resource has no price; beaten: whether another
    allocates no more and is short no more often, the oracle left out of it.
    """

    given: Allocations
    point: Point
    over_time: OverTime
    cost: Cost | None = None
    beaten: bool = False

    @property
    def allocated_of_vms(self) -> Floats:
        """Of each VM, the percentage of what it was provisioned, NaN where no window counts."""
        sums = self.point.per_vm
        return _percent(sums.allocated, sums.capacity)

    @property
    def short_of_vms(self) -> Floats:
        """Of each VM, the percentage of its steps that were short and need not have been, NaN where no window counts."""
        sums = self.point.per_vm
        return _percent(sums.short, sums.measured)

    def to_dict(self) -> dict[str, Any]:
        point = self.point
        return {
            "rule": point.rule, "title": point.title, "dial": point.dial, "risk": point.risk,
            **asdict(point.figures), "cost": self.cost and asdict(self.cost), "beaten": self.beaten, "kept_windows": point.kept,
            "without_overloaded_vms": asdict(point.steady),
            "per_vm": {
                "allocated_percent": self.allocated_of_vms.tolist(), "short_percent": self.short_of_vms.tolist(),
                "longest_run_steps": point.per_vm.longest_run.tolist(),
            },
            "over_time": {"measured": self.over_time.measured.tolist(), "short": self.over_time.short.tolist()},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours beside a rule, for one kind of risk: read off our curve over the dial where it is short as often as the rule."""

    risk: Risk
    found: SameRisk

    @property
    def saving(self) -> Interval:
        """How much less than the rule ours allocates, in % of what the rule allocates, with its 95 % interval."""
        less = self.found.of_theirs
        return Interval(-less.estimate, -less.high, -less.low)

    def to_dict(self) -> dict[str, Any]:
        return {"risk": self.risk, **asdict(self.found), "saving": asdict(self.saving)}


@dataclass(frozen=True, slots=True)
class ResourceReport:
    """What was found of one resource. notes: in words, what wasn't scored or sized, and why; asked: settings of the dial."""

    use: MeasuredUse
    schedule: Schedule
    scored: tuple[Scored, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]

    asked: tuple[float, ...] = ()

    @property
    def resource(self) -> str:
        return self.use.panel.resource

    @property
    def shown(self) -> tuple[Scored, ...]:
        """Those that tables show: all but the settings of the dial that were tried beside those asked for."""
        return tuple(each for each in self.scored if each.given.dial is None or each.given.dial in self.asked)

    def to_dict(self) -> dict[str, Any]:
        return {
            "counts": asdict(self.scored[0].point.counts), "vms": list(self.use.panel.vms),
            "provisioned": self.use.provisioned.tolist(), "notes": list(self.notes),
            "rules": [each.to_dict() for each in self.scored], "comparisons": [each.to_dict() for each in self.comparisons],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class BacktestReport:
    """What was found of each resource, and of what: the source, what was mended, when sizes were set (ns since the epoch)."""

    source: str
    request: BacktestRequest
    notes: tuple[str, ...]
    step_s: float
    origins_ns: tuple[int, ...]
    end_ns: int
    resources: tuple[ResourceReport, ...]

    @property
    def first_ns(self) -> int:
        return self.origins_ns[0]

    @property
    def vms(self) -> int:
        return max(len(each.use.panel.vms) for each in self.resources)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, complete: all but the sizes and the use themselves."""
        asked, periods = self.request, self.request.periods
        return {
            "source": self.source, "vms": self.vms, "step_s": self.step_s, "first": format_time(self.first_ns),
            "end": format_time(self.end_ns), "resize_s": periods.resize_s, "horizon_s": periods.horizon_s,
            "lead_in_s": periods.lead_in_s, "seed": asked.seed, "shortfalls": list(asked.shortfalls),
            "risks": list(asked.risks),
            "origins": [format_time(each) for each in self.origins_ns], "notes": list(self.notes),
            "prices": asked.prices and {"per_hour": dict(asked.prices.per_hour), "source": asked.prices.source},
            "resources": {each.resource: each.to_dict() for each in self.resources},
        }  # fmt: skip

    def frontier(self) -> tuple[list[str], list[list[Any]]]:
        """The figures as a table: its columns, and a row a resource and rule."""
        rows = []
        for found in self.resources:
            for each in found.scored:
                point = each.point
                plain = {
                    "resource": found.resource,
                    "rule": point.rule,
                    "dial": point.dial,
                    "risk": point.risk and point.risk.value,
                }
                rows.append(
                    {
                        **plain,
                        **asdict(point.figures),
                        "beaten": each.beaten,
                        "usd_per_month": each.cost and each.cost.allocated,
                    }
                )
        return list(rows[0]), [list(row.values()) for row in rows]


def sizers_of(request: BacktestRequest) -> tuple[Sizer, ...]:
    """Who is compared, in the order in which they are shown."""
    dials = tuple(sorted({*request.shortfalls, *BETWEEN}))
    ours = RiskSizer(dials, request.risks, request.periods.horizon_s, request.seed)
    return (*(RuleSizer(rule) for rule in request.rules), ours, OracleSizer())


def backtest(
    usages: Usages,
    request: BacktestRequest,
    progress: Progress = lambda *_: None,
    sizers: Sequence[Sizer] | None = None,
    fanout: Fanout = IN_PROCESS,
) -> BacktestReport:
    """Sizes every VM at every origin by every sizer, and scores what they gave on what came.

    Each sizer's work on a resource is a task, worked on where `fanout` says; scores are computed here.
    Raises InputError for what can't be asked of this use, TooLittleDataError where nothing of it can be scored.
    """
    chosen = _chosen(usages, request.resources)
    asked = sizers_of(request) if sizers is None else tuple(sizers)
    panel = chosen[0].panel
    schedule = schedule_of(panel, request.periods)
    found, left_out = [], []
    held: dict[str, Held] = {}
    for use in chosen:
        progress(0.0, f"{use.panel.resource}: laying out")
        try:
            held[use.panel.resource] = _laid_out(use, schedule)
        except TooLittleDataError as error:
            left_out.append(f"{use.panel.resource} was left out: {error}")
    tasks = {_task(resource, n, sizer): (resource, sizer) for resource in held for n, sizer in enumerate(asked)}
    uses = {resource: each.use for resource, each in held.items()}
    given = fanout.map(_given, (uses, schedule), tasks, Part(progress, 0.0, 0.9))
    for number, (resource, laid_out) in enumerate(held.items()):
        progress(0.9 + 0.1 * number / len(held), f"{resource}: scoring and comparing")
        try:
            of_resource = [(sizer.name, given[_task(resource, n, sizer)]) for n, sizer in enumerate(asked)]
            found.append(_of_resource(laid_out, of_resource, request))
        except TooLittleDataError as error:
            left_out.append(f"{resource} was left out: {error}")
    if not found:
        raise TooLittleDataError(left_out[0], "give a longer history, or a shorter --lead-in")
    progress(1.0, "done")
    times = times_ns(panel, schedule)
    steps = min(int(schedule.origins[-1]) + schedule.held_steps, panel.values.shape[1])
    end_ns = panel.start_ns + steps * round(panel.step_s * NANOSECONDS)
    notes = (*usages.notes, *left_out)
    return BacktestReport(usages.source, request, notes, panel.step_s, tuple(times), end_ns, tuple(found))


def _chosen(usages: Usages, resources: Sequence[str] | None) -> list[MeasuredUse]:
    """The resources that were asked for, in the order of RESOURCES. Raises InputError, TooLittleDataError."""
    measured = [name for name in RESOURCES if name in usages.resources]
    for name in resources or ():
        if name not in measured:
            raise InputError(
                f"{usages.source} doesn't tell of {name[:40]!r}", f"it tells of: {', '.join(measured) or 'nothing'}"
            )
    chosen = [usages.resources[name] for name in measured if resources is None or name in resources]
    if not chosen or not chosen[0].panel.vms:
        raise TooLittleDataError(f"nothing is measured in {usages.source}", "give a file with a row a VM and time")
    return chosen


def _task(resource: str, number: int, sizer: Sizer) -> str:
    """What a sizer's work on a resource is called: several sizers may have one name."""
    return f"{resource}: {sizer.name} ({number + 1})"


def _given(
    shared: tuple[Mapping[str, MeasuredUse], Schedule], task: tuple[str, Sizer], progress: Callable[[float, str], None]
) -> tuple[Allocations, ...] | str:
    """What a sizer gives for a resource, or in words why it gives nothing."""
    (uses, schedule), (resource, sizer) = shared, task
    try:
        return tuple(sizer.allocations(uses[resource], schedule, lambda share, doing: progress(share or 0.0, doing)))
    except TooLittleDataError as error:
        return f"{resource}: {sizer.name} gave no sizes: {error}"


def _laid_out(use: MeasuredUse, schedule: Schedule) -> Held:
    """Which windows of a resource count. Raises TooLittleDataError where none does."""
    held = lay_out(use, schedule)
    if not held.counts.counted:
        raise TooLittleDataError(
            f"of {held.counts.windows:,} windows (a VM, a time of sizing) none counts: {held.counts.short_history:,} have too "
            f"little history before them, {held.counts.few_measured:,} too few samples of their own",
            "give a longer history, a shorter --lead-in, or a coarser --step",
        )
    return held


def _of_resource(
    held: Held, given: Sequence[tuple[str, tuple[Allocations, ...] | str]], request: BacktestRequest
) -> ResourceReport:
    """The scores of what sizers, told by name, gave, beside each other. Raises TooLittleDataError where none gave anything."""
    resource = held.use.panel.resource
    notes = list(_notes(held))
    found: list[Scored] = []
    for name, some in given:
        if isinstance(some, str):
            notes.append(some)
            continue
        sized = [each for each in some if not np.isnan(each.amounts).all()]
        if len(sized) < len(some):
            notes.append(f"{resource}: {name} gave no VM a size")
        found += [Scored(each, scored(held, each), over_time(held, each)) for each in sized]
    if not found:
        raise TooLittleDataError(f"no rule sizes {resource}", "ask for other --rules")
    judged, compared = _judged(found, request.prices), _comparisons(found, request.seed)
    return ResourceReport(held.use, held.schedule, judged, compared, tuple(notes), request.shortfalls)


def _judged(found: Sequence[Scored], prices: UnitPrices | None) -> tuple[Scored, ...]:
    """The same, with what they cost and whether they are beaten."""
    real = [each for each in found if each.given.rule != ORACLE]
    beaten = dict(zip(map(id, real), dominated([each.point for each in real]), strict=True))
    return tuple(
        replace(
            each,
            cost=cost(each.point, prices) if prices and each.point.resource in prices.per_hour else None,
            beaten=beaten.get(id(each), False),
        )
        for each in found
    )


def _comparisons(found: Sequence[Scored], seed: int) -> tuple[Comparison, ...]:
    """Ours beside each rule, each kind of risk by itself; what was provisioned is no rule: it is never short.

    All see the same draws of VMs, whichever rules were asked for.
    """
    curves = {risk: [each.point for each in found if each.given.rule == OURS and each.given.risk is risk] for risk in Risk}
    rules = [each.point for each in found if each.given.rule not in {OURS, ORACLE, DECLARED}]
    return tuple(
        Comparison(risk, better_at_same_risk(curve, rule, np.random.default_rng(seed)))
        for risk, curve in curves.items()
        if curve
        for rule in rules
    )


def _notes(held: Held) -> Iterator[str]:
    counts, resource = held.counts, held.use.panel.resource
    if counts.counted < counts.windows:
        yield (
            f"{resource}: {counts.counted:,} of {counts.windows:,} windows (a VM, a time of sizing) count; of the others, "
            f"{counts.short_history:,} have samples in less than half of the days before them, {counts.few_measured:,} in less "
            "than half of their own steps"
        )
    if counts.overloaded_vms:
        yield (
            f"{resource}: {format_count(counts.overloaded_vms, 'VM')} used more than provisioned in over 1 % of the time; the "
            "figures hold them, less what no size could have avoided"
        )
    if counts.own_maximum_vms:
        yield (
            f"{resource}: what was provisioned isn't told of {format_count(counts.own_maximum_vms, 'VM')}; the largest use of "
            "the whole time stands for it in scores (rules don't see it)"
        )


def _percent(part: Floats, whole: Floats) -> Floats:
    return np.asarray(100 * part / np.where(whole > 0, whole, np.nan))
