"""Recording and alerting rules for Prometheus, from the metric catalogue. Pure: gives text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adumbra.schema.metrics import BOUNDED, BY_NAME, HISTOGRAMS, TOLD, Kind, Metric

LABELS: dict[str, str] = {
    "vm": "network, vm, subnet, role, origin", "network_role": "network, role, origin", "network": "network, origin",
}  # fmt: skip
"""The labels that are left at each level of a recorded series."""
QUANTILES: dict[str, float] = {"p50": 0.5, "p99": 0.99}
ADDED_UP: tuple[str, ...] = ("connections_active", "memory_bytes", "storage_bytes")
"""The gauges of which a sum over VMs means something."""
RUNBOOK = "docs/monitoring.md"
_LAST = "_total"


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded series. Named level:metric:operations, as Prometheus' documentation has it."""

    record: str
    expr: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert. summary, description: templates of Prometheus'."""

    name: str
    expr: str
    hold: str
    severity: str
    summary: str
    description: str


def recorded(level: str, metric: Metric, operation: str) -> str:
    """The name of a recorded series."""
    return f"{level}:{metric.family.removesuffix(_LAST)}:{operation}"


def recordings() -> dict[str, list[Recording]]:
    """By group, of which each rule may build on those before it.

    A series of a VM may be there twice, written and scraped: the larger counts, never the sum.
    """
    return {"adumbra_rates": [*_vm_rates(), *_sums(), *_shares()], "adumbra_times": [*_times("vm"), *_times("network")]}


def _counters() -> list[Metric]:
    return [BY_NAME[name] for name in TOLD if BY_NAME[name].kind is Kind.COUNTER]


def _vm_rates() -> Iterator[Recording]:
    for metric in _counters():
        yield Recording(recorded("vm", metric, "rate5m"), f"max by ({LABELS['vm']}) (rate({metric.prometheus}[5m]))")


def _times(level: str) -> Iterator[Recording]:
    for columns in HISTOGRAMS.values():
        metric = BY_NAME[columns[0]]
        rate = f"max by (le, {LABELS['vm']}) (rate({metric.prometheus}[5m]))"
        summed = rate if level == "vm" else f"sum by (le, {LABELS[level]}) ({rate})"
        for name, share in QUANTILES.items():
            yield Recording(recorded(level, metric, f"{name}_rate5m"), f"histogram_quantile({share}, {summed}) >= 0")


def _sums() -> Iterator[Recording]:
    """Sums over VMs. Ends of intervals don't add up; what the tap missed is told of every VM, so there the largest counts."""
    bounds = {f"{name}_{end}" for name in BOUNDED for end in ("low", "high")}
    for level in ("network_role", "network"):
        for metric in _counters():
            if metric.name not in bounds:
                how = "max" if metric.name == "missed_packets" else "sum"
                of = recorded("vm", metric, "rate5m")
                yield Recording(recorded(level, metric, "rate5m"), f"{how} by ({LABELS[level]}) ({of})")
        for name in ADDED_UP:
            metric = BY_NAME[name]
            each = f"max by ({LABELS['vm']}) ({metric.prometheus})"
            yield Recording(recorded(level, metric, "sum"), f"sum by ({LABELS[level]}) ({each})")


def _shares() -> Iterator[Recording]:
    rate = {name: recorded("network", BY_NAME[name], "rate5m") for name in TOLD}
    metered = f"({rate['rx_packets']} + {rate['tx_packets']} + {rate['missed_packets']})"
    yield Recording(recorded("network", BY_NAME["missed_packets"], "ratio_rate5m"), f"{rate['missed_packets']} / {metered}")
    for part, whole in (("connections_scanned", "connections_attempted"), ("scan_bytes", "rx_bytes")):
        of = [recorded("vm", BY_NAME[name], "rate5m") for name in (part, whole)]
        yield Recording(recorded("vm", BY_NAME[part], "ratio_rate5m"), f"{of[0]} / ({of[1]} > 0)")


def _upper_end(column: str) -> str:
    """The largest upper end of what is simulated of each VM, over a quarter of an hour."""
    series = f'{BY_NAME[f"{column}_high"].prometheus}{{origin="shadow"}}'
    return f"max by (network, vm) (max_over_time({series}[15m]))"


def _near(resource: str, column: str, declared: str) -> Alert:
    return Alert(
        f"AdumbraVm{resource}Short",
        f"{_upper_end(column)} / on (network, vm) max by (network, vm) ({declared}) > 0.9",
        "15m",
        "warning",
        f"{{{{ $labels.vm }}}} of {{{{ $labels.network }}}} may need all of its {resource.lower()}.",
        f"The upper end of the interval of its simulated {resource.lower()} is {{{{ $value | humanizePercentage }}}} of what "
        "it is declared with.",
    )


