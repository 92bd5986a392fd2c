"""The metric catalogue: each column's unit, kind, provenance, roll-up and Prometheus name. Facts only; computes nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum


class Provenance(StrEnum):
    """How a number was come by."""

    OBSERVED = "observed"  # counted or timed in traffic, or read from a live machine
    INFERRED = "inferred"  # concluded from what was observed, by a stated rule
    SIMULATED = "simulated"  # given by an emulated VM


class Rollup(StrEnum):
    """How a column's values over several intervals become one."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    LAST = "last"


class Kind(StrEnum):
    """What a column is to a time-series database."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of a metric batch. `whole` columns hold counts; the others are floats in which NaN means "not known".

    prometheus: the series' name there, of which with `le` each column has its own. le: of a histogram's bucket, its upper bound
    in seconds as its label says it, "" for what is no bucket.
    """

    name: str
    unit: str
    provenance: Provenance
    rollup: Rollup
    prometheus: str
    help: str
    le: str = ""

    @property
    def whole(self) -> bool:
        return self.unit in {"bytes", "packets", "count"} and self.provenance is not Provenance.SIMULATED

    @property
    def kind(self) -> Kind:
        if self.le or self.prometheus.endswith("_sum"):
            return Kind.HISTOGRAM
        return Kind.COUNTER if self.rollup is Rollup.SUM else Kind.GAUGE

    @property
    def family(self) -> str:
        """The metric's name in Prometheus' sense: of a histogram, what its buckets and sum have in common."""
        return self.prometheus.removesuffix("_bucket").removesuffix("_sum") if self.kind is Kind.HISTOGRAM else self.prometheus

    @property
    def scale(self) -> float:
        """What a value is multiplied by to be in base units: seconds."""
        return 1e-3 if self.unit == "ms" else 1.0


def _observed(name: str, unit: str, rollup: Rollup, prometheus: str, help: str) -> Metric:
    return Metric(name, unit, Provenance.OBSERVED, rollup, prometheus, help)


def _inferred(name: str, unit: str, rollup: Rollup, prometheus: str, help: str) -> Metric:
    return Metric(name, unit, Provenance.INFERRED, rollup, prometheus, help)


def _simulated(name: str, unit: str, rollup: Rollup, prometheus: str, help: str) -> Metric:
    return Metric(name, unit, Provenance.SIMULATED, rollup, prometheus, help)


_S, _MEAN, _MAX, _LAST = Rollup.SUM, Rollup.MEAN, Rollup.MAX, Rollup.LAST

