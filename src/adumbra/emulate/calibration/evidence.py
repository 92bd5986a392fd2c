"""Brings together what was observed of VMs and what was measured of them: rows of counts, each beside its use.

Takes intervals piece by piece and keeps sums only, so that a month fits in memory. Fits nothing, reads no store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.emulate.demand import demand_table, load_of
from adumbra.emulate.vm import EmulatedVm
from adumbra.schema.calibration import COSTS, HOLDINGS
from adumbra.schema.records import NANOSECONDS, Floats, Intervals, Ints

_COVERED = 0.999  # of a row's time that must have been watched


@dataclass(frozen=True, slots=True)
class MeasuredVm:
    """What was measured of a VM: use of a row is the mean over [start_ns, start_ns + length_s); resource -> float64[n], NaN:
    not measured. start_ns int64[n], increasing by length_s at least.
    """

    vm: str
    start_ns: Ints
    length_s: float
    used: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows of one VM. counts: float64[n, COSTS], what each cost of CPU is paid for over the row, in its unit; works:
    float64[n], requests; holdings: float64[n, HOLDINGS], means over the row; used: NaN where a row can't be used; offered:
    rows that were measured.
    """

    vm: str
    start_ns: Ints
    length_s: float
    counts: Floats
    works: Floats
    holdings: Floats
    used: Mapping[str, Floats]
    offered: int


class Gathering:
    """Sums intervals, given in order, into the rows of what was measured. Raises ValueError for a VM that isn't emulated."""

    def __init__(self, vms: Sequence[EmulatedVm], measured: Sequence[MeasuredVm]) -> None:
        at = {vm.name: place for place, vm in enumerate(vms)}
        missing = [each.vm for each in measured if each.vm not in at]
        if missing:
            raise ValueError(f"there is no emulated VM {missing[0]}; give measurements of those that there are")
        self._vms = tuple(vms)
        self._table = demand_table([vm.prior for vm in vms])
        self._rows = [_Rows(each, at[each.vm], self._vms[at[each.vm]]) for each in measured]
        self._holdings = _Holdings(self._vms)

    def add(self, intervals: Intervals) -> None:
        """The next intervals: columns [k, V] of all VMs, in the order in which they were given."""
        asked = np.nan_to_num(np.asarray(intervals.columns["requests"], np.float64))
        load = load_of(intervals, np.rint(np.clip(asked, 0, 1e15)).astype(np.int64), self._table)
        seconds = np.full(load.shape, intervals.interval_ns / NANOSECONDS)
        counts = np.stack(
            [
                seconds, load["connections"], load["requests"], load["rx_bytes"], load["tx_bytes"],
                load["rx_packets"] + load["tx_packets"], load["wakes"],
            ],
            axis=-1,
        )  # fmt: skip
        held = self._holdings.follow(intervals, load)
        for rows in self._rows:
            place = rows.place
            unsure = intervals.one_sided[:, place] & (load["rx_bytes"][:, place] > 0)
            rows.add(intervals.start_ns, counts[:, place], load["requests"][:, place], held[:, place], unsure)

    def evidence(self) -> tuple[Evidence, ...]:
        """The rows of each VM that was measured, in the order in which they were given."""
        return tuple(rows.evidence() for rows in self._rows)


