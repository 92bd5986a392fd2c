"""Mends rows of measured use, and counts what it met in each VM: repeats, totals for rates, amounts beyond the machine's.

Pure: rows in, rows and counts out. The order of the rows it is given decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.records import NANOSECONDS, Floats, Ints
from adumbra.service.usage_columns import RATES, TOTALS
from adumbra.service.usage_table import Rows

ABSURD = 100.0
"""So many times what a machine has, no machine uses of it: such a value becomes a gap."""
TWICE = 2.0
BRIDGED_STEPS = 3.0
"""Two totals that lie further apart than so many of a VM's usual steps say nothing of any one step between."""
_LEAST_DIFFERENCES = 30


@dataclass(frozen=True, slots=True)
class VmFacts:
    """What was met in each VM, arrays of V. samples int64, times that are told; first_ns, last_ns int64 (0 where none);
    usual_s float64, the usual distance of two times, NaN for fewer than two; repeated int64, rows with a VM and time that
    another had; turned bool, its rows were out of order.
    """

    samples: Ints
    first_ns: Ints
    last_ns: Ints
    usual_s: Floats
    repeated: Ints
    turned: NDArray[np.bool_]


def one_row_a_time(rows: Rows) -> tuple[Rows, VmFacts]:
    """Rows of which no two have the same VM and time: of several values for one the largest stands, as a size that is made
    from it is then not too small, and as the order of rows, or of files, can't matter.
    """
    count = len(rows.vms)
    if not len(rows.code):
        nothing = np.zeros(count, np.int64)
        return rows, VmFacts(nothing, nothing, nothing, np.full(count, np.nan), nothing, np.zeros(count, np.bool_))
    same_vm = np.diff(rows.code) == 0
    later = same_vm & (np.diff(rows.row) < 0)
    turned = np.zeros(count, np.bool_)
    turned[rows.code[1:][later]] = True
    first = np.flatnonzero(np.concatenate(([True], ~same_vm | (np.diff(rows.time_ns) > 0))))
    repeated = np.bincount(rows.code, minlength=count) - np.bincount(rows.code[first], minlength=count)
    if len(first) < len(rows.code):
        columns = {name: np.fmax.reduceat(values, first) for name, values in rows.columns.items()}
        rows = replace(rows, code=rows.code[first], time_ns=rows.time_ns[first], row=rows.row[first], columns=columns)
    begins, ends = bounds(rows)
    some = ends > begins
    first_ns, last_ns = np.zeros(count, np.int64), np.zeros(count, np.int64)
    first_ns[some], last_ns[some] = rows.time_ns[begins[some]], rows.time_ns[ends[some] - 1]
    usual = np.array([usual_step_s(rows.time_ns[a:b]) for a, b in zip(begins, ends, strict=True)])
    return rows, VmFacts(ends - begins, first_ns, last_ns, usual, repeated, turned)


def sayings(repeated: int, turned: int, resets: Mapping[str, int]) -> Iterator[str]:
    """In words, what was mended: rows that repeat a VM and time, VMs out of order, totals and how often they began anew."""
    if repeated:
        yield f"{repeated:,} rows repeat a VM and time; the largest of each stands"
    if turned:
        yield f"the rows of {turned:,} VMs were out of order, and were sorted"
    for name, count in resets.items():
        yield f"{name} is a total: its differences are taken" + (f"; it began anew {count:,} times" if count else "")


def bounds(rows: Rows) -> tuple[Ints, Ints]:
    """int64[V] each: where each VM's rows begin and end."""
    vms = np.arange(len(rows.vms))
    return np.searchsorted(rows.code, vms, "left"), np.searchsorted(rows.code, vms, "right")


def usual_step_s(times_ns: Ints) -> float:
    """The usual distance of two times, to the millisecond; NaN where there is one only. Of two middle ones the smaller: gaps
    only lengthen.
    """
    if len(times_ns) < 2:
        return float("nan")
    apart = np.diff(times_ns)
    middle = (len(apart) - 1) // 2
    return round(float(np.partition(apart, middle)[middle]) / NANOSECONDS, 3)


