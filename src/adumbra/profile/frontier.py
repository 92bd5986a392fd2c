"""Scores sizes against the use that came: how much was allocated, how often and by how much it was too little.

Pure arithmetic on measured use and on what was given; sets no sizes, draws nothing by chance. docs/rules.md says it in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.backtests import Allocations, MeasuredUse, Risk, Schedule
from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats, Ints

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
OVERLOADED = 0.01
"""A VM that uses more than it was provisioned in a larger share of its time than this says more of that than of sizes."""

RESIZED = 0.01
"""An allocation that changes by a larger share of itself than this is a resize."""

MANY_TIMES = 3.0
"""A VM short in more than so many times the share that was asked for is counted."""

_AT_ONCE = 8_000_000  # steps looked at together: bounds the memory, whatever the number of VMs

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PerVm:
    """Sums over the windows that count of each VM: float64[V] each, so that any choice of VMs can be scored without the use.

    windows: how many count; allocated, capacity: sums over these windows of the allocation and of what it is held against, in
    the resource's unit; measured, short, unavoidable: steps with a sample, those above the allocation but not above the
    capacity, and those above the capacity; demand, unmet, unavoidable_unmet: sums over steps of the use, of what of it lies
    above the allocation, and above the capacity; longest_run: steps; resizes: changes from one window to the next; weeks: the
    time held.
    """

    vms: tuple[str, ...]
    windows: Floats
    allocated: Floats
    capacity: Floats
    measured: Floats
    short: Floats
    unavoidable: Floats
    demand: Floats
    unmet: Floats
    unavoidable_unmet: Floats
    longest_run: Floats
    resizes: Floats
    weeks: Floats

    def only(self, chosen: Flags) -> PerVm:
        """The same of some of the VMs: chosen bool[V]."""
        sums = {each.name: getattr(self, each.name)[chosen] for each in fields(self) if each.name != "vms"}
        return PerVm(tuple(vm for vm, taken in zip(self.vms, chosen, strict=True) if taken), **sums)

    @property
    def counted(self) -> Flags:
        """The VMs of which at least one window counts."""
        return np.asarray(self.windows > 0)

    @property
    def overloaded(self) -> Flags:
        """The VMs that use more than their capacity in more than OVERLOADED of their steps."""
        return np.asarray(self.unavoidable > OVERLOADED * self.measured)


@dataclass(frozen=True, slots=True)
class OverTime:
    """Of each origin, float64[O]: steps with a sample in the windows that count, and those short that need not have been."""

    measured: Floats
    short: Floats


@dataclass(frozen=True, slots=True)
class Figures:
    """What comes of some VMs' sums. Percentages are of: allocated: the capacity; short, unavoidable: the steps with a sample;
    unmet and the unavoidable part of it: the use; over_dial: the VMs. NaN where nothing was measured.

    short_*: the share of a VM's steps, of the VM in the middle, of the one at the 95th percentile, and of the worst.
    over_dial_percent: VMs short more than MANY_TIMES as often as asked, None where there is no dial. allocated_mean: of a VM
    and window, in the resource's unit, and provisioned_mean of the capacity.
    """

    vms: int
    allocated_percent: float
    short_percent: float
    unavoidable_percent: float
    unmet_percent: float
    unavoidable_unmet_percent: float
    longest_run_steps: int
    longest_run_s: float
    resizes_per_vm_week: float
    short_median_percent: float
    short_p95_percent: float
    short_worst_percent: float
    over_dial_percent: float | None
    allocated_mean: float
    provisioned_mean: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Which windows (a VM and an origin) count, and why others don't; the same for all rules.

    short_history: fewer than half of the days of the lead-in have a sample; few_measured: of the others, those with a sample in
    less than half of their steps. overloaded_vms: as in PerVm; own_maximum_vms: VMs whose provisioned amount isn't known, so
    that their own largest use stands for it, and no allocation is counted above that.
    """

    windows: int
    counted: int
    short_history: int
    few_measured: int
    vms: int
    counted_vms: int
    overloaded_vms: int
    own_maximum_vms: int


@dataclass(frozen=True, slots=True)
class Point:
    """One rule's sizes of one resource, scored. figures: of all VMs; steady: without the overloaded ones. kept: windows that
    count in which the rule gave no size, so that the one before stayed, or, before the first, what was provisioned.
    """

    resource: str
    rule: str
    title: str
    dial: float | None
    risk: Risk | None
    figures: Figures
    steady: Figures
    counts: Counts
    kept: int
    per_vm: PerVm


