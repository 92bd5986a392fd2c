"""Finds which stored rows lie in the time of a batch's rows, and says how they are removed. Pure: asks no server."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.records import Ints, MetricBatch
from adumbra.store import influxql
from adumbra.store.influxql import Table
from adumbra.store.lines import interval_ns, untag

VMS_NAMED = 100
"""How many VMs a condition names at most."""
ROWS_AT_ONCE = 200_000
"""About how many rows an answer has at most."""


@dataclass(frozen=True, slots=True)
class StoredRows:
    """n stored rows: the places of their VMs in the batch, starts and lengths in ns, int64[n] each; all VMs that were seen."""

    vm: Ints
    start_ns: Ints
    length_ns: Ints
    seen: frozenset[str]


@dataclass(frozen=True, slots=True)
class Overlap:
    """met: how many of the batch's rows meet a stored one. conditions: those of the statements that remove what is met."""

    met: int
    conditions: tuple[tuple[str, ...], ...]


def time_parts(batch: MetricBatch, before_ns: int, after_ns: int, rows: int = ROWS_AT_ONCE) -> Iterator[tuple[int, int]]:
    """Consecutive stretches of time with about so many rows of the batch each.

    From before_ns ahead of its first start to after_ns behind its last.
    """
    at_once = max(1, rows // max(1, len(batch.vms)))
    bounds = [*batch.start_ns[::at_once].tolist(), int(batch.start_ns[-1]) + after_ns]
    bounds[0] -= before_ns
    return itertools.pairwise(bounds)


def named(vms: Sequence[str]) -> list[str]:
    """The condition that a point is of one of these VMs; none where they are many, as more are told then than are asked for."""
    return [influxql.any_of("vm", vms)] if len(vms) <= VMS_NAMED else []


def stored_rows(tables: Iterable[Table], vms: Sequence[str]) -> StoredRows:
    """The rows of these VMs in tables by `vm` and `interval`."""
    place = {vm: number for number, vm in enumerate(vms)}
    seen, found = set[str](), [(np.zeros(0, np.int64),) * 3]
    for table in tables:
        vm, times = untag(table.tags["vm"]), table.time_ns
        seen.add(vm)
        if vm in place:
            of_all = np.full((2, len(times)), [[place[vm]], [interval_ns(table.tags["interval"])]])
            found.append((of_all[0], times, of_all[1]))
    vm_at, start_ns, length_ns = (np.concatenate(each) for each in zip(*found, strict=True))
    return StoredRows(vm_at, start_ns, length_ns, frozenset(seen))


def find_overlap(batch: MetricBatch, stored: StoredRows, length_ns: int) -> Overlap:
    """What of the stored rows the batch's, each of length_ns, take the place of."""
    first = np.searchsorted(batch.start_ns + length_ns, stored.start_ns, side="right")
    end = np.searchsorted(batch.start_ns, stored.start_ns + stored.length_ns, side="left")
    met = first < end
    edges = np.zeros((len(batch) + 1, len(batch.vms)), np.int32)
    np.add.at(edges, (first[met], stored.vm[met]), 1)
    np.add.at(edges, (end[met], stored.vm[met]), -1)
    rows = int(np.count_nonzero(np.cumsum(edges, axis=0)[:-1]))
    return Overlap(rows, tuple(_conditions(batch.vms, stored, met)) if rows else ())


def _conditions(vms: Sequence[str], stored: StoredRows, met: NDArray[np.bool_]) -> Iterator[tuple[str, ...]]:
    """Of each stretch of a VM's time in which all stored rows are met one; of VMs with the same stretches together."""
    alike = defaultdict[tuple[tuple[int, int], ...], list[str]](list)
    for vm, found in _stretches(stored, met).items():
        alike[tuple(found)].append(vms[vm])
    for stretches, names in alike.items():
        everyone = len(alike) == 1 and stored.seen.issubset(names) and len(names) > VMS_NAMED
        of_vms = [[]] if everyone else [named(group) for group in influxql.in_groups(names, VMS_NAMED)]
        for first_ns, last_ns in stretches:
            for chosen in of_vms:
                yield (*chosen, *influxql.within(first_ns, last_ns + 1))


def _stretches(stored: StoredRows, met: NDArray[np.bool_]) -> dict[int, list[tuple[int, int]]]:
    """By VM, the starts of the first and last row of each such stretch."""
    order = np.lexsort((stored.start_ns, stored.vm))
    vm, start_ns, met = stored.vm[order], stored.start_ns[order], met[order]
    new = np.ones(len(vm), np.bool_)
    new[1:] = (vm[1:] != vm[:-1]) | (met[1:] != met[:-1])
    begins = np.flatnonzero(new)
    ends = np.append(begins[1:], len(vm))
    found = defaultdict[int, list[tuple[int, int]]](list)
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if met[begin]:
            found[int(vm[begin])].append((int(start_ns[begin]), int(start_ns[end - 1])))
    return found
