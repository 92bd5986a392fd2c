"""Grafana's dashboards, from the catalogues: one of a network's VMs, one of the processes themselves. Pure: gives text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tools.monitoring.panels import Line, Panel, Row, Variable, choice, custom, dashboard

from adumbra.schema.metrics import BY_NAME, HISTOGRAMS, SIMULATED_WHERE_ONE_SIDED, Kind, Metric, Provenance
from adumbra.schema.own_metrics import OWN_BY_NAME

VMS = 'network="$network", origin="$origin", vm=~"$vm"'
ONE = 'network="$network", origin="$origin", vm="$one"'
OWN = 'job="$job", instance=~"$instance"'
UPPER, LOWER = "90th percentile", "10th percentile"
_WINDOW = "[$__rate_interval]"
_QUANTILES = (0.5, 0.9, 0.99)
_SIDED = "adumbra_vm_one_sided_ratio"
_REACH = "adumbra_network_interval_end_seconds"


def network_dashboard() -> str:
    """What is known of a network's VMs."""
    choices: list[dict[str, Any]] = [
        choice(Variable("network", "Network", f"label_values({_REACH}, network)")),
        choice(Variable("origin", "Machines", f'label_values({_REACH}{{network="$network"}}, origin)')),
        choice(Variable("vm", "VMs", f'label_values({_SIDED}{{network="$network", origin="$origin"}}, vm)', many=True)),
        custom("top", "VMs shown", ("10", "20", "50", "100")),
        choice(Variable("one", "VM in detail", f'label_values({_SIDED}{{network="$network", origin="$origin"}}, vm)')),
    ]
    rows = (
        Row("Now", _now()),
        Row("Traffic and connections: all chosen VMs", _sums()),
        Row("By VM: the largest", _by_vm()),
        Row("Times: all chosen VMs", tuple(panel for stem in HISTOGRAMS for panel in _times(stem))),
        Row("Times by VM, as each interval tells them", _percentiles(), folded=True),
        Row("VM in detail: $one. Areas are 80 % intervals", _bands()),
        Row("How far to trust it", _trust()),
    )
    told = "What passes a network's shadow, and what its emulated VMs make of it. Each title says how its numbers were come by."
    return _text(dashboard("adumbra-network", "Adumbra: network", told, choices, rows))


