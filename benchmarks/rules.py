"""The rules that people size by, scored on measured use: daily sizes, beside what was said of the same rules and machines.

    python benchmarks/rules.py USAGE.parquet

USAGE is a usage file (DESIGN.md section 8). What is `said` was measured elsewhere on the 200 machines of Bitbrains Rnd
(GWA-T-12), once from day 14 on, with days that begin at the file's first sample, no CPU in use where a machine is off, and VPA
without its buckets and least sizes; once from day 50 on, with days of UTC, and gaps where a machine is off. Prints, for each
rule, allocated and short in %, how often the VM at the 95th percentile and the worst are short, resizes a VM and week, and
dollars a month for all VMs; then how surely rules differ, and what scoring takes. A minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import duckdb
import numpy as np

from adumbra.profile.catalog import load_catalog
from adumbra.profile.comparison import better_at_same_risk, bootstrap, dominated
from adumbra.profile.frontier import Held, Point, lay_out, origins_every, scored
from adumbra.profile.money import UnitPrices, cost, fit_prices
from adumbra.profile.rules import DAY_S, RULES, VPA, Buckets, Past, percentile_of, tomorrows_maximum, vpa_target
from adumbra.schema.backtests import Allocations, MeasuredUse, Schedule
from adumbra.schema.records import Panel
from adumbra.schema.sizing import BYTES_PER_GB

STEP_S = 300
DAY = round(DAY_S / STEP_S)
LEAD_IN_DAYS = 14
COLUMNS = {"cpu_cores": ("cpu_cores", 1.0), "memory_gb": ("memory_bytes", float(BYTES_PER_GB))}
PLAIN = "vpa, no buckets"
SAID = {  # (resource, first day) -> rule -> allocated %, short %
    ("cpu_cores", 14): {
        "azure-1d": (24.8, 2.28),
        PLAIN: (25.9, 3.67),
        "krr": (31.8, 4.57),
        "azure-14d": (33.2, 1.85),
        "crane": (34.5, 0.75),
        "aws-compute-optimizer": (39.0, 0.35),
        "peak": (46.8, 0.09),
        "oracle": (29.8, 0.0),
    },
    ("memory_gb", 14): {
        PLAIN: (31.2, 0.23),
        "krr": (42.3, 0.06),
        "azure-14d": (17.2, 1.71),
        "crane": (22.4, 0.67),
        "aws-compute-optimizer": (44.6, 0.05),
        "peak": (42.3, 0.06),
        "oracle": (20.1, 0.0),
    },
    ("cpu_cores", 50): {"azure-14d": (32.8, 1.91), "crane": (34.9, 0.79), "aws-compute-optimizer": (38.8, 0.38)},
    ("memory_gb", 50): {"azure-14d": (18.3, 1.68), "crane": (23.6, 0.66), "krr": (43.3, 0.05), "peak": (43.3, 0.05)},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """From which day on sizes are set; whether days begin at midnight (UTC); whether a machine that is off uses nothing."""

    first_day: int
    from_midnight: bool
    off_is_zero: bool


RUNS = (Run(14, from_midnight=False, off_is_zero=True), Run(50, from_midnight=True, off_is_zero=False))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("usage", type=Path)
    usage = arguments.parse_args().usage
    prices = fit_prices(load_catalog())
    each = ", ".join(f"{price:.4f} USD an hour for {name}" for name, price in prices.per_hour.items())
    print(f"prices: {prices.source}: {each}; half of the types are within {prices.median_error:.0%} of these\n")
    for resource in COLUMNS:
        for run in RUNS:
            use, midnight = read(usage, resource, run.off_is_zero)
            first = run.first_day * DAY + (midnight if run.from_midnight else 0)
            origins = origins_every(use.panel.values.shape[1], first, DAY)
            began = time.perf_counter()
            held = lay_out(use, Schedule(origins, DAY, LEAD_IN_DAYS * DAY))
            laid_out_s = time.perf_counter() - began
            points, rules_s, scores_s = score_rules(held)
            report(resource, run.first_day, points, prices)
            print(f"seconds: laying out {laid_out_s:.2f}, all of RULES {rules_s:.2f}, scoring {len(points)} {scores_s:.2f}\n")
        differences(points)
        hourly(use, midnight)


def read(path: Path, resource: str, off_is_zero: bool) -> tuple[MeasuredUse, int]:
    """A resource's use on the grid of 5 minutes, and the step of the first midnight (UTC). off_is_zero: a sample without the
    resource's use counts as 0 where the machine is told to have nothing of it, as it is off.
    """
    column, unit = COLUMNS[resource]
    used = f"CASE WHEN {column} IS NULL AND {column}_provisioned = 0 THEN 0 ELSE {column} END" if off_is_zero else column
    rows = duckdb.execute(
        f"SELECT vm, cast(epoch(time) AS BIGINT) AS s, ({used})::DOUBLE AS used, {column}_provisioned::DOUBLE AS had "
        "FROM read_parquet(?)",
        [str(path)],
    ).fetchnumpy()
    vms, row = np.unique(np.asarray(rows["vm"]).astype(str), return_inverse=True)
    start_s = int(rows["s"].min()) // STEP_S * STEP_S
    step = (np.asarray(rows["s"]) - start_s) // STEP_S
    values = np.full((len(vms), int(step.max()) + 1), np.nan)
    values[row, step] = np.ma.filled(np.ma.asarray(rows["used"]), np.nan) / unit
    provisioned = np.full(len(vms), np.nan)
    np.fmax.at(provisioned, row, np.ma.filled(np.ma.asarray(rows["had"]), np.nan) / unit)
    panel = Panel(resource, tuple(str(vm) for vm in vms), start_s * 10**9, float(STEP_S), values)
    return MeasuredUse(panel, provisioned), round(-start_s % DAY_S / STEP_S)


def score_rules(held: Held) -> tuple[list[Point], float, float]:
    """Each rule's point, the oracle's, and VPA's without buckets and least sizes; seconds for RULES, and for scoring."""
    resource, values = held.use.panel.resource, held.use.panel.values
    fine = {"buckets": Buckets(1e-5, 1.0005, 1000.0), "least": 0.0}
    plain = dataclasses.replace(VPA[resource], **fine)
    ways = {rule.name: rule.allocate for rule in RULES.values() if resource in rule.resources}
    began = time.perf_counter()
    origins, lead_in, steps = held.schedule.origins, held.schedule.lead_in_steps, held.schedule.held_steps
    pasts = [Past(resource, values[:, max(0, o - lead_in) : o], float(STEP_S), held.use.provisioned) for o in origins]
    amounts = {name: np.stack([allocate(past) for past in pasts]) for name, allocate in ways.items()}
    rules_s = time.perf_counter() - began
    amounts[PLAIN] = np.stack([vpa_target(past, plain) for past in pasts])
    amounts["oracle"] = np.stack([tomorrows_maximum(values[:, o : o + steps]) for o in origins])
    began = time.perf_counter()
    points = [scored(held, Allocations(name, name, given)) for name, given in amounts.items()]
    return points, rules_s, time.perf_counter() - began