_PLAIN: tuple[Metric, ...] = (
    _observed("rx_bytes", "bytes", _S, "adumbra_vm_receive_bytes_total", "IP-layer bytes towards the VM."),
    _observed("tx_bytes", "bytes", _S, "adumbra_vm_transmit_bytes_total", "IP-layer bytes from the VM."),
    _observed("rx_packets", "packets", _S, "adumbra_vm_receive_packets_total", "IP packets towards the VM."),
    _observed("tx_packets", "packets", _S, "adumbra_vm_transmit_packets_total", "IP packets from the VM."),
    _observed(
        "connections_attempted",
        "count",
        _S,
        "adumbra_vm_connections_attempted_total",
        "TCP connections of which the VM is either end that were begun by a SYN; a retransmitted SYN counts once.",
    ),
    _observed(
        "connections_initiated",
        "count",
        _S,
        "adumbra_vm_connections_initiated_total",
        "Those of the attempted connections that the VM itself opened.",
    ),
    _observed(
        "connections_established",
        "count",
        _S,
        "adumbra_vm_connections_established_total",
        "TCP three-way handshakes completed, counted when the closing ACK is seen.",
    ),
    _observed(
        "connections_failed",
        "count",
        _S,
        "adumbra_vm_connections_failed_total",
        "TCP attempts that were reset before they were established, or never answered.",
    ),
    _observed(
        "connections_active",
        "count",
        _LAST,
        "adumbra_vm_connections_active",
        "TCP connections of the VM that are open at the end of the interval.",
    ),
    _observed("peers", "count", _MAX, "adumbra_vm_peers", "Distinct remote addresses that the VM exchanged packets with."),
    _inferred(
        "requests",
        "count",
        _S,
        "adumbra_vm_requests_total",
        "Requests to the VM: a client's data after the server's, or the first on a connection.",
    ),
    _observed("rtt_ms_p50", "ms", _MEAN, "adumbra_vm_round_trip_median_seconds", "Median round trip, from TCP handshakes."),
    _observed("rtt_ms_p99", "ms", _MAX, "adumbra_vm_round_trip_p99_seconds", "99th percentile of round trips."),
    _observed(
        "ack_ms_p50",
        "ms",
        _MEAN,
        "adumbra_vm_acknowledgement_median_seconds",
        "Median time from data that the VM sent, as it passed the tap, to its TCP timestamp's echo by the other end.",
    ),
    _observed("ack_ms_p99", "ms", _MAX, "adumbra_vm_acknowledgement_p99_seconds", "99th percentile of these times."),
    _inferred(
        "response_ms_p50",
        "ms",
        _MEAN,
        "adumbra_vm_response_median_seconds",
        "Median time from the last byte of a request to the first of its response.",
    ),
    _inferred("response_ms_p99", "ms", _MAX, "adumbra_vm_response_p99_seconds", "99th percentile of response times."),
    _inferred(
        "retransmitted_packets",
        "count",
        _S,
        "adumbra_vm_retransmitted_packets_total",
        "TCP segments, to or from the VM, whose sequence numbers had been seen before.",
    ),
    _inferred(
        "out_of_order_packets",
        "count",
        _S,
        "adumbra_vm_out_of_order_packets_total",
        "TCP segments, to or from the VM, that came after later ones but hadn't been seen before.",
    ),
    _inferred(
        "duplicate_acks",
        "count",
        _S,
        "adumbra_vm_duplicate_acks_total",
        "TCP acknowledgements, to or from the VM, that repeat the last one and carry nothing else.",
    ),
    _observed(
        "zero_windows",
        "count",
        _S,
        "adumbra_vm_zero_windows_total",
        "TCP segments from the VM that say it can take no more data now.",
    ),
    _inferred(
        "connections_scanned",
        "count",
        _S,
        "adumbra_vm_connections_scanned_total",
        "Those of the attempted connections that came from scanners or background radiation: no demand.",
    ),
    _inferred(
        "scan_bytes",
        "bytes",
        _S,
        "adumbra_vm_scan_bytes_total",
        "Those of the IP-layer bytes towards the VM that came from scanners or background radiation: no demand.",
    ),
    _inferred(
        "loss_ratio",
        "ratio",
        _MEAN,
        "adumbra_vm_loss_ratio",
        "Retransmitted segments as a share of all segments with data.",
    ),
    _simulated(
        "latency_ms_p50", "ms", _MEAN, "adumbra_vm_latency_median_seconds", "Median emulated latency: link, queue, service."
    ),
    _simulated("latency_ms_p95", "ms", _MAX, "adumbra_vm_latency_p95_seconds", "95th percentile of emulated latency."),
    _simulated("latency_ms_p99", "ms", _MAX, "adumbra_vm_latency_p99_seconds", "99th percentile of emulated latency."),
    _simulated("cpu_utilization", "ratio", _MEAN, "adumbra_vm_cpu_utilization_ratio", "Busy share of the VM's cores, 0 to 1."),
    _simulated("cpu_seconds", "s", _S, "adumbra_vm_cpu_seconds_total", "CPU time used."),
    _simulated("memory_bytes", "bytes", _MAX, "adumbra_vm_memory_bytes", "Memory in use."),
    _simulated("storage_bytes", "bytes", _LAST, "adumbra_vm_storage_bytes", "Storage in use."),
    _simulated("storage_ops", "count", _S, "adumbra_vm_storage_operations_total", "Storage operations."),
    _simulated(
        "dropped_ratio",
        "ratio",
        _MEAN,
        "adumbra_vm_dropped_ratio",
        "Share of the offered packets that the emulated link and queue refuse.",
    ),
    _observed(
        "missed_packets",
        "packets",
        _S,
        "adumbra_vm_missed_packets_total",
        "Packets that may have been the VM's and were not metered: kernel drops, table full, malformed, too late.",
    ),
    _inferred(
        "sampling_error_ratio",
        "ratio",
        _MAX,
        "adumbra_vm_sampling_error_ratio",
        "Relative standard error of the VM's packet counts, where the source looked at a sample only; 0 where at all packets.",
    ),
)