def process_dashboard() -> str:
    """How the processes do that make the metrics."""
    choices = [
        choice(Variable("job", "Job", "label_values(adumbra_build_info, job)")),
        choice(Variable("instance", "Processes", 'label_values(adumbra_build_info{job="$job"}, instance)', many=True)),
    ]
    told = "The processes that meter, emulate and store: what they lose, what waits, what they use."
    rows = (
        Row("Now", (
            _own_now("Versions", "count by (version) ", "adumbra_build_info", "short", "{{version}}"),
            _own_now("Waiting on disk", "sum", "adumbra_spool_bytes", "bytes"),
            _own_now("Oldest that waits", "max", "adumbra_spool_oldest_age_seconds", "s"),
            _own_now("Stores that take metrics", "sum", "adumbra_store_up", "short"),
        )),
        Row("Packets", (
            _own("Packets", "pps", (
                "adumbra_packets_offered_total", "adumbra_packets_parsed_total", "adumbra_packets_attributed_total")),
            _own("Lost, by reason", "pps", ("adumbra_packets_lost_total",), "reason"),
            _own("Ignored, by reason", "pps", ("adumbra_packets_ignored_total",), "reason"),
            _own("Full tables and rings", "short", ("adumbra_evictions_total", "adumbra_ring_freezes_total"), "table"),
            _own("Scanners found", "short", ("adumbra_scanners_total",), "network"),
            _own("Intervals closed", "short", ("adumbra_intervals_closed_total",), "network, origin"),
            _own("Flow exports", "short", ("adumbra_flow_exports_total",), "part"),
            _own("Sets of flows that wait for a template", "short", ("adumbra_flow_export_sets_waiting",), "network"),
            _own("Left out, and failed", "short", ("adumbra_latest_rows_left_out_total", "adumbra_readings_failed_total")),
        )),
        Row("Stores", (
            _own("Samples taken", "short", ("adumbra_store_samples_total",), "store"),
            _own("Samples refused, by reason", "short", ("adumbra_store_dropped_samples_total",), "store, reason"),
            _own("Requests, retries, failures", "short", (
                "adumbra_store_requests_total", "adumbra_store_retries_total", "adumbra_store_failures_total"), "store"),
            _own("Sent", "Bps", ("adumbra_store_sent_bytes_total",), "store"),
            _own("Waiting on disk, and its bound", "bytes", ("adumbra_spool_bytes", "adumbra_spool_bound_bytes"), "store"),
            _own("Batches that wait", "short", ("adumbra_spool_records",), "store"),
            _own("How long the oldest has been waiting", "s", ("adumbra_spool_oldest_age_seconds",), "store"),
            _own("Batches lost, by reason", "short", ("adumbra_spool_lost_records_total",), "store, reason"),
            _own("Takes metrics", "short", ("adumbra_store_up",), "store"),
        )),
        Row("Server", (
            _own("Networks, by state", "short", ("adumbra_networks",), "state"),
            _own("Networks looked after", "short", ("adumbra_networks_owned",)),
            _own("Sources, by state", "short", ("adumbra_sources",), "place, state"),
            _own("Taps and workers", "short", ("adumbra_taps_running", "adumbra_workers_running")),
            _own("Taps begun again, jobs begun", "short", ("adumbra_tap_restarts_total", "adumbra_jobs_begun_total")),
            _own("Jobs, by state", "short", ("adumbra_jobs",), "kind, state"),
            _own("Loops: runs and failures", "short", ("adumbra_loop_runs_total", "adumbra_loop_failures_total"), "loop"),
            _own("Loops that are well", "short", ("adumbra_loop_up",), "loop"),
            _own("How long loops take", "s", ("adumbra_loop_seconds",), "loop"),
            _own("Real machines", "short", ("adumbra_live_machines",), "network"),
            _own("Real machines: could be read", "short", ("adumbra_live_up",), "network"),
            _own("Real machines: intervals, failures", "short", (
                "adumbra_live_rows_total", "adumbra_live_failures_total"), "network"),
            _own("Real machines: left out, by reason", "short", ("adumbra_live_left_out_total",), "network, reason"),
            _own("Requests", "reqps", ("adumbra_http_requests_total",), "route, status"),
            _slowest("Requests: 99 % are answered within", "s", "adumbra_http_request_seconds", "route"),
            _own("Requests being answered", "short", ("adumbra_http_requests_open",)),
        )),
        Row("Processes", (
            _process("CPU", "short", f"rate(process_cpu_seconds_total{{{OWN}}}{_WINDOW})", "Cores in use."),
            _process("Memory", "bytes", f"process_resident_memory_bytes{{{OWN}}}", "Resident memory."),
            _process("Open files", "short", f"process_open_fds{{{OWN}}}", "Open file descriptors, of process_max_fds."),
        )),
    )  # fmt: skip
    return _text(dashboard("adumbra-process", "Adumbra: processes", told, choices, rows))


def _text(made: dict[str, Any]) -> str:
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _how(metrics: Sequence[Metric]) -> str:
    """How the numbers of a panel were come by, for its title."""
    found = dict.fromkeys(metric.provenance for metric in metrics)
    return " and ".join(provenance.value for provenance in found)


def _told(metrics: Sequence[Metric]) -> str:
    """What a panel shows, from the catalogue."""
    told = list(dict.fromkeys(f"{metric.provenance.value.capitalize()}: {metric.help}" for metric in metrics))
    if any(metric.name in SIMULATED_WHERE_ONE_SIDED for metric in metrics):
        told.append("Simulated in intervals in which only one side of the traffic was seen.")
    if any(metric.provenance is Provenance.SIMULATED for metric in metrics):
        told.append("Of live machines: observed.")
    return "\n\n".join(told)


def _value(metric: Metric, selector: str) -> str:
    """A metric's value: a counter's rate."""
    series = f"{metric.prometheus}{{{selector}}}"
    return f"rate({series}{_WINDOW})" if metric.kind is Kind.COUNTER else series


def _each(metric: Metric, by: str = "vm") -> str:
    """Each VM once, also where it is both written and scraped."""
    return f"max by ({by}) ({_value(metric, VMS)})"