@dataclass(frozen=True, slots=True)
class Held:
    """Measured use laid out by when sizes are held; what doesn't depend on the sizes is summed once, for any number of them.

    capacity float64[V]; counted bool[O, V]; the sums float64[V] are as in PerVm.
    """

    use: MeasuredUse
    schedule: Schedule
    capacity: Floats
    counted: Flags
    counts: Counts
    measured: Floats
    unavoidable: Floats
    demand: Floats
    unavoidable_unmet: Floats


def score(use: MeasuredUse, schedule: Schedule, allocations: Allocations) -> Point:
    """How one rule's sizes fared. To score many, lay the use out once: `scored(lay_out(use, schedule), each)`.

    Raises InputError for a schedule whose sizes overlap, and for allocations of another shape or below zero.
    """
    return scored(lay_out(use, schedule), allocations)


def lay_out(use: MeasuredUse, schedule: Schedule) -> Held:
    """Which windows count, and what of them doesn't depend on sizes.

    A window (a VM, an origin) counts where at least half of the days of the lead-in have a sample, and at least half of its own
    steps have one. Raises InputError for a schedule whose sizes overlap or that has none, and for infinite use.
    """
    _check(use, schedule)
    values = use.panel.values
    counted, short_history, few_measured = _counted(use, schedule)
    capacity, own = _capacity(use)
    sums = np.zeros((4, len(values)))
    for part, held in _parts(values, schedule):
        within = counted[:, part].T[..., None] & ~np.isnan(held)
        above = within & (held > capacity[part, None, None])
        sums[0, part] = within.sum(axis=(1, 2))
        sums[1, part] = above.sum(axis=(1, 2))
        sums[2, part] = held.sum(axis=(1, 2), where=within)
        sums[3, part] = (held - capacity[part, None, None]).sum(axis=(1, 2), where=above)
    counts = Counts(
        windows=counted.size,
        counted=int(counted.sum()),
        short_history=short_history,
        few_measured=few_measured,
        vms=len(values),
        counted_vms=int(counted.any(axis=0).sum()),
        overloaded_vms=int((sums[1] > OVERLOADED * sums[0]).sum()),
        own_maximum_vms=int((own & counted.any(axis=0)).sum()),
    )
    return Held(use, schedule, capacity, counted, counts, sums[0], sums[1], sums[2], sums[3])


def scored(held: Held, allocations: Allocations) -> Point:
    """How one rule's sizes fared on use that is laid out. Raises InputError for allocations of another shape or below zero."""
    given = np.asarray(allocations.amounts, dtype=np.float64)
    if given.shape != held.counted.shape:
        shapes = f"{given.shape}, not {held.counted.shape}"
        raise InputError(
            f"the allocations of {allocations.rule} are of the shape {shapes}", "give a row an origin, a column a VM"
        )
    if (given < 0).any():
        raise InputError(
            f"{allocations.rule} allocates less than nothing", "give amounts of 0 or more, NaN where there is none"
        )
    amounts = np.minimum(_stays(given, held.capacity), held.capacity)
    short, unmet, longest_run = _shortness(held, amounts)
    windows = held.counted.sum(axis=0).astype(np.float64)
    step_s = held.use.panel.step_s
    per_vm = PerVm(
        vms=held.use.panel.vms,
        windows=windows,
        allocated=amounts.sum(axis=0, where=held.counted),
        capacity=np.where(windows > 0, windows * held.capacity, 0.0),
        measured=held.measured,
        short=short,
        unavoidable=held.unavoidable,
        demand=held.demand,
        unmet=unmet,
        unavoidable_unmet=held.unavoidable_unmet,
        longest_run=longest_run,
        resizes=_resizes(amounts, held.counted),
        weeks=windows * held.schedule.held_steps * step_s / WEEK_S,
    )
    return Point(
        resource=held.use.panel.resource,
        rule=allocations.rule,
        title=allocations.title,
        dial=allocations.dial,
        risk=allocations.risk,
        figures=figures(per_vm, step_s, allocations.dial),
        steady=figures(per_vm.only(~per_vm.overloaded), step_s, allocations.dial),
        counts=held.counts,
        kept=int((np.isnan(given) & held.counted).sum()),
        per_vm=per_vm,
    )


