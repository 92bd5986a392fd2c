"""Emulated VMs: what machines of given sizes would show under the traffic just seen. Holds their state; no clock, no I/O.

A VM is a link in, its cores, as servers or shared, and a link out; memory and storage follow its clients and bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate import kernels
from adumbra.emulate.arrivals import POISSON, ArrivalProcess
from adumbra.emulate.chance_kernels import quantile_table
from adumbra.emulate.demand import NEEDED, OPTIONAL, SCANS, demand_table, load_of
from adumbra.emulate.layout import FLEET, JOB, RUN, SHARED_JOBS, SIMULATED_BY_SET, STATE, WIDTH
from adumbra.emulate.parameters import LEAST_SHARE, PARAMETER_SETS, believed, log_spread, parameters
from adumbra.emulate.paths import NetworkPath
from adumbra.emulate.roles import RolePrior
from adumbra.schema.calibration import VmCalibration
from adumbra.schema.metrics import HISTOGRAMS
from adumbra.schema.records import NANOSECONDS, Floats, Intervals, Ints
from adumbra.schema.sizing import RESOURCES, Machine

__all__ = [
    "BUFFER_S", "BURST_S", "LEAST_SHARE", "NEVER", "PARAMETER_SETS", "PATIENCE_S", "SIMULATED", "EmulatedNetwork", "EmulatedVm",
    "spread",
]  # fmt: skip
BUFFER_S = 0.05
"""A link's buffer unless given: what its fastest rate sends in 50 ms, and never less than two initial windows."""
BURST_S = 300.0
"""For how long a link's full credit lasts at its peak. AWS says that instances with a baseline can go beyond it for 5 to 60
minutes and have all their credit at launch, but not which can for how long (EC2 User Guide, "Amazon EC2 instance network
bandwidth"): this is the shortest of these."""
PATIENCE_S = 10.0
"""The longest that a request waits for a core before it counts as refused: its client has given up."""
NEVER = -1  # the clock before the first interval
_MOST_SETS = 4096
_CELLS_AT_ONCE = 1 << 17  # bounds the working memory; results don't depend on it


@dataclass(frozen=True, slots=True)
class EmulatedVm:
    """One VM to emulate: its role's prior, its size, and the path to those it talks to.

    core_speed: of one of its cores, in reference cores. buffer_bytes: of the link, each way; none: BUFFER_S at its fastest.
    credit_bytes: what the link can send above its baseline before it is back to it, each way; none: BURST_S at its peak.
    calibration: what measured use said of it, which then stands in place of the prior's figures. arrivals: how requests come
    whose times weren't seen.
    Raises ValueError for a size that no machine has.
    """

    name: str
    prior: RolePrior
    machine: Machine
    path: NetworkPath
    core_speed: float = 1.0
    buffer_bytes: float | None = None
    patience_s: float = PATIENCE_S
    calibration: VmCalibration | None = None
    credit_bytes: float | None = None
    arrivals: ArrivalProcess = POISSON

    def __post_init__(self) -> None:
        positive = {
            "cpu_cores": self.machine.cpu_cores,
            "bandwidth_mbps": self.machine.bandwidth_mbps,
            "path.bandwidth_bps": self.path.bandwidth_bps,
            "core_speed": self.core_speed,
            "patience_s": self.patience_s,
            "path.rtt_s": self.path.rtt_s + 1.0 if self.path.rtt_s >= 0 else -1.0,
            "buffer_bytes": 1.0 if self.buffer_bytes is None else self.buffer_bytes,
            "peak_bandwidth_mbps": 1.0 if self.machine.peak_bandwidth_mbps is None else self.machine.peak_bandwidth_mbps,
            "credit_bytes": 1.0 if self.credit_bytes is None else self.credit_bytes + 1.0,
        }
        for what, value in positive.items():
            if not value > 0 or (math.isinf(value) and what != "path.bandwidth_bps"):
                raise ValueError(f"the emulated VM {self.name} can't have a {what} of {value}; give a number above 0")
        if self.machine.cpu_cores > 65536 or self.patience_s > 86400:
            raise ValueError(f"the emulated VM {self.name} has more than 65536 cores or 1 day of patience; give less")

    @property
    def bytes_per_s(self) -> float:
        """The rate that its link always has, each way: its own, or the path's bottleneck if that is narrower."""
        return min(self.machine.bandwidth_mbps * 1e6, self.path.bandwidth_bps) / 8.0

    @property
    def peak_bytes_per_s(self) -> float:
        """The rate that its link has while credit lasts, each way: its own peak, or the path's bottleneck if narrower."""
        own_mbps = max(self.machine.peak_bandwidth_mbps or 0.0, self.machine.bandwidth_mbps)
        return min(own_mbps * 1e6, self.path.bandwidth_bps) / 8.0

    @property
    def link_credit_bytes(self) -> float:
        """The most that its link can send above the baseline, each way; 0 where it has no peak above it."""
        own_mbps = (self.machine.peak_bandwidth_mbps or 0.0) - self.machine.bandwidth_mbps
        if self.peak_bytes_per_s <= self.bytes_per_s:
            return 0.0
        return BURST_S * own_mbps * 1e6 / 8.0 if self.credit_bytes is None else self.credit_bytes

    @property
    def link_buffer_bytes(self) -> float:
        """The buffer of its link, each way."""
        usual = max(BUFFER_S * self.peak_bytes_per_s, 2.0 * kernels.INITIAL_WINDOW_BYTES)
        return usual if self.buffer_bytes is None else self.buffer_bytes

    @property
    def believed(self) -> RolePrior:
        """Its prior, with what was measured in its place."""
        return believed(self.prior, self.calibration)