class _Rows:
    """The sums of one VM's rows."""

    def __init__(self, measured: MeasuredVm, place: int, vm: EmulatedVm) -> None:
        self.place = place
        self._measured = measured
        size = len(measured.start_ns)
        self._length_ns = round(measured.length_s * NANOSECONDS)
        self._counts = np.zeros((size, len(COSTS)))
        self._held = np.zeros((size, len(HOLDINGS)))
        self._works, self._seen_s, self._unsure = np.zeros(size), np.zeros(size), np.zeros(size)
        # Costs are seconds on a reference core; the machine's are shorter by its speed. At rest it is cores that are told.
        self._per = np.array([1.0, *(1.0 / vm.core_speed for _ in COSTS[1:])])

    def add(self, start_ns: Ints, counts: Floats, works: Floats, held: Floats, unsure: np.ndarray) -> None:
        begins = self._measured.start_ns
        row = np.searchsorted(begins, start_ns, side="right") - 1
        inside = (
            (row >= 0) & (start_ns - begins[np.maximum(row, 0)] < self._length_ns) if len(begins) else np.zeros(len(row), bool)
        )
        row, seconds = row[inside], counts[inside, 0]
        np.add.at(self._counts, row, counts[inside] * self._per)
        np.add.at(self._held, row, held[inside] * seconds[:, None])
        np.add.at(self._works, row, works[inside])
        np.add.at(self._seen_s, row, seconds)
        np.add.at(self._unsure, row, unsure[inside])

    def evidence(self) -> Evidence:
        measured = self._measured
        known = (self._seen_s >= _COVERED * measured.length_s) & (self._unsure == 0)
        used = {name: np.where(known, values, np.nan) for name, values in measured.used.items()}
        held = self._held / np.maximum(self._seen_s, 1e-9)[:, None]
        offered = int(sum((~np.isnan(values)).sum() for values in measured.used.values()))
        return Evidence(measured.vm, measured.start_ns, measured.length_s, self._counts, self._works, held, used, offered)


class _Holdings:
    """What memory is held for, followed through time: connections, whose memory is given back slowly, clients that are
    remembered, and what was asked for before. The law is that of the emulated VM's memory.
    """

    def __init__(self, vms: Sequence[EmulatedVm]) -> None:
        def of(name: str) -> Floats:
            return np.array([getattr(vm.prior.memory, name) for vm in vms], np.float64)

        self._release_s, self._session_s = of("release_s"), of("session_s")
        self._cache_bytes, self._fresh_bytes = of("cache_bytes"), of("cache_request_bytes")
        self._open, self._there, self._gone, self._asked = (np.zeros(len(vms)) for _ in range(4))
        self._end_ns: int | None = None

    def follow(self, intervals: Intervals, load: np.ndarray) -> Floats:
        """float64[k, V, HOLDINGS]."""
        out = np.ones((*load.shape, len(HOLDINGS)))
        told = intervals.columns.get("peers")
        peers = np.zeros(load.shape) if told is None else np.nan_to_num(np.asarray(told, np.float64))
        for step, start_ns in enumerate(intervals.start_ns.tolist()):
            elapsed_s = (start_ns + intervals.interval_ns - (self._end_ns or start_ns)) / NANOSECONDS
            self._end_ns = start_ns + intervals.interval_ns
            now = load["connections_held"][step]
            self._open = now + np.maximum(self._open - now, 0.0) * _kept(elapsed_s, self._release_s)
            left = np.maximum(self._there - peers[step], 0.0)
            back = np.maximum(peers[step] - self._there, 0.0)
            self._gone = np.maximum(self._gone * _kept(elapsed_s, self._session_s) - back, 0.0) + left
            self._there = peers[step]
            self._asked = self._asked + load["requests"][step]
            out[step, :, 1] = self._open
            out[step, :, 2] = np.where(self._session_s > 0, self._there + self._gone, 0.0)
            out[step, :, 3] = self._fresh()
        return out

    def _fresh(self) -> Floats:
        """Requests that weren't seen before, by the prior's figures: the cache's content over what each leaves in it."""
        there = (self._cache_bytes > 0) & (self._fresh_bytes > 0)
        room = self._cache_bytes / np.where(there, self._fresh_bytes, 1.0)
        return np.asarray(np.where(there, room * -np.expm1(-self._asked / np.where(there, room, 1.0)), 0.0))


def _kept(elapsed_s: float, over_s: Floats) -> Floats:
    """The share that is still there after so long, of what goes over a time; nothing where that is 0."""
    return np.asarray(np.where(over_s > 0, np.exp(-elapsed_s / np.where(over_s > 0, over_s, 1.0)), 0.0))
