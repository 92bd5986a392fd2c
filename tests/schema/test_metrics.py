"""The catalogue of metrics: what DESIGN.md section 5 lists, each name once, each with its provenance and roll-up."""

from __future__ import annotations

import re

import pytest

from adumbra.schema import metrics
from adumbra.schema.metrics import BUCKETS_MS, BY_NAME, HISTOGRAMS, METRICS, NAMES, TOLD, Kind, Provenance, Rollup, provenance

OBSERVED = [
    "rx_bytes",
    "tx_bytes",
    "rx_packets",
    "tx_packets",
    "connections_attempted",
    "connections_established",
    "connections_failed",
    "connections_active",
    "peers",
    "rtt_ms_p50",
    "rtt_ms_p99",
    "missed_packets",
]
INFERRED = ["requests", "response_ms_p50", "response_ms_p99", "retransmitted_packets", "loss_ratio"]
SIMULATED = [
    "latency_ms_p50",
    "latency_ms_p95",
    "latency_ms_p99",
    "cpu_utilization",
    "cpu_seconds",
    "memory_bytes",
    "storage_bytes",
    "storage_ops",
    "dropped_ratio",
]


def test_every_column_of_the_design_is_there_with_its_provenance() -> None:
    for declared, names in (
        (Provenance.OBSERVED, OBSERVED),
        (Provenance.INFERRED, INFERRED),
        (Provenance.SIMULATED, SIMULATED),
    ):
        assert {name: BY_NAME[name].provenance for name in names} == dict.fromkeys(names, declared)
    added = {  # beyond the design: decisions 2 and 7
        "connections_initiated", "ack_ms_p50", "ack_ms_p99", "out_of_order_packets", "duplicate_acks", "zero_windows",
        "connections_scanned", "scan_bytes", "sampling_error_ratio",
    }  # fmt: skip
    bounds = {f"{name}_{end}" for name in SIMULATED for end in ("low", "high")}
    assert set(TOLD) - {*OBSERVED, *INFERRED, *SIMULATED} == added | bounds
    assert set(NAMES) - set(TOLD) == {name for columns in HISTOGRAMS.values() for name in columns}


@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize("end", ["low", "high"])
def test_every_simulated_column_has_an_interval_like_itself(name: str, end: str) -> None:
    column, bound = BY_NAME[name], BY_NAME[f"{name}_{end}"]
    assert (bound.unit, bound.provenance, bound.rollup) == (column.unit, column.provenance, column.rollup)
    assert bound.prometheus.replace(f"_{end}", "") == column.prometheus != bound.prometheus


def test_names_are_unique_and_in_order() -> None:
    assert len(NAMES) == len(set(NAMES)) == len(METRICS)
    assert tuple(metric.name for metric in METRICS) == NAMES
    assert all(re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", name) for name in NAMES)


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_each_metric_by_prometheus_conventions(metric: metrics.Metric) -> None:
    assert re.fullmatch(r"adumbra_vm(_[a-z]+|_p\d\d)+", metric.prometheus)
    assert metric.help.endswith(".")
    assert metric.prometheus.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert metric.family.endswith("_seconds") or metric.unit != "ms"
    assert metric.scale == (1e-3 if metric.unit == "ms" else 1.0)
    if metric.whole:
        assert metric.provenance is not Provenance.SIMULATED
    if metric.rollup is Rollup.SUM:
        assert metric.unit in {"bytes", "packets", "count", "s"} or metric.kind is Kind.HISTOGRAM


def test_each_column_is_a_series_of_its_own() -> None:
    assert len({(metric.prometheus, metric.le) for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("stem", HISTOGRAMS)
def test_a_histogram_has_a_count_up_to_each_bound_and_a_sum(stem: str) -> None:
    *buckets, total = (BY_NAME[name] for name in HISTOGRAMS[stem])
    assert [float(metric.le) * 1e3 for metric in buckets] == pytest.approx(BUCKETS_MS)
    assert {metric.prometheus for metric in buckets} == {f"{total.family}_bucket"}
    assert (total.prometheus, total.unit, total.le) == (f"{total.family}_sum", "ms", "")
    assert {metric.provenance for metric in (*buckets, total)} == {BY_NAME[f"{stem}_ms_p99"].provenance}


@pytest.mark.parametrize(
    ("name", "one_sided", "live", "want"),
    [
        ("rx_bytes", False, False, Provenance.OBSERVED),
        ("rtt_ms_p50", False, False, Provenance.OBSERVED),
        ("rtt_ms_p99", True, False, Provenance.SIMULATED),
        ("requests", True, False, Provenance.INFERRED),
        ("cpu_seconds", False, False, Provenance.SIMULATED),
        ("cpu_seconds", False, True, Provenance.OBSERVED),
    ],
)
def test_how_a_value_was_come_by(name: str, one_sided: bool, live: bool, want: Provenance) -> None:
    assert provenance(name, one_sided=one_sided, live=live) is want


def test_an_unknown_column_has_no_provenance() -> None:
    with pytest.raises(KeyError):
        provenance("colour")
