"""Fits rows of measured use to the intervals of what was observed: rows that are finer are merged. Pure; reads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from adumbra.schema.records import NANOSECONDS, Floats, Ints

_ALIKE = 1e-3  # lengths that differ by less, as a share, are one


@dataclass(frozen=True, slots=True)
class MeasuredVm:
    """What was measured of a VM: use of a row is the mean over [start_ns, start_ns + length_s); resource -> float64[n], NaN:
    not measured. start_ns int64[n], increasing by length_s at least. core_speed: of one of the cores that it was measured on,
    in reference cores; these needn't be those that the VM is declared with.
    """

    vm: str
    start_ns: Ints
    length_s: float
    used: Mapping[str, Floats]
    core_speed: float = 1.0


def at_least(measured: MeasuredVm, interval_s: float) -> MeasuredVm:
    """The same in rows of an interval's length at least, as nothing finer was observed: so many rows in one, their mean.

    Where the interval is a multiple of the rows' length, those are merged that begin nearest to where an interval does. A
    merged row begins where its first one does; one in which a row or a value is missing has none.
    """
    together = math.ceil(interval_s / measured.length_s * (1 - _ALIKE))
    if together <= 1 or not len(measured.start_ns):
        return measured
    row_ns, interval_ns = round(measured.length_s * NANOSECONDS), round(interval_s * NANOSECONDS)
    first_ns = int(measured.start_ns[0])
    whole = abs(together * row_ns - interval_ns) <= _ALIKE * interval_ns
    merged_ns = interval_ns if whole else together * row_ns
    origin_ns = first_ns - first_ns % interval_ns if whole else first_ns
    # A row that begins a little early belongs where its middle lies.
    place = (measured.start_ns + row_ns // 2 - origin_ns) // merged_ns
    _, first, at = np.unique(place, return_index=True, return_inverse=True)
    used = {}
    for name, values in measured.used.items():
        known = np.bincount(at, ~np.isnan(values), len(first))
        sums = np.bincount(at, np.nan_to_num(values), len(first))
        used[name] = np.where(known == together, sums / together, np.nan)
    return replace(measured, start_ns=measured.start_ns[first], length_s=merged_ns / NANOSECONDS, used=used)


def shares(start_ns: Ints, interval_ns: int, rows_ns: Ints, length_ns: int) -> tuple[Ints, Ints, Floats]:
    """Which intervals lie in which rows, and with what share of their length: interval int64[m], row int64[m], float64[m].

    start_ns, rows_ns: beginnings, increasing. An interval that lies in several rows is shared out.
    """
    first = np.searchsorted(rows_ns + length_ns, start_ns, side="right")
    interval, row, share = [], [], []
    everyone = np.arange(len(start_ns))
    for further in range(2 + interval_ns // length_ns if len(rows_ns) else 0):
        at = first + further
        there = at < len(rows_ns)
        begins = rows_ns[np.minimum(at, len(rows_ns) - 1)]
        overlap = np.minimum(start_ns + interval_ns, begins + length_ns) - np.maximum(start_ns, begins)
        there &= overlap > 0
        interval.append(everyone[there])
        row.append(at[there])
        share.append(overlap[there] / interval_ns)
    nothing = np.zeros(0, np.int64)
    return (
        np.concatenate(interval or [nothing]), np.concatenate(row or [nothing]), np.concatenate(share or [np.zeros(0)]),
    )  # fmt: skip