def _now() -> tuple[Panel, ...]:
    def stat(title: str, unit: str, column: str, factor: str = "") -> Panel:
        metric = BY_NAME[column]
        expr = f"sum({_each(metric)}){factor}"
        return Panel(f"{title} ({_how([metric])})", (Line(expr, instant=True),), unit, _told([metric]), "stat", 3, 4)

    reach = f'max({_REACH}{{network="$network", origin="$origin"}})'
    return (
        Panel(
            "VMs", (Line(f"count(max by (vm) ({_SIDED}{{{VMS}}}))", instant=True),), "short", "VMs with metrics.", "stat", 3, 4
        ),
        Panel("Last interval", (Line(f"time() - {reach}", instant=True),), "s", "How long ago it ended.", "stat", 3, 4),
        stat("In", "bps", "rx_bytes", " * 8"),
        stat("Out", "bps", "tx_bytes", " * 8"),
        stat("Requests", "reqps", "requests"),
        stat("Open", "short", "connections_active"),
        stat("Cores", "short", "cpu_seconds"),
        stat("Memory", "bytes", "memory_bytes"),
    )


def _sums() -> tuple[Panel, ...]:
    def panel(title: str, unit: str, columns: dict[str, str], factor: str = "") -> Panel:
        metrics = [BY_NAME[name] for name in columns.values()]
        lines = tuple(Line(f"sum({_each(m)}){factor}", legend) for legend, m in zip(columns, metrics, strict=True))
        return Panel(f"{title} ({_how(metrics)})", lines, unit, _told(metrics))

    return (
        panel("Traffic", "bps", {"in": "rx_bytes", "out": "tx_bytes", "in, from scanners": "scan_bytes"}, " * 8"),
        panel("Packets", "pps", {"in": "rx_packets", "out": "tx_packets"}),
        panel("Requests", "reqps", {"requests": "requests"}),
        panel("Connections", "short", {
            "attempted": "connections_attempted", "by the VMs themselves": "connections_initiated",
            "established": "connections_established", "failed": "connections_failed", "scanned": "connections_scanned",
        }),
        panel("TCP in trouble", "pps", {
            "retransmitted": "retransmitted_packets", "out of order": "out_of_order_packets", "repeated ACKs": "duplicate_acks",
            "zero windows": "zero_windows",
        }),
    )  # fmt: skip


def _top(title: str, unit: str, column: str, factor: str = "") -> Panel:
    metric = BY_NAME[column]
    line = Line(f"topk($top, {_each(metric)}{factor})", "{{vm}}")
    return Panel(f"{title} ({_how([metric])})", (line,), unit, _told([metric]))


def _by_vm() -> tuple[Panel, ...]:
    return (
        _top("In", "bps", "rx_bytes", " * 8"),
        _top("Out", "bps", "tx_bytes", " * 8"),
        _top("Requests", "reqps", "requests"),
        _top("Open connections", "short", "connections_active"),
        _top("Peers", "short", "peers"),
        _top("Lost segments", "percentunit", "loss_ratio"),
        _top("Cores in use", "short", "cpu_seconds"),
        _top("Share of the cores in use", "percentunit", "cpu_utilization"),
        _top("Memory", "bytes", "memory_bytes"),
    )


_TIMES = {"rtt": "Round trips", "ack": "Acknowledgements", "response": "Responses", "latency": "Emulated latency"}


def _times(stem: str) -> tuple[Panel, ...]:
    metric = BY_NAME[HISTOGRAMS[stem][0]]
    series, title = f"{metric.prometheus}{{{VMS}}}", f"{_TIMES[stem]} ({_how([metric])})"
    rate = f"sum by (le) (max by (le, vm) (rate({series}{_WINDOW})))"
    lines = tuple(Line(f"histogram_quantile({share}, {rate})", f"p{share * 100:g}") for share in _QUANTILES)
    count = Line(f"sum by (le) (max by (le, vm) (increase({series}{_WINDOW})))", "{{le}}", format="heatmap")
    mean = [f"sum(max by (vm) (rate({metric.family}_{part}{{{VMS}}}{_WINDOW})))" for part in ("sum", "count")]
    lines = (*lines, Line(f"{mean[0]} / {mean[1]}", "mean"))
    told = _told([metric])
    return Panel(title, lines, "s", told, width=12), Panel(f"{title}, how often", (count,), "s", told, "heatmap", 12)


