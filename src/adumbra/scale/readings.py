"""Turns counters of real machines, read at some moments, into closed intervals on the network's grid. Pure: no clock, no store.

It stands in scale/, not in provision/: providers tell counters as they stand, and know nothing of grids; what becomes of these
is the live network's business, whoever made its machines.

A counter at a grid's edge between two readings lies on the line between them, in whole units, so that intervals add up to what
was counted, whenever it was read. Detail finer than the distance of readings is not there: compare on a coarser grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from adumbra.schema.live import MachineReading
from adumbra.schema.metrics import BY_NAME
from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin

LONGEST_S = 60.0
"""Readings further apart begin anew: what happened between them isn't known well enough to be spread over intervals."""
LINK_HEADER_BYTES = 14
"""What an Ethernet frame has before its IP packet (IEEE 802.3): hypervisors count it, the catalogue's bytes don't have it."""
COLUMNS: tuple[str, ...] = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "cpu_utilization", "cpu_seconds", "memory_bytes", "storage_bytes",
    "storage_ops", "dropped_ratio",
)  # fmt: skip
"""What readings tell of the catalogue's columns."""
_LATEST_NS = 2**62
_MOST = 2**63 - 1

Counters = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Followed:
    """Whose machines are followed. interval_ns: the network's grid, multiples of it since the epoch, as its shadow's rows have;
    vms: name -> its subnet and role; source: who reads them.
    """

    network: str
    interval_ns: int
    vms: Mapping[str, tuple[str, str]]
    source: str
    longest_s: float = LONGEST_S


@dataclass(slots=True)
class Tally:
    """What became of readings. rows: intervals of VMs that were closed; anew: how often a machine was begun with anew, as it
    was started again, or read too seldom; late: readings older than one before them; odd: counters that went
    backwards within a run, or that no machine has; strangers: readings of machines that aren't the network's.
    """

    rows: int = 0
    anew: int = 0
    late: int = 0
    odd: int = 0
    strangers: int = 0


@dataclass(slots=True)
class _Machine:
    """What is remembered of a machine: its last reading, and its counters at the last edge that was passed since it was begun
    with (edge_ns None: none yet; a counter that isn't known there is missing)."""

    last: MachineReading
    counters: Counters
    edge_ns: int | None = None
    at_edge: Counters = field(default_factory=dict)


Row = dict[str, float]