def report(resource: str, day: int, points: list[Point], prices: UnitPrices) -> None:
    counts, unavoidable = points[0].counts, points[0].figures.unavoidable_percent
    print(
        f"{resource} from day {day} on: {counts.counted} of {counts.windows} VM-days count; {counts.short_history} come after "
        f"too few days, {counts.few_measured} are measured for\nless than half. {unavoidable:.2f} % of the time is unavoidable"
        f"; {counts.overloaded_vms} VMs are above what they have in over 1 % of theirs: in brackets without them"
    )
    head = ("rule", "allocated", "said", "short", "said", "p95 VM", "worst", "resizes", "USD a month", "")
    print("{:22} {:>15} {:>6} {:>14} {:>6} {:>7} {:>6} {:>8} {:>12} {}".format(*head))
    rules = [point for point in points if point.rule in RULES]
    beaten = {point.rule for point, other in zip(rules, dominated(rules), strict=True) if other}
    for point in points:
        all_vms, steady = point.figures, point.steady
        said = SAID.get((resource, day), {}).get(point.rule)
        row = (
            point.rule,
            f"{all_vms.allocated_percent:.1f} ({steady.allocated_percent:.1f})",
            f"{said[0]:.1f}" if said else "",
            f"{all_vms.short_percent:.2f} ({steady.short_percent:.2f})",
            f"{said[1]:.2f}" if said else "",
            f"{all_vms.short_p95_percent:.1f}",
            f"{all_vms.short_worst_percent:.1f}",
            f"{all_vms.resizes_per_vm_week:.2f}",
            f"{cost(point, prices).allocated:,.0f}",
            "dominated" if point.rule in beaten else "",
        )
        print("{:22} {:>15} {:>6} {:>14} {:>6} {:>7} {:>6} {:>8} {:>12} {}".format(*row))


def differences(points: list[Point]) -> None:
    """How surely rules differ."""
    named = {point.rule: point for point in points}
    began = time.perf_counter()
    for ours, theirs in (("crane", "aws-compute-optimizer"), ("azure-14d", "krr"), ("vpa", "azure-14d")):
        got = bootstrap(named[ours].per_vm, named[theirs].per_vm, np.random.default_rng(1))
        print(
            f"{ours} less {theirs}: allocated {_interval(got.allocated)} points, short {_interval(got.short)}; "
            f"less in {got.chance_allocates_less:.0%} of the draws, less often short in {got.chance_short_less:.0%}"
        )
    curve = [named[name] for name in ("azure-14d", "crane", "peak")]
    for theirs in ("aws-compute-optimizer", "vpa"):
        same = better_at_same_risk(curve, named[theirs], np.random.default_rng(1))
        needed = f"{same.ours_percent:.1f} % against {same.theirs_percent:.1f} %, {_interval(same.of_theirs)} % of it"
        print(
            f"p95 x 1.3, Crane and peak as one curve, at the shortness of {theirs}: "
            f"{needed if same.reached else 'none of them is short so rarely'}"
        )
    print(f"{time.perf_counter() - began:.1f} s for these differences")


def hourly(use: MeasuredUse, midnight: int) -> None:
    """What scoring takes where sizes are set every hour, with sizes that never change."""
    hour = DAY // 24
    origins = origins_every(use.panel.values.shape[1], midnight + LEAD_IN_DAYS * DAY, hour)
    began = time.perf_counter()
    held = lay_out(use, Schedule(origins, hour, LEAD_IN_DAYS * DAY))
    laid_out_s = time.perf_counter() - began
    amounts = np.tile(percentile_of(use.panel.values[:, : int(origins[0])], 99) * 1.15, (len(origins), 1))
    began = time.perf_counter()
    scored(held, Allocations("once", "once and for all", amounts))
    print(f"{len(origins)} hourly origins: {laid_out_s:.2f} s to lay out, {time.perf_counter() - began:.2f} s a set of sizes\n")


def _interval(interval: object) -> str:
    low, estimate, high = (getattr(interval, name) for name in ("low", "estimate", "high"))
    return f"{estimate:+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    main()
