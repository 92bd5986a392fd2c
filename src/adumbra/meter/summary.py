"""What closed intervals say of each VM: sums, quantiles, what is open, whether one side only was seen. Follows their order."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from adumbra.meter import closing_kernels, layout
from adumbra.meter.tally import Notes, Tally
from adumbra.schema.metrics import BUCKETS_MS, BY_NAME, HISTOGRAMS
from adumbra.schema.records import Floats, Intervals, Ints, Requests

_COUNTED = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "connections_initiated",
    "connections_established", "connections_failed", "peers", "requests", "retransmitted_packets", "out_of_order_packets",
    "duplicate_acks", "zero_windows", "connections_scanned", "scan_bytes", "missed_packets",
)  # fmt: skip
_TIMED = {"rtt": layout.ROUND_TRIP, "ack": layout.ACKNOWLEDGED, "response": layout.RESPONSE}
_LEVELS = {"p50": 0.5, "p99": 0.99}


class Sides(StrEnum):
    """Which directions of a VM's traffic were seen."""

    NONE = "none"
    ONLY_TO = "only to it"  # nobody answers, or its answers pass elsewhere
    ONLY_FROM = "only from it"
    BOTH = "both"


class Summary:
    """Turns tallies, in order, into intervals. Remembers what is open, and which directions were seen, of `vms` VMs."""

    def __init__(self, vms: int) -> None:
        self._active: Ints = np.zeros(vms, np.int64)
        self._seen: NDArray[np.bool_] = np.zeros((2, vms), np.bool_)  # towards each VM, from it

    def intervals(self, tally: Tally) -> Intervals:
        """What the tally's intervals hold; each tally once, in the order of time."""
        columns: dict[str, NDArray[np.generic]] = {name: tally.column(name) for name in _COUNTED}
        columns["missed_packets"] = tally.column("missed_packets") + tally.missed[:, np.newaxis]
        active = self._active + np.cumsum(tally.column("active_change"), axis=0)
        self._active = active[-1].copy() if len(tally) else self._active
        columns["connections_active"] = np.maximum(active, 0)  # an end may come before its beginning where packets do
        segments = tally.column("segments")
        repeated = tally.column("retransmitted_packets")
        columns["loss_ratio"] = np.where(segments > 0, repeated / np.maximum(segments, 1), np.nan)
        for name, kind in _TIMED.items():
            for label, values in zip(_LEVELS, _quantiles(tally, kind), strict=True):
                columns[f"{name}_ms_{label}"] = values
            columns |= zip(HISTOGRAMS[name], _histogram(tally, kind), strict=True)
        columns["sampling_error_ratio"] = np.zeros_like(columns["loss_ratio"])  # every packet was looked at
        return Intervals(
            interval_ns=tally.interval_ns,
            start_ns=tally.start_ns,
            columns={name: columns[name] for name in BY_NAME if name in columns},
            one_sided=self._one_sided(tally),
            requests=_requests(tally.notes[layout.REQUEST], tally.vms),
        )

    def sides(self) -> tuple[Sides, ...]:
        """Which directions of each VM's traffic were seen so far."""
        by_seen = {(False, False): Sides.NONE, (True, False): Sides.ONLY_TO, (False, True): Sides.ONLY_FROM}
        return tuple(by_seen.get((bool(to), bool(of)), Sides.BOTH) for to, of in self._seen.T)

    def _one_sided(self, tally: Tally) -> NDArray[np.bool_]:
        """Cells with traffic of a VM of which only one direction has ever been seen: nobody answers, or half is hidden."""
        there = [tally.column(name) > 0 for name in ("rx_packets", "tx_packets")]
        ever = [np.logical_or.accumulate(np.vstack([self._seen[k], there[k]]), axis=0) for k in range(2)]
        self._seen = np.stack([each[-1] for each in ever])
        one_sided: NDArray[np.bool_] = (there[0] | there[1]) & (ever[0][1:] != ever[1][1:])
        return one_sided


def _quantiles(tally: Tally, kind: int) -> Floats:
    """float64[levels, k, V], in ms."""
    noted, shape = tally.notes[kind], tally.counts.shape[:2]
    found_ns = cell_quantiles(noted.cells, noted.values, tuple(_LEVELS.values()), shape[0] * shape[1])
    return (found_ns / 1e6).reshape(len(_LEVELS), *shape)


def _histogram(tally: Tally, kind: int) -> Iterator[NDArray[np.generic]]:
    """Of the times of one kind, how many are up to each of BUCKETS_MS, int64[k, V] each; then their sum, ms."""
    noted, shape, buckets = tally.notes[kind], tally.counts.shape[:2], len(BUCKETS_MS)
    cells = shape[0] * shape[1]
    bucket = np.searchsorted(np.array(BUCKETS_MS) * 1e6, noted.values, side="left")
    counts = np.bincount(noted.cells * buckets + bucket, minlength=cells * buckets).reshape(cells, buckets).cumsum(axis=1)
    yield from (np.ascontiguousarray(column).reshape(shape) for column in counts.T)
    yield np.bincount(noted.cells, weights=noted.values / 1e6, minlength=cells).astype(np.float64).reshape(shape)


def _requests(noted: Notes, vms: int) -> Requests:
    """Requests in the order of their record, from notes."""
    vm, ordered = np.empty_like(noted.cells), np.empty_like(noted.values)
    closing_kernels.order_by_vm(noted.cells, noted.values, vms, vm, ordered)
    return Requests(time_ns=ordered >> 1, vm=vm.astype(np.int32), opens=(ordered & 1).astype(np.bool_))


def cell_quantiles(cells: Ints, values: Floats | Ints, levels: tuple[float, ...], count: int) -> Floats:
    """Quantiles of the values in each of `count` cells, by linear interpolation (Hyndman and Fan's type 7).

    cells int64[n], from 0; values[n]; levels increase. Gives float64[levels, count], NaN for a cell without values.
    """
    quantiles: Floats = np.full((len(levels), count), np.nan)
    closing_kernels.cell_quantiles(cells, values, np.array(levels, np.float64), quantiles)
    return quantiles