def alerts() -> list[Alert]:
    utilization = f'{BY_NAME["cpu_utilization_high"].prometheus}{{origin="shadow"}}'
    loss, refused = BY_NAME["loss_ratio"].prometheus, BY_NAME["dropped_ratio"].prometheus
    scanned = recorded("vm", BY_NAME["connections_scanned"], "rate5m")
    dropped = "adumbra_store_dropped_samples_total"
    one = "{{ $labels.vm }} of {{ $labels.network }}"
    return [
        Alert(
            "AdumbraTapLosesPackets",
            "sum by (network) (rate(adumbra_packets_lost_total[5m])) "
            "/ sum by (network) (rate(adumbra_packets_offered_total[5m])) > 0.001",
            "5m", "warning",
            "The tap of {{ $labels.network }} loses packets.",
            "{{ $value | humanizePercentage }} of the packets could not be metered: adumbra_packets_lost_total says why.",
        ),
        Alert(
            "AdumbraPacketsMissed",
            f"{recorded('network', BY_NAME['missed_packets'], 'ratio_rate5m')} > 0.001",
            "5m", "warning",
            "The metrics of {{ $labels.network }} lack packets.",
            "{{ $value | humanizePercentage }} of the packets that may have been its VMs' are in no metric of these.",
        ),
        Alert(
            "AdumbraMetricsStopped",
            "(time() - max by (network, origin) (max_over_time(adumbra_network_interval_end_seconds[1h])) > 300) < 86400",
            "2m", "critical",
            "The {{ $labels.origin }} metrics of {{ $labels.network }} have stopped.",
            "The last interval ended {{ $value | humanizeDuration }} ago.",
        ),
        Alert(
            "AdumbraStoreUnavailable", "adumbra_store_up == 0", "10m", "critical",
            "{{ $labels.store }} takes no metrics.",
            "What is to be sent there waits on the disk of {{ $labels.instance }}, up to a bound.",
        ),
        Alert(
            "AdumbraStoreRefuses",
            f"increase({dropped}[10m]) > 0 or ({dropped} unless {dropped} offset 10m) > 0",
            "0m", "warning",
            "{{ $labels.store }} refuses samples.",
            "{{ $value | humanize }} samples were refused for good and are lost ({{ $labels.reason }}).",
        ),
        Alert(
            "AdumbraSpoolFills", "adumbra_spool_bytes / adumbra_spool_bound_bytes > 0.5", "10m", "warning",
            "More and more waits to be sent to {{ $labels.store }}.",
            "{{ $value | humanizePercentage }} of the room on {{ $labels.instance }} is taken; then the oldest batches go.",
        ),
        Alert(
            "AdumbraSpoolOld", "adumbra_spool_oldest_age_seconds > 900", "5m", "warning",
            "What is sent to {{ $labels.store }} comes late.",
            "The oldest batch on {{ $labels.instance }} has been waiting for {{ $value | humanizeDuration }}.",
        ),
        Alert(
            "AdumbraSpoolLoses", "increase(adumbra_spool_lost_records_total[10m]) > 0", "0m", "critical",
            "Metrics on their way to {{ $labels.store }} are lost.",
            "{{ $value | humanize }} batches on {{ $labels.instance }} were lost ({{ $labels.reason }}).",
        ),
        Alert(
            "AdumbraVmCpuShort",
            f"max by (network, vm) (avg_over_time({utilization}[15m])) > 0.95",
            "15m", "warning",
            f"{one} may need more cores than it has.",
            "The upper end of the interval of its simulated CPU is {{ $value | humanizePercentage }} of its cores.",
        ),
        _near("Memory", "memory_bytes", "adumbra_vm_declared_memory_bytes"),
        _near("Storage", "storage_bytes", "adumbra_vm_declared_storage_bytes"),
        Alert(
            "AdumbraVmScanned",
            f"{scanned} > 1 and {recorded('vm', BY_NAME['connections_scanned'], 'ratio_rate5m')} > 0.5",
            "15m", "info",
            f"{one} is being scanned.",
            "{{ $value | humanize }} connections a second come from scanners: more than from anybody else.",
        ),
        Alert(
            "AdumbraVmLoss",
            f"max by (network, vm, origin) (avg_over_time({loss}[10m])) > 0.02",
            "10m", "warning",
            f"{one} and its peers send much twice.",
            "{{ $value | humanizePercentage }} of the TCP segments with data were retransmitted.",
        ),
        Alert(
            "AdumbraVmLinkFull",
            f'max by (network, vm) (avg_over_time({refused}{{origin="shadow"}}[10m])) > 0.001',
            "10m", "warning",
            f"The link of {one} is too small.",
            "Its emulated link and queue refuse {{ $value | humanizePercentage }} of the packets.",
        ),
    ]  # fmt: skip


def rules_yaml() -> str:
    """The file for Prometheus' rule_files."""
    lines = ["# Written by `python -m tools.monitoring` from the metric catalogue: change that, not this.", "groups:"]
    for group, rules in recordings().items():
        lines += [f"  - name: {group}", "    interval: 1m", "    rules:"]
        for rule in rules:
            lines += _item({"record": rule.record, "expr": rule.expr})
    lines += ["  - name: adumbra_alerts", "    interval: 1m", "    rules:"]
    for alert in alerts():
        lines += _item({"alert": alert.name, "expr": alert.expr, "for": alert.hold})
        lines += _mapping("labels", {"severity": alert.severity})
        runbook = f"{RUNBOOK}#{alert.name.lower()}"
        lines += _mapping("annotations", {"summary": alert.summary, "description": alert.description, "runbook": runbook})
    return "\n".join([*lines, ""])


def _item(pairs: Mapping[str, str]) -> list[str]:
    return [f"      {'-' if not place else ' '} {key}: {_scalar(value)}" for place, (key, value) in enumerate(pairs.items())]


def _mapping(name: str, pairs: Mapping[str, str]) -> list[str]:
    return [f"        {name}:", *(f"          {key}: {_scalar(value)}" for key, value in pairs.items())]


def _scalar(text: str) -> str:
    return text if text.replace("_", "").replace(":", "").isalnum() else json.dumps(text, ensure_ascii=False)
