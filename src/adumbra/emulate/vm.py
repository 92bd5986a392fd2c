"""Emulated VMs: what machines of given sizes would show under the traffic just seen. Holds their state; no clock, no I/O.

A VM is a link in, a multi-server queue of its cores, and a link out; memory and storage follow its connections and bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate import kernels
from adumbra.emulate.demand import NEEDED, SCANS, demand_table, load_of
from adumbra.emulate.paths import NetworkPath
from adumbra.emulate.roles import RolePrior
from adumbra.schema.calibration import VmCalibration
from adumbra.schema.records import NANOSECONDS, Floats, Intervals, Ints
from adumbra.schema.sizing import RESOURCES, Machine

BUFFER_S = 0.05
"""A link's buffer unless given: what its line rate sends in 50 ms, and never less than two initial windows."""
PATIENCE_S = 10.0
"""The longest that a request waits for a core before it counts as refused: its client has given up."""
LEAST_SHARE = 0.05  # of the cores that is left to requests, however much the idle system takes
NEVER = -1  # the clock before the first interval
_CELLS_AT_ONCE = 1 << 17  # bounds the working memory; results don't depend on it


@dataclass(frozen=True, slots=True)
class EmulatedVm:
    """One VM to emulate: its role's prior, its size, and the path to those it talks to.

    core_speed: of one of its cores, in reference cores. buffer_bytes: of the link, each way; none: BUFFER_S at line rate.
    calibration: what measured use said of it, which then stands in place of the prior's figures.
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

    def __post_init__(self) -> None:
        positive = {
            "cpu_cores": self.machine.cpu_cores,
            "bandwidth_mbps": self.machine.bandwidth_mbps,
            "path.bandwidth_bps": self.path.bandwidth_bps,
            "core_speed": self.core_speed,
            "patience_s": self.patience_s,
            "path.rtt_s": self.path.rtt_s + 1.0 if self.path.rtt_s >= 0 else -1.0,
            "buffer_bytes": 1.0 if self.buffer_bytes is None else self.buffer_bytes,
        }
        for what, value in positive.items():
            if not value > 0 or (math.isinf(value) and what != "path.bandwidth_bps"):
                raise ValueError(f"the emulated VM {self.name} can't have a {what} of {value}; give a number above 0")
        if self.machine.cpu_cores > 65536 or self.patience_s > 86400:
            raise ValueError(f"the emulated VM {self.name} has more than 65536 cores or 1 day of patience; give less")

    @property
    def bytes_per_s(self) -> float:
        """The line rate of its link, each way: its own, or the path's bottleneck if that is narrower."""
        return min(self.machine.bandwidth_mbps * 1e6, self.path.bandwidth_bps) / 8.0

    @property
    def link_buffer_bytes(self) -> float:
        """The buffer of its link, each way."""
        usual = max(BUFFER_S * self.bytes_per_s, 2.0 * kernels.INITIAL_WINDOW_BYTES)
        return usual if self.buffer_bytes is None else self.buffer_bytes


FLEET = np.dtype(
    [
        ("key", np.uint64), ("first_server", np.int64), ("servers", np.int64), ("patience_ns", np.int64),
        *((name, np.float64) for name in (
            "cores", "server_cores", "core_speed", "idle_cores", "service_cv", "bytes_per_ns", "buffer_bytes", "rtt_ns",
            "memory_base_bytes", "memory_connection_bytes", "release_ns",
            "storage_base_bytes", "written_per_byte_in", "ops_per_request",
        )),
    ],
    align=True,
)  # fmt: skip
"""What an emulated VM is, as the kernel takes it.

key: of its random numbers; first_server, servers: where its servers stand among all, and how many; server_cores: the cores
that each server stands for; core_speed: in reference cores; the rest as in EmulatedVm and roles.RolePrior.
"""

STATE = np.dtype([(name, np.float64) for name in ("rx_backlog_bytes", "tx_backlog_bytes", "memory_bytes", "written_bytes")])
"""What an emulated VM carries on, beside its servers: the link's buffers, resident memory, bytes written so far."""

SIMULATED: tuple[str, ...] = (
    "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "cpu_utilization", "cpu_seconds",
    "memory_bytes", "storage_bytes", "storage_ops", "dropped_ratio", "rtt_ms_p50", "rtt_ms_p99",
)  # fmt: skip
"""The columns of the metric catalogue that an emulated network gives."""
_OUT = np.dtype([(name, np.float64) for name in SIMULATED])