class Follower:
    """Follows the machines of one network. What it holds is bounded by the number of its VMs."""

    def __init__(self, followed: Followed) -> None:
        if followed.interval_ns <= 0:
            raise ValueError(f"intervals of {followed.interval_ns} ns")
        self.followed = followed
        self.tally = Tally()
        self._machines: dict[str, _Machine] = {}

    def add(self, readings: Iterable[MachineReading]) -> tuple[MetricBatch, ...]:
        """The intervals that these readings close, as batches of VMs that close the same ones. readings: of one moment, each
        machine that runs once; one that is missing is begun with anew when it comes again, so that its time is a gap.
        """
        closed: dict[str, dict[int, Row]] = {}
        seen: set[str] = set()
        for reading in readings:
            if reading.vm not in self.followed.vms:
                self.tally.strangers += 1
            elif reading.vm not in seen and self._is_possible(reading):
                seen.add(reading.vm)
                rows = self._follow(reading)
                if rows:
                    closed[reading.vm] = rows
        for gone in self._machines.keys() - seen:
            del self._machines[gone]
        self.tally.rows += sum(map(len, closed.values()))
        return tuple(_batches(self.followed, closed))

    def _is_possible(self, reading: MachineReading) -> bool:
        possible = 0 <= reading.time_ns <= _LATEST_NS
        self.tally.odd += not possible
        return possible

    def _follow(self, reading: MachineReading) -> dict[int, Row]:
        """The rows that a machine's reading closes, by when they begin."""
        counters, odd = counters_of(reading)
        self.tally.odd += odd
        machine = self._machines.get(reading.vm)
        if machine is None:
            self._begin(reading, counters)
            return {}
        last, longest_ns = machine.last, round(self.followed.longest_s * NANOSECONDS)
        passed_ns = reading.time_ns - last.time_ns
        if -longest_ns <= passed_ns <= 0:  # told late, or twice; a clock that was set back further is followed
            self.tally.late += 1
            return {}
        if reading.run != last.run or not 0 < passed_ns <= longest_ns:
            self.tally.anew += 1
            self._begin(reading, counters)
            return {}
        rows = self._passed(machine, reading, counters)
        machine.last, machine.counters = reading, counters
        return rows

    def _begin(self, reading: MachineReading, counters: Counters) -> None:
        at_edge = reading.time_ns % self.followed.interval_ns == 0
        self._machines[reading.vm] = _Machine(
            reading, counters, reading.time_ns if at_edge else None, counters if at_edge else {}
        )  # fmt: skip

    def _passed(self, machine: _Machine, reading: MachineReading, counters: Counters) -> dict[int, Row]:
        """The rows between the edges that lie in (last reading, this one]."""
        interval_ns, last = self.followed.interval_ns, machine.last
        known = {name for name in counters.keys() & machine.counters.keys() if counters[name] >= machine.counters[name]}
        self.tally.odd += len(counters.keys() & machine.counters.keys()) - len(known)
        rows: dict[int, Row] = {}
        passed_ns = reading.time_ns - last.time_ns
        for edge_ns in range((last.time_ns // interval_ns + 1) * interval_ns, reading.time_ns + 1, interval_ns):
            since_ns = edge_ns - last.time_ns
            here = {
                name: machine.counters[name] + (counters[name] - machine.counters[name]) * since_ns // passed_ns
                for name in known
            }
            if machine.edge_ns is not None:
                used = {name: here[name] - machine.at_edge[name] for name in known & machine.at_edge.keys()}
                rows[machine.edge_ns] = _row(used, last, reading, interval_ns)
            machine.edge_ns, machine.at_edge = edge_ns, counters if edge_ns == reading.time_ns else here
        if reading.time_ns // interval_ns == last.time_ns // interval_ns:
            # What isn't known over this stretch, which lies within one interval, isn't known over that interval.
            machine.at_edge = {name: value for name, value in machine.at_edge.items() if name in known}
        return rows


def counters_of(reading: MachineReading) -> tuple[dict[str, int], int]:
    """The counters that a reading tells, by what is made of them, and how many it tells that no machine has. Bytes are without
    link headers where packets are told, and with them where they aren't."""
    told = {
        "cpu": reading.cpu_time_ns, "rx": reading.rx_bytes, "tx": reading.tx_bytes, "rx_packets": reading.rx_packets,
        "tx_packets": reading.tx_packets, "dropped": _sum(reading.rx_dropped, reading.tx_dropped),
        "ops": _sum(reading.read_ops, reading.write_ops),
    }  # fmt: skip
    counters = {name: value for name, value in told.items() if value is not None and 0 <= value <= _MOST}
    odd = sum(value is not None for value in told.values()) - len(counters)
    for way in ("rx", "tx"):
        if way in counters and f"{way}_packets" in counters:
            counters[way] = max(counters[way] - LINK_HEADER_BYTES * counters[f"{way}_packets"], 0)
    return counters, odd


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)


def _row(used: Counters, last: MachineReading, reading: MachineReading, interval_ns: int) -> Row:
    """An interval's columns; what isn't known is not in it. last: the last reading within the interval, or before it."""
    row: Row = {}
    names = {"rx": "rx_bytes", "tx": "tx_bytes", "rx_packets": "rx_packets", "tx_packets": "tx_packets", "ops": "storage_ops"}
    row |= {column: used[name] for name, column in names.items() if name in used}
    if "cpu" in used:
        row["cpu_seconds"] = used["cpu"] / NANOSECONDS
        cores = reading.cpu_cores
        if cores is not None and cores > 0:  # the hypervisor's own work for the VM may come on top of its cores
            row["cpu_utilization"] = min(used["cpu"] / (cores * interval_ns), 1.0)
    if {"dropped", "rx_packets", "tx_packets"} <= used.keys():
        offered = used["dropped"] + used["rx_packets"] + used["tx_packets"]
        row["dropped_ratio"] = used["dropped"] / offered if offered else 0.0
    for column, gauge in (("memory_bytes", last.memory_bytes), ("storage_bytes", last.storage_bytes)):
        if gauge is not None and 0 <= gauge <= _MOST:
            row[column] = float(gauge)
    return row


def _batches(followed: Followed, closed: Mapping[str, Mapping[int, Row]]) -> Iterable[MetricBatch]:
    """Rows as batches: a batch has a row of each of its VMs in each of its intervals."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for vm, rows in closed.items():
        groups.setdefault(tuple(rows), []).append(vm)
    for starts, vms in groups.items():
        yield _batch(followed, starts, vms, closed)


def _batch(
    followed: Followed, starts: tuple[int, ...], vms: Sequence[str], closed: Mapping[str, Mapping[int, Row]]
) -> MetricBatch:
    columns = {}
    for name in COLUMNS:
        values = np.array([[closed[vm][start].get(name, np.nan) for vm in vms] for start in starts], np.float64)
        if np.isfinite(values).any():
            whole = BY_NAME[name].whole and bool(np.isfinite(values).all())
            columns[name] = values.astype(np.int64) if whole else values
    return MetricBatch(
        network=followed.network, interval_s=followed.interval_ns / NANOSECONDS, vms=tuple(vms),
        start_ns=np.array(starts, np.int64), columns=columns, one_sided=np.zeros((len(starts), len(vms)), np.bool_),
        source=followed.source, origin=Origin.LIVE, subnets=tuple(followed.vms[vm][0] for vm in vms),
        roles=tuple(followed.vms[vm][1] for vm in vms),
    )  # fmt: skip