def _percentiles() -> tuple[Panel, ...]:
    return tuple(
        _top(f"{title}, {'median' if rank == 'p50' else rank}", "s", f"{stem}_ms_{rank}")
        for stem, title in _TIMES.items()
        for rank in ("p50", "p95", "p99")
        if f"{stem}_ms_{rank}" in BY_NAME
    )


def _bands() -> tuple[Panel, ...]:
    """Each simulated metric of one VM with its interval, and what is declared of it."""
    declared = {"cpu_seconds": "cpu_cores", "memory_bytes": "memory_bytes", "storage_bytes": "storage_bytes"}
    shown = {
        "cpu_seconds": ("Cores in use", "short"), "cpu_utilization": ("Share of the cores in use", "percentunit"),
        "memory_bytes": ("Memory", "bytes"), "storage_bytes": ("Storage", "bytes"),
        "storage_ops": ("Storage operations", "iops"), "dropped_ratio": ("Packets that link and queue refuse", "percentunit"),
        "latency_ms_p50": ("Latency, median", "s"), "latency_ms_p95": ("Latency, p95", "s"),
        "latency_ms_p99": ("Latency, p99", "s"),
    }  # fmt: skip
    panels = []
    for column, (title, unit) in shown.items():
        metric, high, low = (BY_NAME[f"{column}{end}"] for end in ("", "_high", "_low"))
        lines = [Line(f"max({_value(each, ONE)})", legend) for each, legend in ((metric, title), (high, UPPER), (low, LOWER))]
        if column in declared:
            lines.append(Line(f'max(adumbra_vm_declared_{declared[column]}{{network="$network", vm="$one"}})', "declared"))
        told = f"{_told([metric])}\n\nThe area is the 80 % interval over what is believed of the VM."
        panels.append(Panel(f"{title} ({_how([metric])})", tuple(lines), unit, told, band=(UPPER, LOWER)))
    return tuple(panels)


def _trust() -> tuple[Panel, ...]:
    missed = BY_NAME["missed_packets"]
    line = Line(f"max({_each(missed)})", "missed")
    sided = Line(f"topk($top, max by (vm) (avg_over_time({_SIDED}{{{VMS}}}{_WINDOW})))", "{{vm}}")
    return (
        Panel(f"Packets missed ({_how([missed])})", (line,), "pps", _told([missed])),
        Panel("Seen one-sidedly (observed)", (sided,), "percentunit", "Intervals in which one direction only was seen."),
        _top("Error of sampling", "percentunit", "sampling_error_ratio"),
    )


def _own(title: str, unit: str, names: Sequence[str], by: str = "instance") -> Panel:
    """Metrics of the process's own, by labels of theirs, over all chosen processes."""
    lines = []
    for name in names:
        metric = OWN_BY_NAME[name]
        series = f"{name}{{{OWN}}}"
        value = f"rate({series}{_WINDOW})" if metric.kind is Kind.COUNTER else series
        known = [label for label in by.split(", ") if label in (*metric.labels, "instance")]
        what = name.removeprefix("adumbra_").removesuffix("_total").replace("_", " ")
        legend = " ".join([*([what] if len(names) > 1 or not known else []), *(f"{{{{{label}}}}}" for label in known)])
        lines.append(Line(f"sum by ({', '.join(known)}) ({value})" if known else f"sum({value})", legend))
    told = "\n\n".join(OWN_BY_NAME[name].help for name in names)
    return Panel(title, tuple(lines), unit, told)


def _slowest(title: str, unit: str, name: str, by: str) -> Panel:
    """The 99 % point of a histogram of the process's own."""
    rate = f"sum by (le, {by}) (rate({name}_bucket{{{OWN}}}{_WINDOW}))"
    return Panel(title, (Line(f"histogram_quantile(0.99, {rate})", f"{{{{{by}}}}}"),), unit, OWN_BY_NAME[name].help)


def _own_now(title: str, how: str, name: str, unit: str, legend: str = "") -> Panel:
    line = Line(f"{how}({name}{{{OWN}}})", legend, instant=True)
    return Panel(title, (line,), unit, OWN_BY_NAME[name].help, "stat", 6, 4)


def _process(title: str, unit: str, expr: str, told: str) -> Panel:
    return Panel(title, (Line(expr, "{{instance}}"),), unit, told)
