"""Brings together what was observed of VMs and what was measured of them: rows of counts, each beside its use.

Takes intervals piece by piece and keeps sums only, so that a month fits in memory. Fits nothing, reads no store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate.calibration.rows import MeasuredVm, at_least, shares
from adumbra.emulate.demand import demand_table, load_of
from adumbra.emulate.layout import STATE
from adumbra.emulate.memory_kernels import hold
from adumbra.emulate.vm import EmulatedVm
from adumbra.schema.calibration import COSTS, HOLDINGS
from adumbra.schema.records import NANOSECONDS, Floats, Intervals, Ints

_COVERED = 0.999  # of a row's time that must have been watched; more than all of it can't have been


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows of one VM. counts: float64[n, COSTS], what each cost of CPU is paid for over the row, in its unit; works:
    float64[n], requests; holdings: float64[n, HOLDINGS], means over the row; used: of the resources that were measured at all,
    NaN where a row can't be used; watched_s: float64[n], how much of the row was observed; one_sided: bool[n], whether only one
    side was in some of that.
    """

    vm: str
    start_ns: Ints
    length_s: float
    counts: Floats
    works: Floats
    holdings: Floats
    used: Mapping[str, Floats]
    watched_s: Floats
    one_sided: NDArray[np.bool_]

    def part(self, chosen: NDArray[np.bool_]) -> Evidence:
        """Some of the rows."""
        return replace(
            self, start_ns=self.start_ns[chosen], counts=self.counts[chosen], works=self.works[chosen],
            holdings=self.holdings[chosen], used={name: values[chosen] for name, values in self.used.items()},
            watched_s=self.watched_s[chosen], one_sided=self.one_sided[chosen],
        )  # fmt: skip


class Gathering:
    """Sums intervals, given in order, into the rows of what was measured. Raises ValueError for a VM that isn't emulated."""

    def __init__(self, vms: Sequence[EmulatedVm], measured: Sequence[MeasuredVm]) -> None:
        at = {vm.name: place for place, vm in enumerate(vms)}
        missing = [each.vm for each in measured if each.vm not in at]
        if missing:
            raise ValueError(f"there is no emulated VM {missing[0]}; give measurements of those that there are")
        self._vms = tuple(vms)
        self._table = demand_table([vm.prior for vm in vms])
        self._measured = [(_told(each), at[each.vm]) for each in measured]
        self._rows: list[_Rows] | None = None
        self._holdings = _Holdings(self._vms)

    def add(self, intervals: Intervals) -> None:
        """The next intervals, all of one length: columns [k, V] of all VMs, in the order in which they were given."""
        if self._rows is None:
            interval_s = intervals.interval_ns / NANOSECONDS
            self._rows = [_Rows(at_least(each, interval_s), place) for each, place in self._measured]
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
            rows.add(intervals, counts[:, place], load["requests"][:, place], held[:, place], unsure)

    def evidence(self) -> tuple[Evidence, ...]:
        """The rows of each VM that was measured, in the order in which they were given."""
        rows = [_Rows(each, place) for each, place in self._measured] if self._rows is None else self._rows
        return tuple(each.evidence() for each in rows)


def _told(measured: MeasuredVm) -> MeasuredVm:
    """The same without the resources of which nothing was measured."""
    return replace(measured, used={name: values for name, values in measured.used.items() if not np.isnan(values).all()})


class _Rows:
    """The sums of one VM's rows."""

    def __init__(self, measured: MeasuredVm, place: int) -> None:
        self.place = place
        self._measured = measured
        size = len(measured.start_ns)
        self._length_ns = round(measured.length_s * NANOSECONDS)
        self._counts = np.zeros((size, len(COSTS)))
        self._held = np.zeros((size, len(HOLDINGS)))
        self._works, self._seen_s, self._unsure = np.zeros(size), np.zeros(size), np.zeros(size)
        # Costs are seconds on a reference core; on those measured work is shorter by their speed. At rest, cores are told.
        self._per = np.array([1.0, *(1.0 / measured.core_speed for _ in COSTS[1:])])

    def add(self, intervals: Intervals, counts: Floats, works: Floats, held: Floats, unsure: np.ndarray) -> None:
        at, row, share = shares(intervals.start_ns, intervals.interval_ns, self._measured.start_ns, self._length_ns)
        seconds = counts[at, 0] * share
        np.add.at(self._counts, row, counts[at] * self._per * share[:, None])
        np.add.at(self._held, row, held[at] * seconds[:, None])
        np.add.at(self._works, row, works[at] * share)
        np.add.at(self._seen_s, row, seconds)
        np.add.at(self._unsure, row, unsure[at])

    def evidence(self) -> Evidence:
        measured, unsure = self._measured, self._unsure > 0
        known = (self._seen_s >= _COVERED * measured.length_s) & ~unsure
        used = {name: np.where(known, values, np.nan) for name, values in measured.used.items()}
        held = self._held / np.maximum(self._seen_s, 1e-9)[:, None]
        return Evidence(
            measured.vm, measured.start_ns, measured.length_s, self._counts, self._works, held, used, self._seen_s, unsure
        )


class _Holdings:
    """What memory is held for, followed through time by the emulated VM's own law (memory_kernels.py), with the figures of the
    prior for how long and how much at most. Of a role that keeps nothing for its clients, these count for nothing.
    """

    def __init__(self, vms: Sequence[EmulatedVm]) -> None:
        self._memory = [vm.prior.memory for vm in vms]
        self._state = np.zeros(len(vms), STATE)
        self._asked = np.zeros(len(vms))
        self._end_ns: int | None = None

    def follow(self, intervals: Intervals, load: np.ndarray) -> Floats:
        """float64[k, V, HOLDINGS]."""
        out = np.empty((load.shape[1], len(intervals), len(HOLDINGS)))
        ends = intervals.start_ns + intervals.interval_ns
        first = intervals.start_ns[:1] if self._end_ns is None else [self._end_ns]
        elapsed_ns = np.diff(ends, prepend=first).astype(np.float64)
        self._end_ns = int(ends[-1]) if len(ends) else self._end_ns
        columns = ("connections_held", "peers", "requests")
        for place, memory in enumerate(self._memory):
            came = (np.ascontiguousarray(load[name][:, place]) for name in columns)
            kept_ns = memory.release_s * NANOSECONDS, memory.session_s * NANOSECONDS
            held = (self._state[place], self._asked[place], elapsed_ns, *came, *kept_ns, memory.cache_requests)
            self._asked[place] = hold(*held, out[place])
            if not memory.session_bytes and not memory.session_s:
                out[place, :, 2] = 0.0
        return out.transpose(1, 0, 2)