_UNIT = re.compile(r"(_seconds|_bytes|_ratio)?(_total)?$")
_PERCENTILES: dict[str, str] = {"low": "10th", "high": "90th"}


def _bound(metric: Metric, end: str) -> Metric:
    """An end of the interval of a simulated metric, beside which it stands: 80 % over what is believed of the VM."""
    told = (
        f"{_PERCENTILES[end]} percentile of {metric.name} over what is believed of the VM: an end of its 80 % interval. "
        "Rolled up as that is, so that the interval of several intervals is rather too wide than too narrow."
    )
    prometheus = _UNIT.sub(lambda unit: f"_{end}{unit[0]}", metric.prometheus, count=1)
    return replace(metric, name=f"{metric.name}_{end}", prometheus=prometheus, help=told)


BUCKETS_MS: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, math.inf)
"""Upper bounds of the buckets of every histogram: times up to and including each are counted in it."""
_BOUNDS: tuple[tuple[str, str], ...] = (  # of a column's name, and of Prometheus' label in seconds
    ("100us", "0.0001"), ("300us", "0.0003"), ("1ms", "0.001"), ("3ms", "0.003"), ("10ms", "0.01"), ("30ms", "0.03"),
    ("100ms", "0.1"), ("300ms", "0.3"), ("1s", "1.0"), ("3s", "3.0"), ("inf", "+Inf"),
)  # fmt: skip
_TIMED: tuple[tuple[str, Provenance, str, str], ...] = (
    ("rtt", Provenance.OBSERVED, "adumbra_vm_round_trip_seconds", "Round trips, from TCP handshakes"),
    (
        "ack",
        Provenance.OBSERVED,
        "adumbra_vm_acknowledgement_seconds",
        "Times from data sent to its TCP timestamp's echo",
    ),
    (
        "response",
        Provenance.INFERRED,
        "adumbra_vm_response_seconds",
        "Times from the end of a request to its response",
    ),
    ("latency", Provenance.SIMULATED, "adumbra_vm_latency_seconds", "Emulated latencies: link, queue, service"),
)


def _histogram(stem: str, provenance: Provenance, family: str, told: str) -> Iterator[Metric]:
    """The columns of a histogram: counts of the times up to each bound, as Prometheus has them, and the sum of all times."""
    for bound, le in _BOUNDS:
        yield Metric(f"{stem}_le_{bound}", "count", provenance, _S, f"{family}_bucket", f"{told}.", le)
    yield Metric(f"{stem}_sum_ms", "ms", provenance, _S, f"{family}_sum", f"{told}.")


HISTOGRAMS: dict[str, tuple[str, ...]] = {
    timed[0]: tuple(metric.name for metric in _histogram(*timed)) for timed in _TIMED
}  # fmt: skip
"""The columns of each histogram by what is timed: a count for each of BUCKETS_MS, then the sum in ms."""
BOUNDED: tuple[str, ...] = tuple(metric.name for metric in _PLAIN if metric.provenance is Provenance.SIMULATED)
"""The simulated columns, beside each of which stand the ends of its interval, `<name>_low` and `<name>_high`."""
METRICS: tuple[Metric, ...] = (
    *_PLAIN,
    *(_bound(metric, end) for metric in _PLAIN if metric.name in BOUNDED for end in _PERCENTILES),
    *(metric for timed in _TIMED for metric in _histogram(*timed)),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
NAMES: tuple[str, ...] = tuple(BY_NAME)
TOLD: tuple[str, ...] = tuple(name for name, metric in BY_NAME.items() if metric.kind is not Kind.HISTOGRAM)
"""The columns that people read: all but the histograms', of which these have the percentiles."""
SIMULATED_WHERE_ONE_SIDED: frozenset[str] = frozenset({"rtt_ms_p50", "rtt_ms_p99"})
"""Columns whose value is simulated in the intervals in which only one side of the traffic was seen."""


def provenance(name: str, *, one_sided: bool = False, live: bool = False) -> Provenance:
    """How a value of column `name` was come by: in an interval seen one-sidedly, or read from a live machine.

    Raises KeyError for a column that the catalogue doesn't have.
    """
    if one_sided and name in SIMULATED_WHERE_ONE_SIDED:
        return Provenance.SIMULATED
    declared = BY_NAME[name].provenance
    return Provenance.OBSERVED if live and declared is Provenance.SIMULATED else declared
