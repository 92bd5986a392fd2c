"""One network's shadow: what its emulated VMs make of the traffic that was metered. Stores nothing, reads no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adumbra.metering import Metering
from adumbra.schema.metrics import BY_NAME
from adumbra.schema.records import NANOSECONDS, Intervals, MetricBatch
from adumbra.schema.spec import NetworkSpec, Vm


class Emulator(Protocol):
    """The emulated VMs of a network: simulated columns [k, V] for closed intervals, in order."""

    def emulate(self, intervals: Intervals) -> dict[str, NDArray[np.float64]]: ...


class Shadow:
    """A network's emulated VMs, ready to follow one source at a time, metered in this process or in workers."""

    def __init__(self, spec: NetworkSpec, vms: Sequence[Vm], emulator: Emulator) -> None:
        self.spec = spec
        self.vms = tuple(vm.name for vm in vms)
        self._subnets, self._roles = tuple(vm.subnet for vm in vms), tuple(vm.role for vm in vms)
        self.emulator = emulator

    def run(self, metering: Metering) -> Iterator[MetricBatch]:
        """Follows a source until it ends; gives the metrics of intervals once they are closed."""
        for intervals in metering:
            yield self._emulate(intervals, metering.name)

    def _emulate(self, intervals: Intervals, source: str) -> MetricBatch:
        simulated = self.emulator.emulate(intervals)
        columns = {**intervals.columns}
        for name, values in simulated.items():
            # Round trips are simulated only where one side was seen; elsewhere what was observed stands.
            columns[name] = np.where(intervals.one_sided, values, columns[name]) if name in columns else values
        return MetricBatch(
            network=self.spec.name,
            interval_s=intervals.interval_ns / NANOSECONDS,
            vms=self.vms,
            start_ns=intervals.start_ns,
            columns={name: columns[name] for name in BY_NAME},
            one_sided=intervals.one_sided,
            source=source,
            subnets=self._subnets,
            roles=self._roles,
        )