class EmulatedNetwork:
    """The emulated VMs of a network. `vms` in the order of the network's VMs; `seed` fixes all chance.

    A VM's results depend on the seed, its own name, config and traffic, and on nothing else: not on how intervals are
    grouped into calls, nor on which other VMs there are. Raises ValueError for no VMs, and for two of one name.
    """

    def __init__(self, vms: Sequence[EmulatedVm], seed: int) -> None:
        if not vms:
            raise ValueError("there are no VMs to emulate; give at least one")
        if len({vm.name for vm in vms}) < len(vms):
            raise ValueError("two emulated VMs have one name; give each its own")
        self._fleet = _fleet(vms, seed)
        self._table = demand_table([vm.prior for vm in vms])
        self._state = np.zeros(len(vms), STATE)
        self._state["memory_bytes"] = self._fleet["memory_base_bytes"]
        self._free_ns: Ints = np.zeros(int(self._fleet["servers"].sum()), np.int64)
        self._clock_ns = NEVER

    def emulate(self, intervals: Intervals) -> dict[str, Floats]:
        """Carries the VMs through intervals, and gives the simulated columns of the catalogue: name -> float64[k, V].

        latency_ms_*: over the requests answered; NaN where there is none. rtt_ms_*: the path's round trip and what queues
        on the link, only where one side was seen, else NaN. cpu_seconds: the work done in the interval, the idle system's
        included, at most cores x interval: what is left is done later. memory_bytes and storage_bytes: what would be
        needed, even if it is more than the machine has. dropped_ratio: the share of the offered packets that weren't
        carried to their end; NaN where none were offered. For one-sided traffic see demand.load_of.
        Raises ValueError for intervals before one already emulated, of other VMs, or with requests outside them.
        """
        vms = len(self._fleet)
        seen = _seen(intervals, vms, self._clock_ns)
        columns: dict[str, Floats] = {name: np.empty(seen.shape) for name in SIMULATED}
        next_row = np.searchsorted(intervals.requests.vm, np.arange(vms)).astype(np.int64)
        request_ns = np.ascontiguousarray(intervals.requests.time_ns, np.int64)
        step = max(1, _CELLS_AT_ONCE // vms)
        for first in range(0, len(intervals), step):
            part = slice(first, first + step)
            load = load_of(_part(intervals, part), seen[part], self._table)
            start_ns = np.ascontiguousarray(intervals.start_ns[part], np.int64)
            out = np.empty(load.shape, _OUT)
            kernels.emulate(
                self._fleet, self._state, self._free_ns, load, self._clock_ns, start_ns, intervals.interval_ns,
                request_ns, next_row, int((load["seen"] + load["drawn"]).max()), out,
            )  # fmt: skip
            self._clock_ns = int(start_ns[-1]) + intervals.interval_ns
            for name, values in columns.items():
                values[part] = out[name]
        return columns

    def state(self) -> dict[str, NDArray[np.generic]]:
        """A copy of what the VMs carry on, as plain arrays: clock_ns int64[1], free_ns int64[servers], STATE's float64[V]."""
        held = {name: self._state[name].copy() for name in STATE.names or ()}
        return {"clock_ns": np.array([self._clock_ns], np.int64), "free_ns": self._free_ns.copy(), **held}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Goes on from what `state` of a network with the same VMs gave. Raises ValueError if it doesn't fit."""
        for name, own in self.state().items():
            given = state.get(name)
            if given is None or given.shape != own.shape or given.dtype != own.dtype:
                raise ValueError(f"the emulation state doesn't fit these VMs ({name}); emulate anew from the first interval")
        self._clock_ns = int(state["clock_ns"][0])
        self._free_ns[:] = state["free_ns"]
        for name in STATE.names or ():
            self._state[name] = state[name]


def spread(vms: Sequence[EmulatedVm]) -> dict[str, Floats]:
    """How unsure the simulated use of each resource is: standard deviation of its natural logarithm, float64[V].

    Bandwidth is 0: it is observed, not simulated.
    """
    of = {"cpu_cores": "cpu", "memory_gb": "memory", "storage_gb": "storage"}
    return {
        resource: np.array([getattr(vm.prior.spread, of[resource]) if resource in of else 0.0 for vm in vms], np.float64)
        for resource in RESOURCES
    }


def _fleet(vms: Sequence[EmulatedVm], seed: int) -> NDArray[np.void]:
    fleet = np.zeros(len(vms), FLEET)
    cores = np.array([vm.machine.cpu_cores for vm in vms], np.float64)
    # A fraction of a core makes each server slower: 2.5 cores are two servers of 1.25, a quarter core is one of 0.25.
    whole = np.maximum(np.floor(cores), 1.0)
    fleet["key"] = [_key(seed, vm.name) for vm in vms]
    fleet["servers"] = np.minimum(whole, [vm.prior.cpu.servers or math.inf for vm in vms])
    fleet["first_server"] = np.cumsum(fleet["servers"]) - fleet["servers"]
    fleet["patience_ns"] = [round(vm.patience_s * NANOSECONDS) for vm in vms]
    fleet["cores"] = cores
    fleet["idle_cores"] = np.minimum([vm.prior.cpu.idle_cores for vm in vms], (1.0 - LEAST_SHARE) * cores)
    fleet["server_cores"] = (cores - fleet["idle_cores"]) / whole
    fleet["core_speed"] = [vm.core_speed for vm in vms]
    fleet["service_cv"] = [vm.prior.cpu.service_cv for vm in vms]
    fleet["bytes_per_ns"] = [vm.bytes_per_s / NANOSECONDS for vm in vms]
    fleet["buffer_bytes"] = [vm.link_buffer_bytes for vm in vms]
    fleet["rtt_ns"] = [vm.path.rtt_s * NANOSECONDS for vm in vms]
    fleet["memory_base_bytes"] = [vm.prior.memory.base_bytes for vm in vms]
    fleet["memory_connection_bytes"] = [vm.prior.memory.connection_bytes for vm in vms]
    fleet["release_ns"] = [vm.prior.memory.release_s * NANOSECONDS for vm in vms]
    fleet["storage_base_bytes"] = [vm.prior.storage.base_bytes for vm in vms]
    fleet["written_per_byte_in"] = [vm.prior.storage.written_per_byte_in for vm in vms]
    fleet["ops_per_request"] = [vm.prior.storage.ops_per_request for vm in vms]
    return fleet


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
    wanted = (*NEEDED, *SCANS, "requests")
    columns = {name: intervals.columns[name][part] for name in wanted if name in intervals.columns}
    return replace(intervals, start_ns=intervals.start_ns[part], columns=columns, one_sided=intervals.one_sided[part])
