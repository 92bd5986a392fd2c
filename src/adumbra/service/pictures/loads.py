"""What a network's VMs do just now: the means of its last stored seconds. Reads only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adumbra.schema.records import NANOSECONDS, SeriesQuery
from adumbra.service.workspace import Workspace

WINDOW_S = 10.0
_COLUMNS = ("rx_bytes", "tx_bytes", "requests", "cpu_utilization", "latency_ms_p99")


@dataclass(frozen=True, slots=True)
class Load:
    """A VM's. Megabits a second each way (observed), requests a second (inferred), CPU's busy share and latency (simulated);
    NaN where nothing is known."""

    rx_mbps: float
    tx_mbps: float
    requests_per_s: float
    cpu: float
    latency_ms_p99: float


@dataclass(frozen=True, slots=True)
class Loads:
    """Of all VMs, at the end of what is stored. window_s: over how long; until_ns: None where nothing is stored."""

    until_ns: int | None
    window_s: float
    vms: Mapping[str, Load]


def loads(workspace: Workspace, name: str, window_s: float = WINDOW_S) -> Loads:
    """The means over the last so many stored seconds, or the last interval where that is longer."""
    span = workspace.metrics.span(name)
    if span is None:
        return Loads(None, window_s, {})
    start_ns = max(span[0], span[1] - round(window_s * NANOSECONDS))
    series = workspace.metrics.read(SeriesQuery(name, _COLUMNS, start_ns=start_ns, end_ns=span[1]))
    if not series.steps:
        return Loads(span[1], window_s, {})
    step_s = series.step_s

    def mean(column: str, row: int, factor: float = 1.0) -> float:
        values = series.values[column][row]
        return float(np.nanmean(values)) * factor if not np.isnan(values).all() else math.nan

    found = {
        vm: Load(
            mean("rx_bytes", row, 8e-6 / step_s), mean("tx_bytes", row, 8e-6 / step_s), mean("requests", row, 1 / step_s),
            mean("cpu_utilization", row), mean("latency_ms_p99", row),
        )
        for row, vm in enumerate(series.vms)
    }  # fmt: skip
    return Loads(span[1], min(window_s, series.steps * step_s), found)