def figures(per_vm: PerVm, step_s: float, dial: float | None = None) -> Figures:
    """What comes of the sums of those VMs that have a window that counts."""
    sums = per_vm.only(per_vm.counted)
    each = 100 * sums.short / sums.measured
    longest = int(sums.longest_run.max(initial=0.0))
    windows = float(sums.windows.sum())
    measured = float(sums.measured.sum())
    demand = float(sums.demand.sum()) or (1.0 if measured else 0.0)  # of no demand nothing is unmet
    return Figures(
        vms=len(sums.vms),
        allocated_percent=_percent(sums.allocated.sum(), sums.capacity.sum()),
        short_percent=_percent(sums.short.sum(), measured),
        unavoidable_percent=_percent(sums.unavoidable.sum(), measured),
        unmet_percent=_percent(sums.unmet.sum(), demand),
        unavoidable_unmet_percent=_percent(sums.unavoidable_unmet.sum(), demand),
        longest_run_steps=longest,
        longest_run_s=longest * step_s,
        resizes_per_vm_week=_percent(sums.resizes.sum(), sums.weeks.sum()) / 100,
        short_median_percent=float(np.percentile(each, 50)) if len(each) else math.nan,
        short_p95_percent=float(np.percentile(each, 95)) if len(each) else math.nan,
        short_worst_percent=float(each.max(initial=0.0)) if len(each) else math.nan,
        over_dial_percent=None if dial is None else _percent((each > 100 * MANY_TIMES * dial).sum(), len(each)),
        allocated_mean=_percent(sums.allocated.sum(), windows) / 100,
        provisioned_mean=_percent(sums.capacity.sum(), windows) / 100,
    )


def _percent(part: float, whole: float) -> float:
    return 100 * float(part) / float(whole) if whole else math.nan


def _check(use: MeasuredUse, schedule: Schedule) -> None:
    origins, held = schedule.origins, schedule.held_steps
    if held < 1 or schedule.lead_in_steps < 0 or origins.ndim != 1 or len(origins) == 0 or origins[0] < 0:
        raise InputError(
            "the schedule has no time at which a size is set and held", "give one origin at least, held for a step"
        )
    if (np.diff(origins) < held).any():
        raise InputError(
            "sizes are set anew before the ones before are given up", "hold sizes no longer than to the next origin"
        )
    if use.provisioned.shape != use.panel.values.shape[:1]:
        raise InputError(
            f"what {use.panel.resource} was provisioned doesn't fit the VMs", "give one amount a VM, NaN if unknown"
        )
    if np.isinf(use.panel.values).any():
        raise InputError(f"the use of {use.panel.resource} has infinite values", "leave such samples out: gaps are NaN")


def _capacity(use: MeasuredUse) -> tuple[Floats, Flags]:
    """What allocations are held against, float64[V], and where that is the VM's own largest use: nothing (or 0) was told."""
    own = ~(use.provisioned > 0)
    return np.where(own, np.fmax.reduce(use.panel.values, axis=1, initial=np.nan), use.provisioned), own


