"""Stored traffic once more: a network's kept counts as intervals, for emulated VMs to be carried through again. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from adumbra.emulate.arrivals import ArrivalProcess, fit_arrivals
from adumbra.emulate.demand import NEEDED, SCANS
from adumbra.emulate.vm import EmulatedVm
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.metrics import BY_NAME, Rollup
from adumbra.schema.records import NANOSECONDS, Intervals, Requests, Series, SeriesQuery
from adumbra.store.grid import MAX_CELLS
from adumbra.store.protocol import MetricStore

COLUMNS: tuple[str, ...] = tuple(dict.fromkeys((*NEEDED, *SCANS, "requests", "peers")))
"""What emulation follows from."""
_FIT_S = 6 * 3600.0  # how much of the stored time says how bursty requests are
_VMS_AT_ONCE = 200
NO_REQUESTS = Requests(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.bool_))


class Stored(Protocol):
    """Where metrics are read from: a workspace, or what a tap has of its server."""

    @property
    def metrics(self) -> MetricStore: ...


def span(workspace: Stored, name: str, last_s: float | None = None) -> tuple[int, int]:
    """The beginning and end of what is stored of a network, or of its last so many seconds.

    Raises TooLittleDataError where nothing is.
    """
    found = workspace.metrics.span(name)
    if found is None:
        raise TooLittleDataError(f"nothing of {name} was observed yet", f"run `adumbra observe {name} pcap:FILE`")
    start_ns, end_ns = found
    return (start_ns if last_s is None else max(start_ns, end_ns - round(last_s * NANOSECONDS))), end_ns


def replay(
    workspace: Stored, name: str, vms: Sequence[str], between: tuple[int, int], factor: float = 1.0
) -> Iterator[Intervals]:
    """The stored intervals of some VMs, in order, with `factor` times the traffic. When requests came within an interval isn't
    stored: the emulator draws that.
    """
    start_ns, end_ns = between
    first = workspace.metrics.read(SeriesQuery(name, ("rx_bytes",), tuple(vms[:1]), start_ns, end_ns))
    step_ns = round(first.step_s * NANOSECONDS)
    steps = max(1, MAX_CELLS // 4 // (len(vms) * (len(COLUMNS) + 1)))
    for begin in range(start_ns, end_ns, steps * step_ns):
        query = SeriesQuery(name, COLUMNS, tuple(vms), begin, min(begin + steps * step_ns, end_ns), first.step_s)
        found = intervals_of(workspace.metrics.read(query))
        if len(found):
            yield scaled(found, factor) if factor != 1.0 else found


def with_arrivals(workspace: Stored, name: str, vms: Sequence[EmulatedVm]) -> tuple[EmulatedVm, ...]:
    """The VMs, with requests whose times aren't known coming as burstily as their stored counts of the last hours did."""
    known = set(workspace.metrics.vms(name))
    stored = [vm.name for vm in vms if vm.name in known]
    if not stored:
        return tuple(vms)
    _, end_ns = span(workspace, name)
    fitted: dict[str, ArrivalProcess] = {}
    for first in range(0, len(stored), _VMS_AT_ONCE):
        some = tuple(stored[first : first + _VMS_AT_ONCE])
        query = SeriesQuery(name, ("requests",), some, end_ns - round(_FIT_S * NANOSECONDS), end_ns)
        series = workspace.metrics.read(query)
        fitted |= dict(zip(some, fit_arrivals(series.values["requests"], series.step_s), strict=True))
    return tuple(replace(vm, arrivals=fitted.get(vm.name, vm.arrivals)) for vm in vms)


def intervals_of(series: Series) -> Intervals:
    """A series' steps in which anything was stored, as intervals. A VM of which nothing was stored then had no traffic."""
    there = ~np.isnan(series.one_sided).all(axis=0)
    step_ns = round(series.step_s * NANOSECONDS)
    start_ns = series.start_ns + np.flatnonzero(there).astype(np.int64) * step_ns
    columns = {name: np.ascontiguousarray(values[:, there].T) for name, values in series.values.items()}
    one_sided = np.nan_to_num(series.one_sided[:, there].T) > 0.5
    return Intervals(step_ns, start_ns, columns, one_sided, NO_REQUESTS)


def scaled(intervals: Intervals, factor: float) -> Intervals:
    """The same with `factor` times the traffic: every count of it, and what is open or there at once."""
    kept = {Rollup.MEAN}
    grown = {
        name: values if BY_NAME[name].rollup in kept else np.asarray(values, np.float64) * factor
        for name, values in intervals.columns.items()
    }
    return replace(intervals, columns=grown)