def rates_of_totals(rows: Rows, usual_s: Floats) -> tuple[Rows, Mapping[str, int]]:
    """Totals turned into what was used a second from each row's time to the next one's; and, by column, how often a total
    fell: it had begun anew, and counts from 0. Where a rate is told as well, that one stands. Rows as of one_row_a_time.
    """
    columns, resets = dict(rows.columns), dict[str, int]()
    same_vm = np.diff(rows.code) == 0
    seconds = np.where(same_vm, np.diff(rows.time_ns) / NANOSECONDS, np.nan)
    seconds[seconds > BRIDGED_STEPS * usual_s[rows.code[1:]]] = np.nan
    for total, rate in TOTALS.items():
        if total not in columns:
            continue
        values = columns.pop(total)
        grown = np.diff(values)
        fell = grown < 0
        resets[total] = int((fell & np.isfinite(seconds)).sum())
        used = np.full(len(values), np.nan)
        used[:-1] = np.where(fell, values[1:], grown) / seconds
        told = columns.get(rate)
        columns[rate] = used if told is None else np.where(np.isnan(told), used, told)
    return replace(rows, columns=columns), resets


def looks_like_totals(rows: Rows) -> dict[str, tuple[int, int]]:
    """For each column of rates: how many VMs' values do nothing but grow (to begin anew now and then), and how many vary."""
    told = {}
    same_vm = np.diff(rows.code) == 0
    count = len(rows.vms)
    for name in RATES:
        if name not in rows.columns:
            continue
        grown = np.where(same_vm, np.diff(rows.columns[name]), np.nan)
        of = rows.code[1:]
        known = np.bincount(of[np.isfinite(grown)], minlength=count)
        up, down = np.bincount(of[grown > 0], minlength=count), np.bincount(of[grown < 0], minlength=count)
        varies = (known >= _LEAST_DIFFERENCES) & (up + down > 0)
        only_grows = varies & (2 * up >= known) & (100 * down <= known)
        told[name] = int(only_grows.sum()), int(varies.sum())
    return told


@dataclass(frozen=True, slots=True)
class Beyond:
    """Of one column against what was provisioned, int64[V] each: values that are known, above it, above twice of it, and
    absurd ones; largest float64[V], NaN where nothing is known.
    """

    known: Ints
    above: Ints
    above_twice: Ints
    absurd: Ints
    largest: Floats


def within_machine(rows: Rows, column: str, provisioned: Floats) -> tuple[Rows, Beyond]:
    """Rows in which what is absurd beside what a VM has (float64[V], NaN: not told) is a gap; and the counts."""
    values, count = rows.columns[column], len(rows.vms)
    has = provisioned[rows.code]
    known, absurd = np.isfinite(values), values > ABSURD * has

    def counted(which: NDArray[np.bool_]) -> Ints:
        return np.bincount(rows.code[which], minlength=count)

    beyond = Beyond(
        counted(known), counted(values > has), counted(values > TWICE * has), counted(absurd), largest_of(rows, values)
    )
    if absurd.any():
        rows = replace(rows, columns={**rows.columns, column: np.where(absurd, np.nan, values)})
    return rows, beyond


def largest_of(rows: Rows, values: Floats) -> Floats:
    """Each VM's largest value, float64[V]; NaN where none is known."""
    largest = np.full(len(rows.vms), np.nan)
    np.fmax.at(largest, rows.code, values)
    return largest


@dataclass(frozen=True, slots=True)
class Provision:
    """What each VM was told to have. largest float64[V], NaN where nothing above 0 was told; zeros int64[V], rows that told 0
    of a VM; changed bool[V], several amounts above 0 were told.
    """

    largest: Floats
    zeros: Ints
    changed: NDArray[np.bool_]


def provision_of(rows: Rows, column: str) -> Provision:
    """A VM has what it was told to have at most: a 0 is a defect, and what it was before it grew bounds nothing later."""
    count = len(rows.vms)
    if column not in rows.columns:
        return Provision(np.full(count, np.nan), np.zeros(count, np.int64), np.zeros(count, np.bool_))
    values = rows.columns[column]
    real = np.where(values > 0, values, np.nan)
    least = np.full(count, np.nan)
    np.fmin.at(least, rows.code, real)
    largest = largest_of(rows, real)
    zeros = np.bincount(rows.code[values == 0], minlength=count)
    return Provision(largest, zeros, least < largest * 0.999)
