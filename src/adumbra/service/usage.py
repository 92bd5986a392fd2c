"""Reads usage files for the VMs of a network: what was measured of each, one row a VM and time, as CSV or Parquet.

Mends what can be, and says so. Decides nothing about what is read; sends nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Floats, Ints
from adumbra.service.usage_cleaning import bounds, one_row_a_time, rates_of_totals, sayings
from adumbra.service.usage_columns import listed
from adumbra.service.usage_csv import HOW
from adumbra.service.usage_table import UsageTable

MAX_ROWS = 5_000_000


@dataclass(frozen=True, slots=True)
class UsageVm:
    """What was measured of one VM. time_ns int64[n], increasing; each value is for [time, time + length_s), the usual distance
    of two times; columns: name -> float64[n], NaN where nothing was told.
    """

    vm: str
    time_ns: Ints
    length_s: float
    columns: Mapping[str, Floats]

    @property
    def end_ns(self) -> int:
        return int(self.time_ns[-1]) + round(self.length_s * NANOSECONDS)


@dataclass(frozen=True, slots=True)
class Usage:
    """What was measured, from a file or a server. `notes`: in words, what was mended or left out."""

    source: str
    vms: tuple[UsageVm, ...]
    notes: tuple[str, ...] = ()


def read_usage(path: Path, known: Mapping[str, str]) -> Usage:
    """The usage of known VMs: `known` has the VM's name for each name or address by which a file may call it.

    CSV (plain, gzip or zstd) or Parquet, told by its content. Rows in any order; of two with the same VM and time the larger
    stands; times without a zone are UTC; epoch times in ms, us or ns are told by their size. Raises InputError with file,
    line (row), what, and how to mend it.
    """
    with UsageTable(str(path), [path], MAX_ROWS) as table:
        table.add_file(path)
        return usage_of(table, known)


def usage_of(table: UsageTable, known: Mapping[str, str]) -> Usage:
    """What a table tells of known VMs. Raises InputError where that is nothing."""
    if not table.found.rows:
        raise InputError(f"{table.source} has no rows", HOW)
    counts = table.names(known)
    unknown, unknown_rows = table.unknown()
    if not counts:
        raise InputError(
            f"{table.source} has no row of a VM of this network (it has {listed(unknown)})",
            f"call them as the network does: {listed(dict.fromkeys(known.values()))}",
        )
    vms: list[UsageVm] = []
    repeated = turned = 0
    fell: dict[str, int] = {}
    for batch in table.batches(counts, table.columns):
        rows, facts = one_row_a_time(batch)
        rows, resets = rates_of_totals(rows, facts.usual_s)
        repeated, turned = repeated + int(facts.repeated.sum()), turned + int(facts.turned.sum())
        fell |= {name: fell.get(name, 0) + count for name, count in resets.items()}
        for vm, a, b, usual_s in zip(rows.vms, *bounds(rows), facts.usual_s, strict=True):
            columns = {name: values[a:b] for name, values in rows.columns.items()}
            vms.append(UsageVm(vm, rows.time_ns[a:b], float(np.nan_to_num(usual_s)), columns))
    notes = [*table.notes(), *sayings(repeated, turned, fell)]
    if unknown:
        notes.append(f"{unknown_rows:,} rows are of machines that the network doesn't have: {listed(unknown)}")
    return Usage(table.source, tuple(vms), tuple(notes))
