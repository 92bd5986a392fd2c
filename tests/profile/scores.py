"""What the tests of scores share: measured use drawn at random, and points with figures that are chosen."""

from __future__ import annotations

import numpy as np

from adumbra.profile.frontier import PerVm, Point, figures, lay_out, scored
from adumbra.schema.backtests import Allocations, MeasuredUse, Schedule
from adumbra.schema.records import Panel

STEP_S = 3600.0
DAY = 24


def use_of(values, provisioned=None, step_s=STEP_S, resource="cpu_cores"):
    values = np.atleast_2d(np.asarray(values, np.float64))
    if provisioned is None:
        provisioned = np.full(len(values), 8.0)
    vms = tuple(f"vm-{i}" for i in range(len(values)))
    return MeasuredUse(Panel(resource, vms, 0, step_s, values), np.asarray(provisioned, np.float64))


def schedule(origins, held=DAY, lead_in=0):
    return Schedule(np.asarray(origins, np.int64), held, lead_in)


def gave(amounts, dial=None, rule="a-rule"):
    return Allocations(rule, "A rule", np.asarray(amounts, np.float64), dial)


def drawn_use(seed, vms=4, steps=12 * DAY, gaps=0.1):
    rng = np.random.default_rng(seed)
    values = rng.lognormal(0.0, 1.0, (vms, steps))
    values[rng.random((vms, steps)) < gaps] = np.nan
    provisioned = rng.choice([2.0, 4.0, 8.0, 0.0, np.nan], vms)
    return use_of(values, provisioned)


def points_of(use, times, factors, rule="adumbra"):
    """Points of sizes that are so many times each VM's median use, whenever: a curve."""
    held = lay_out(use, times)
    median = np.nanmedian(use.panel.values, axis=1)
    return [scored(held, gave(np.tile(median * each, (len(times.origins), 1)), rule=rule)) for each in factors]


def per_vm(allocated, short, capacity=100.0, measured=1000.0):
    """Sums in which a VM allocates so many % of its capacity, and is short in so many of its steps."""
    allocated, short = np.asarray(allocated, np.float64), np.asarray(short, np.float64)
    ones = np.ones(len(allocated))
    vms = tuple(f"vm-{i}" for i in range(len(allocated)))
    return PerVm(
        vms=vms,
        windows=ones,
        allocated=allocated * capacity / 100,
        capacity=ones * capacity,
        measured=ones * measured,
        short=short,
        unavoidable=ones * 0,
        demand=ones,
        unmet=ones * 0,
        unavoidable_unmet=ones * 0,
        longest_run=ones,
        resizes=ones * 0,
        weeks=ones,
    )


def point(sums, rule="a-rule", resource="cpu_cores"):
    """A point with these sums, and the figures that follow."""
    use = use_of(np.ones((len(sums.vms), 2)), resource=resource)
    made = scored(lay_out(use, schedule([0], held=1)), gave(np.ones((1, len(sums.vms)))))
    of_sums = figures(sums, STEP_S)
    return Point(resource, rule, rule, None, None, of_sums, of_sums, made.counts, 0, sums)