def _counted(use: MeasuredUse, schedule: Schedule) -> tuple[Flags, int, int]:
    """Which windows count, bool[O, V]; how many don't for want of history, and of the others for want of samples."""
    values, origins = use.panel.values, schedule.origins
    day = min(max(1, round(DAY_S / use.panel.step_s)), max(1, schedule.lead_in_steps))
    days = round(schedule.lead_in_steps / day)
    edges = np.clip(origins[:, None] - day * np.arange(days, -1, -1), 0, values.shape[1])  # [O, days + 1]
    ends = np.clip(np.stack([origins, origins + schedule.held_steps], axis=1), 0, values.shape[1])
    known = np.zeros((len(origins), len(values)), np.bool_)
    enough = np.zeros_like(known)
    size = max(1, _AT_ONCE // max(values.shape[1], edges.size))
    for start in range(0, len(values), size):
        part = slice(start, start + size)
        upto = np.zeros((len(values[part]), values.shape[1] + 1), np.int64)
        np.cumsum(~np.isnan(values[part]), axis=1, out=upto[:, 1:])
        lived = (np.diff(upto[:, edges], axis=2) > 0).sum(axis=2).T
        measured = np.diff(upto[:, ends], axis=2)[..., 0].T
        known[:, part] = lived * 2 >= days
        enough[:, part] = measured * 2 >= schedule.held_steps
    return known & enough, int((~known).sum()), int((known & ~enough).sum())


def _parts(values: Floats, schedule: Schedule) -> Iterator[tuple[slice, Floats]]:
    """The held windows [v, O, S] of some VMs at a time, NaN after the end of what was measured."""
    origins, steps = schedule.origins, schedule.held_steps
    first, end = int(origins[0]), int(origins[-1]) + steps
    size = max(1, _AT_ONCE // (len(origins) * steps))
    side_by_side = (end - first) == len(origins) * steps and end <= values.shape[1]
    at = origins[:, None] + np.arange(steps)
    for start in range(0, len(values), size):
        part = slice(start, start + size)
        if side_by_side:
            yield part, values[part, first:end].reshape(-1, len(origins), steps)
        else:
            some = values[part]
            padded = np.concatenate([some, np.full((len(some), 1), np.nan)], axis=1)
            yield part, padded[:, np.minimum(at, values.shape[1])]


def _stays(amounts: Floats, capacity: Floats) -> Floats:
    """Amounts [O, V] with the last one before in place of NaN, and the capacity where none was given yet."""
    rows = np.where(np.isnan(amounts), -1, np.arange(len(amounts))[:, None])
    last = np.maximum.accumulate(rows, axis=0)
    stays = np.take_along_axis(amounts, np.maximum(last, 0), axis=0)
    return np.where(last < 0, capacity, stays)


def _shortness(held: Held, amounts: Floats) -> tuple[Floats, Floats, Floats]:
    """Steps short that a larger size had avoided, unmet use, and the longest run of such steps, float64[V] each.

    A run goes on from one window to the next where nothing lies between them. A step above the capacity neither ends nor
    lengthens it; a gap ends it.
    """
    out = np.zeros((3, held.counted.shape[1]))
    steps, origins = held.schedule.held_steps, held.schedule.origins
    follows = np.concatenate([[False], np.diff(origins) == steps])
    for part, use in _parts(held.use.panel.values, held.schedule):
        given = np.where(held.counted[:, part], amounts[:, part], np.inf).T  # what doesn't count is never short
        above = use > given[..., None]
        at = np.flatnonzero(above)
        if len(at) == 0:
            continue
        window = at // steps
        vm = window // len(origins)
        used = use[above]
        excess = used - given.ravel()[window]
        avoidable = used <= held.capacity[part][vm]
        begins = np.diff(at, prepend=-2) != 1
        begins |= (at % steps == 0) & ~follows[window % len(origins)]  # the first origin follows nothing: a VM's run is its own
        starts = np.flatnonzero(begins)
        number = len(given)
        out[0, part] = np.bincount(vm, weights=avoidable, minlength=number)
        out[1, part] = np.bincount(vm, weights=excess, minlength=number)
        runs = np.add.reduceat(avoidable.astype(np.float64), starts)
        np.maximum.at(out[2, part], vm[starts], runs)
    return out[0], out[1], out[2]


def _resizes(amounts: Floats, counted: Flags) -> Floats:
    """How often each VM's allocation changed by more than RESIZED from a window that counts to the next one, if it counts."""
    before, after = amounts[:-1], amounts[1:]
    changed = np.abs(after - before) > RESIZED * before
    return np.asarray((changed & counted[:-1] & counted[1:]).sum(axis=0), dtype=np.float64)


def origins_every(steps: int, first: int, every: int) -> Ints:
    """Origins from step `first` on, `every` steps apart, as long as a whole window of `every` steps follows within `steps`."""
    return np.arange(first, steps - every + 1, every, dtype=np.int64)


def over_time(held: Held, given: Allocations) -> OverTime:
    """How the shortness that could have been avoided is spread over the origins, as `scored` counts it."""
    values, steps = held.use.panel.values, held.schedule.held_steps
    amounts = np.minimum(_stays(given.amounts, held.capacity), held.capacity)
    measured, short = np.zeros(len(amounts)), np.zeros(len(amounts))
    for number, origin in enumerate(held.schedule.origins):
        some = held.counted[number]
        window = values[some, origin : origin + steps]
        measured[number] = np.count_nonzero(~np.isnan(window))
        short[number] = np.count_nonzero((window > amounts[number, some, None]) & (window <= held.capacity[some, None]))
    return OverTime(measured, short)
