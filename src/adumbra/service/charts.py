"""Stored metrics for a page or a picture: the columns that are asked for, on a grid that is no finer than it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from adumbra.schema.errors import InputError, NotFoundError
from adumbra.schema.records import NANOSECONDS, Origin, Series, SeriesQuery
from adumbra.schema.units import format_duration
from adumbra.service import networks
from adumbra.service.networks import Network
from adumbra.service.workspace import Workspace

SHOWN: tuple[str, ...] = (
    "rx_bytes", "tx_bytes", "requests", "connections_attempted", "connections_active", "rtt_ms_p50", "response_ms_p99",
    "latency_ms_p99", "cpu_utilization", "cpu_seconds", "memory_bytes", "storage_bytes", "dropped_ratio", "missed_packets",
)  # fmt: skip
"""The columns that people look at first."""
MAX_VALUES = 1_000_000
"""The most values of one chart: columns, and one for `one_sided`, times VMs times steps."""
_LONGEST_NS = 2 * 3600 * NANOSECONDS  # an interval, or the cell of a roll-up, is an hour at most
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be shown. vms: () for all; start_ns, end_ns: None for all there is; step_s: None for one that makes
    about `points` steps; origin: of the emulated VMs or the real ones."""

    columns: tuple[str, ...] = SHOWN
    vms: tuple[str, ...] = ()
    start_ns: int | None = None
    end_ns: int | None = None
    step_s: float | None = None
    points: int = 300
    origin: Origin = Origin.SHADOW


def chart(workspace: Workspace, name: str, wanted: Wanted) -> Series:
    """Stored metrics of a network; of no VM where nothing is stored.

    Raises NotFoundError for a network or VM that isn't there, InputError for a step that isn't possible or too many values.
    """
    network = networks.get(workspace, name)
    vms = stored_vms(workspace, network, wanted.vms)
    span = workspace.metrics.span(name, wanted.origin) if vms else None
    start_ns, end_ns = within(span, wanted.start_ns, wanted.end_ns)
    if span is None or start_ns >= end_ns:
        return _nothing(wanted, name, start_ns)
    step_s = wanted.step_s
    if step_s is None:
        one = newest(workspace, network, vms[:1], end_ns, replace(wanted, columns=("rx_bytes",)))
        step_s = fitting_step_s(one.step_s, end_ns - start_ns, wanted)
    _check_size(wanted, vms, (end_ns - start_ns) / NANOSECONDS, step_s)
    return workspace.metrics.read(SeriesQuery(name, wanted.columns, vms, start_ns, end_ns, step_s, wanted.origin))


def latest(workspace: Workspace, name: str, wanted: Wanted) -> Series:
    """The newest interval of a network's metrics; of no VM where nothing is stored. Raises NotFoundError."""
    network = networks.get(workspace, name)
    vms = stored_vms(workspace, network, wanted.vms)
    span = workspace.metrics.span(name, wanted.origin) if vms else None
    if span is None:
        return _nothing(wanted, name, 0)
    return newest(workspace, network, vms, span[1], wanted)


def newest(workspace: Workspace, network: Network, vms: tuple[str, ...], end_ns: int, wanted: Wanted) -> Series:
    """The last interval that began before end_ns; of no steps where none did in the last two hours."""
    for back_ns in (network.spec.interval_ns, _LONGEST_NS):
        query = SeriesQuery(network.name, wanted.columns, vms, end_ns - back_ns, end_ns, None, wanted.origin)
        found = workspace.metrics.read(query)
        if found.steps:
            break
    last = max(found.steps - 1, 0)
    values = {column: each[:, last:] for column, each in found.values.items()}
    start_ns = found.start_ns + round(last * found.step_s * NANOSECONDS)
    return replace(found, start_ns=start_ns, values=values, one_sided=found.one_sided[:, last:])


def stored_vms(workspace: Workspace, network: Network, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Those asked for, or all, of which something is stored. Raises NotFoundError for one that isn't the network's."""
    stored = workspace.metrics.vms(network.name)
    if not asked:
        return stored
    known = {vm.name for vm in network.vms} | set(stored)
    for vm in asked:
        if vm not in known:
            told = ", ".join(each.name for each in network.vms[:8])
            raise NotFoundError(f"{network.name} has no VM {vm[:63]!r}", f"there are: {told}")
    there = set(stored)
    return tuple(vm for vm in dict.fromkeys(asked) if vm in there)


def within(span: tuple[int, int] | None, start_ns: int | None, end_ns: int | None) -> tuple[int, int]:
    """What is stored of the time between; nothing where it ends before it begins."""
    if span is None:
        return start_ns or 0, start_ns or 0
    first, last = span
    return max(first, start_ns if start_ns is not None else first), min(last, end_ns if end_ns is not None else last)


def fitting_step_s(interval_s: float, length_ns: int, wanted: Wanted) -> float:
    """The smallest step, a multiple of the stored interval, that gives no more than about `points` steps."""
    least_s = length_ns / NANOSECONDS / wanted.points
    interval_ns = round(interval_s * NANOSECONDS)
    if least_s <= interval_s:
        return interval_s
    for step_s in _STEPS_S:
        if step_s >= least_s and step_s * NANOSECONDS % interval_ns == 0:
            return float(step_s)
    return math.ceil(least_s / interval_s) * interval_s


def _check_size(wanted: Wanted, vms: tuple[str, ...], length_s: float, step_s: float) -> None:
    steps = length_s / max(step_s, 1e-3)
    values = steps * len(vms) * (len(wanted.columns) + 1)
    if values > MAX_VALUES:
        fitting = format_duration(step_s * math.ceil(values / MAX_VALUES))
        raise InputError(
            f"so many steps, VMs and columns are {values:,.0f} values, and {MAX_VALUES:,} is the most",
            f"ask for a step of {fitting} or longer, for fewer VMs or columns, or for less time",
        )


def _nothing(wanted: Wanted, name: str, start_ns: int) -> Series:
    none = np.empty((0, 0))
    return Series(name, (), start_ns, wanted.step_s or 1.0, dict.fromkeys(wanted.columns, none), none)
