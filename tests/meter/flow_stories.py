"""Flows to tell to a meter of flow records, and what it made of them: columns by intervals and VMs."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adumbra.meter.flow_records import FlowMeter, FlowMeterSettings
from adumbra.schema.records import NANOSECONDS, UNTOLD, FlowRecords, Intervals

BEGIN_S = 1_700_000_000
CLIENT = "198.18.0.1"
WEB, DB = 0, 1
ADDRESS = {WEB: "10.20.1.10", DB: "10.20.2.10"}
COLUMNS = {
    "start_ns": np.int64, "end_ns": np.int64, "version": np.uint8, "protocol": np.uint8, "src_hi": np.uint64,
    "src_lo": np.uint64, "dst_hi": np.uint64, "dst_lo": np.uint64, "src_port": np.uint16, "dst_port": np.uint16,
    "bytes": np.int64, "packets": np.int64, "rate": np.int64, "attempted": np.int64, "established": np.int64,
    "failed": np.int64, "from_client": np.int8, "src_vm": np.int32, "dst_vm": np.int32,
}  # fmt: skip


@dataclass(frozen=True)
class Flow:
    """A row of flow records. Times in seconds after the beginning; an end is a VM's number or a foreign address."""

    start: float = 0.0
    end: float = 0.0
    src: int | str = CLIENT
    dst: int | str = WEB
    bytes: int = 600
    packets: int = 6
    rate: int = 1
    attempted: int = UNTOLD
    established: int = UNTOLD
    failed: int = UNTOLD
    from_client: int = -1
    protocol: int = 6
    dst_port: int = 443

    def row(self) -> tuple[int, ...]:
        ends: list[int] = []
        vms: list[int] = []
        for each in (self.src, self.dst):
            number = int(ipaddress.ip_address(each if isinstance(each, str) else ADDRESS[each]))
            ends += [number >> 64, number & (1 << 64) - 1]
            vms.append(each if isinstance(each, int) else -1)
        version = ipaddress.ip_address(self.src if isinstance(self.src, str) else ADDRESS[self.src]).version
        times = [BEGIN_S * NANOSECONDS + round(each * NANOSECONDS) for each in (self.start, self.end)]
        return (
            *times, version, self.protocol, *ends, 40_000, self.dst_port, self.bytes, self.packets, self.rate, self.attempted,
            self.established, self.failed, self.from_client, *vms,
        )  # fmt: skip


def told(**changes: Any) -> Flow:
    """A client's connection that was established, as a source tells it which tells connections."""
    return Flow(**{"attempted": 1, "established": 1, "failed": 0, "from_client": 1} | changes)


def refused(**changes: Any) -> Flow:
    return told(**{"established": 0, "failed": 1, "bytes": 40, "packets": 1} | changes)


def records(flows: Sequence[Flow], kind: type[FlowRecords] = FlowRecords, **more: Any) -> FlowRecords:
    rows = list(zip(*(flow.row() for flow in flows), strict=True)) or [()] * len(COLUMNS)
    columns = {name: np.array(values, dtype) for (name, dtype), values in zip(COLUMNS.items(), rows, strict=True)}
    return kind(**columns, **more)


@dataclass
class Story:
    """What a meter made of flows: intervals by their second after the beginning."""

    meter: FlowMeter
    intervals: list[Intervals] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        starts = np.concatenate([each.start_ns for each in self.intervals]) if self.intervals else np.zeros(0, np.int64)
        return [float(each) for each in (starts - BEGIN_S * NANOSECONDS) / NANOSECONDS]

    def column(self, name: str, vm: int = WEB) -> list[float | None]:
        """A column's values in order; None where it is not known."""
        values = np.concatenate([each.columns[name][:, vm].astype(np.float64) for each in self.intervals])
        return [None if np.isnan(value) else float(value) for value in values]

    def total(self, name: str, vm: int = WEB) -> float:
        return sum(value or 0.0 for value in self.column(name, vm))

    def one_sided(self, vm: int = WEB) -> list[bool]:
        return [bool(each) for part in self.intervals for each in part.one_sided[:, vm]]


FILE = FlowMeterSettings(lateness_s=None)


def metered(
    flows: Iterable[Flow],
    interval_s: float = 1.0,
    settings: FlowMeterSettings = FILE,
    batches: Sequence[int] = (),
    kind: type[FlowRecords] = FlowRecords,
    **more: Any,
) -> Story:
    """Meters flows to their end, cut into batches of these sizes and one of the rest."""
    flows = list(flows)
    story = Story(FlowMeter(2, round(interval_s * NANOSECONDS), settings, **more))
    for size in (*batches, len(flows)):
        part, flows = flows[:size], flows[size:]
        story.intervals += story.meter.add(records(part, kind))
    story.intervals += story.meter.finish()
    return story