_BOUNDED: tuple[str, ...] = tuple(f"{name}_{end}" for end in ("low", "high") for name in SIMULATED_BY_SET)
SIMULATED: tuple[str, ...] = (*SIMULATED_BY_SET, "rtt_ms_p50", "rtt_ms_p99", *_BOUNDED, *HISTOGRAMS["latency"])
"""The columns of the metric catalogue that an emulated network gives, in the order in which the kernels write them."""


class EmulatedNetwork:
    """The emulated VMs of a network. `vms` in the order of the network's VMs; `seed` fixes all chance.

    `sets`: how many sets of parameters, drawn from what is believed of each VM, are carried through beside the central one,
    each with its own state and chance; they make the intervals. parameters.PARAMETER_SETS are enough; 0: no intervals.
    A VM's results depend on the seed, its own name, config and traffic, and on nothing else: not on how intervals are
    grouped into calls, nor on which other VMs there are. Raises ValueError for no VMs, and for two of one name.
    """

    def __init__(self, vms: Sequence[EmulatedVm], seed: int, sets: int = 0) -> None:
        if not vms:
            raise ValueError("there are no VMs to emulate; give at least one")
        if len({vm.name for vm in vms}) < len(vms):
            raise ValueError("two emulated VMs have one name; give each its own")
        if not 0 <= sets <= _MOST_SETS:
            raise ValueError(f"{sets} sets of parameters are out of range; give 0 to {_MOST_SETS}")
        fleet = self._fleet = fleet_of(vms, seed, sets)
        self._figures = parameters(vms, fleet["key"], sets)
        self._table = demand_table([vm.believed for vm in vms])
        self._state = np.zeros(len(vms), STATE)
        self._state["rx_credit_bytes"] = fleet["credit_bytes"]
        self._runs = np.zeros((len(vms), 1 + sets), RUN)
        self._runs["tx_credit_bytes"] = fleet["credit_bytes"][:, np.newaxis]
        self._free_ns: Ints = np.zeros(int(fleet["servers"][fleet["jobs"] == 0].sum()) * (1 + sets), np.int64)
        self._jobs = np.zeros(int(fleet["jobs"].sum()) * (1 + sets), JOB)
        self._clock_ns = NEVER

    def emulate(self, intervals: Intervals) -> dict[str, Floats]:
        """Carries the VMs through intervals, and gives the simulated columns of the catalogue: name -> float64[k, V].

        latency_ms_*: over the requests answered, where cores are shared in the interval in which they were; NaN where there is
        none. rtt_ms_*: the path's round trip and what queues on the link, only where one side was seen, else NaN. cpu_seconds:
        the work done in the interval, the idle system's included, at most cores x interval: what is left is done later.
        memory_bytes and storage_bytes: what would be needed, even if it is more than the machine has. dropped_ratio: the share
        of the offered packets that weren't carried to their end; NaN where none were offered. *_low, *_high: 80 % interval over
        the sets of parameters, which always holds the central value; NaN where that is, and where there are no sets. For
        one-sided traffic, and for requests whose times aren't given, see demand.load_of. Raises ValueError for intervals before
        one already emulated, of other VMs, or with requests outside them.
        """
        vms = len(self._fleet)
        seen = _seen(intervals, vms, self._clock_ns)
        columns: dict[str, Floats] = {name: np.empty(seen.shape) for name in SIMULATED}
        next_row = np.searchsorted(intervals.requests.vm, np.arange(vms)).astype(np.int64)
        request_ns = np.ascontiguousarray(intervals.requests.time_ns, np.int64)
        step = max(1, _CELLS_AT_ONCE // vms)
        for first in range(0, len(intervals), step):
            part = slice(first, first + step)
            load = load_of(_part(intervals, part), seen[part], self._table, self._fleet["key"])
            start_ns = np.ascontiguousarray(intervals.start_ns[part], np.int64)
            out = np.empty((*load.shape, WIDTH))
            most = int((load["seen"] + load["drawn"]).max())
            kernels.emulate(
                self._fleet, self._figures, self._state, self._runs, self._free_ns, self._jobs, load, self._clock_ns,
                start_ns, intervals.interval_ns, request_ns, next_row, normal_table(), *self._room(most), out,
            )  # fmt: skip
            self._clock_ns = int(start_ns[-1]) + intervals.interval_ns
            for i, values in enumerate(columns.values()):
                values[part] = out[..., i]
        return columns

    def _room(self, requests: int) -> tuple[Ints, Floats, NDArray[np.uint8], Floats]:
        """What the kernel works in, for so many requests a cell."""
        sets = self._runs.shape[1]
        room = max(requests + int(self._fleet["jobs"].max()), sets)
        rows = np.empty((sets, len(SIMULATED_BY_SET)))
        return np.empty((3, room), np.int64), np.empty((7, room)), np.empty((2, room), np.uint8), rows

    def state(self) -> dict[str, NDArray[np.generic]]:
        """A copy of what the VMs carry on, as plain arrays: clock_ns int64[1], free_ns int64[servers], and by name the fields
        of layout.STATE [V], RUN [V, 1 + S] and, with "job_" before them, JOB [jobs].
        """
        records = {"": self._state, "run_": self._runs, "job_": self._jobs}
        held = {
            f"{prefix}{name}": record[name].copy() for prefix, record in records.items() for name in record.dtype.names or ()
        }
        return {"clock_ns": np.array([self._clock_ns], np.int64), "free_ns": self._free_ns.copy(), **held}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Goes on from what `state` of a network with the same VMs gave. Raises ValueError if it doesn't fit."""
        for name, own in self.state().items():
            given = state.get(name)
            if given is None or given.shape != own.shape or given.dtype != own.dtype:
                raise ValueError(f"the emulation state doesn't fit these VMs ({name}); emulate anew from the first interval")
        self._clock_ns = int(state["clock_ns"][0])
        self._free_ns[:] = state["free_ns"]
        for prefix, record in {"": self._state, "run_": self._runs, "job_": self._jobs}.items():
            for name in record.dtype.names or ():
                record[name] = state[f"{prefix}{name}"]


def spread(vms: Sequence[EmulatedVm]) -> dict[str, Floats]:
    """How unsure the simulated use of each resource is: standard deviation of its natural logarithm, float64[V].

    By the prior, or less by what was measured: see parameters.log_spread. Bandwidth is 0: it is observed, not simulated.
    """
    return {resource: np.array([log_spread(vm, resource) for vm in vms], np.float64) for resource in RESOURCES}


def fleet_of(vms: Sequence[EmulatedVm], seed: int, sets: int = 0) -> NDArray[np.void]:
    """What the VMs are, as kernels take it: layout.FLEET[V]."""
    fleet = np.zeros(len(vms), FLEET)
    cores = np.array([vm.machine.cpu_cores for vm in vms], np.float64)
    believed = [vm.believed for vm in vms]
    fleet["key"] = keys_of(vms, seed)
    fleet["servers"] = np.minimum(np.maximum(np.floor(cores), 1.0), [each.cpu.servers or math.inf for each in believed])
    shared = np.array([each.cpu.discipline == "ps" for each in believed])
    fleet["jobs"] = np.where(shared, np.maximum(SHARED_JOBS, 4 * fleet["servers"]), 0)
    waited = np.where(shared, 0, fleet["servers"])
    fleet["first_server"] = (np.cumsum(waited) - waited) * (1 + sets)
    fleet["first_job"] = (np.cumsum(fleet["jobs"]) - fleet["jobs"]) * (1 + sets)
    fleet["patience_ns"] = [round(vm.patience_s * NANOSECONDS) for vm in vms]
    fleet["cores"] = cores
    fleet["core_speed"] = [vm.core_speed for vm in vms]
    fleet["service_cv"] = [each.cpu.service_cv for each in believed]
    fleet["peak_bytes_per_ns"] = [vm.peak_bytes_per_s / NANOSECONDS for vm in vms]
    fleet["base_bytes_per_ns"] = [vm.bytes_per_s / NANOSECONDS for vm in vms]
    fleet["credit_bytes"] = [vm.link_credit_bytes for vm in vms]
    fleet["buffer_bytes"] = [vm.link_buffer_bytes for vm in vms]
    fleet["rtt_ns"] = [vm.path.rtt_s * NANOSECONDS for vm in vms]
    fleet["release_ns"] = [each.memory.release_s * NANOSECONDS for each in believed]
    fleet["session_ns"] = [each.memory.session_s * NANOSECONDS for each in believed]
    kept = [math.inf if each.storage.retention_s is None else each.storage.retention_s for each in believed]
    fleet["retention_ns"] = np.array(kept) * NANOSECONDS
    fleet["cluster_size"] = [vm.arrivals.cluster_size for vm in vms]
    fleet["cluster_spread_ns"] = [vm.arrivals.cluster_spread_s * NANOSECONDS for vm in vms]
    return fleet


@cache
def normal_table() -> Floats:
    """The table that chance_kernels.draw_services interpolates in, made once."""
    return np.asarray(quantile_table(), np.float64)


def keys_of(vms: Sequence[EmulatedVm], seed: int) -> NDArray[np.uint64]:
    """What each VM's chance is keyed by, uint64[V]: the seed and its name."""
    return np.array([_key(seed, vm.name) for vm in vms], np.uint64)


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")


def _seen(intervals: Intervals, vms: int, clock_ns: int) -> Ints:
    """The requests in each cell, int64[k, V], once it is sure that every one has its cell and all are in order."""
    shape = (len(intervals), vms)
    for name in NEEDED:
        if name not in intervals.columns or intervals.columns[name].shape != shape:
            raise ValueError(f"intervals of {vms} VMs need a column {name} of shape {shape}; give the meter's own")
    start_ns, requests = intervals.start_ns, intervals.requests
    if len(start_ns) and (start_ns[0] < clock_ns or (np.diff(start_ns) < intervals.interval_ns).any()):
        raise ValueError("intervals must follow those already emulated, in order; begin a new EmulatedNetwork for earlier ones")
    row = np.searchsorted(start_ns, requests.time_ns, side="right") - 1
    if len(row):
        if row.min() < 0 or (requests.time_ns - start_ns[row]).max() >= intervals.interval_ns:
            raise ValueError("a request lies outside the intervals; give only requests whose first byte lies in them")
        if requests.vm.min() < 0 or requests.vm.max() >= vms:
            raise ValueError(f"a request is to a VM that isn't there; give rows from 0 to {vms - 1}")
        step = np.diff(requests.vm)
        if (step < 0).any() or ((step == 0) & (np.diff(requests.time_ns) < 0)).any():
            raise ValueError("requests are out of order; order them by VM, then time")
    counts = np.bincount(row * vms + requests.vm, minlength=shape[0] * vms)
    return counts.astype(np.int64, copy=False).reshape(shape)


def _part(intervals: Intervals, part: slice) -> Intervals:
    wanted = (*NEEDED, *SCANS, *OPTIONAL)
    columns = {name: intervals.columns[name][part] for name in wanted if name in intervals.columns}
    return replace(intervals, start_ns=intervals.start_ns[part], columns=columns, one_sided=intervals.one_sided[part])
