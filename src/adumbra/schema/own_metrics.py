"""The catalogue of what a process tells of its own work: each metric's name, kind, labels and meaning. Facts only.

Beside these a process tells what every one of its kind does: process_* and python_*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adumbra.schema.metrics import Kind


@dataclass(frozen=True, slots=True)
class OwnMetric:
    """A metric of the process's own. `labels`: their names, in the order in which a Reading gives their values.

    Of a histogram the last label is `le`: a Reading for each bucket, its count up to there, "+Inf" too, and one for "sum".
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a metric of the catalogue stands at, by the values of its labels."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


_C, _G = Kind.COUNTER, Kind.GAUGE
_NETWORK, _STORE = ("network",), ("store",)

OWN_METRICS: tuple[OwnMetric, ...] = (
    OwnMetric("adumbra_build_info", _G, ("version",), "1, with the version that runs."),
    OwnMetric("adumbra_packets_offered_total", _C, _NETWORK, "Packets that sources gave; of flow exports and logs, rows."),
    OwnMetric("adumbra_packets_parsed_total", _C, _NETWORK, "Those of the offered packets that could be read."),
    OwnMetric("adumbra_packets_attributed_total", _C, _NETWORK, "Those of the parsed packets that are a VM's."),
    OwnMetric(
        "adumbra_packets_ignored_total",
        _C,
        ("network", "reason"),
        "Packets that are nobody's business here: not IP, of other addresses, of other tunnels.",
    ),
    OwnMetric(
        "adumbra_packets_lost_total",
        _C,
        ("network", "reason"),
        "Packets that may have been a VM's and were not metered, or not in full: dropped before the tap, malformed, too late, "
        "table full.",
    ),
    OwnMetric("adumbra_ring_freezes_total", _C, _NETWORK, "How often a tap's ring was full, so that frames were dropped."),
    OwnMetric("adumbra_scanners_total", _C, _NETWORK, "Sources that were called scanners."),
    OwnMetric("adumbra_evictions_total", _C, ("network", "table"), "What gave way to others in a full table."),
    OwnMetric(
        "adumbra_flow_exports_total",
        _C,
        ("network", "part"),
        "What became of flow exporters' datagrams, sets and records; the parts overlap.",
    ),
    OwnMetric("adumbra_flow_export_sets_waiting", _G, _NETWORK, "Sets of flow records that wait for their template."),
    OwnMetric("adumbra_intervals_closed_total", _C, ("network", "origin"), "Intervals whose metrics were made."),
    OwnMetric("adumbra_store_requests_total", _C, _STORE, "Requests by which samples were sent to a store."),
    OwnMetric("adumbra_store_samples_total", _C, _STORE, "Samples that a store took."),
    OwnMetric("adumbra_store_sent_bytes_total", _C, _STORE, "Bytes that were sent to a store, as they travel."),
    OwnMetric("adumbra_store_retries_total", _C, _STORE, "Requests to a store that were tried again."),
    OwnMetric("adumbra_store_dropped_samples_total", _C, ("store", "reason"), "Samples that a store refused, which are lost."),
    OwnMetric("adumbra_store_failures_total", _C, _STORE, "Batches that could not be sent, and are tried again."),
    OwnMetric("adumbra_store_up", _G, _STORE, "1 where the store took what was sent last, 0 where it can't be sent now."),
    OwnMetric("adumbra_spool_records", _G, _STORE, "Batches that wait on disk to be sent."),
    OwnMetric("adumbra_spool_bytes", _G, _STORE, "Bytes on disk of the batches that wait."),
    OwnMetric("adumbra_spool_bound_bytes", _G, _STORE, "Bytes at which the oldest batches that wait give way."),
    OwnMetric("adumbra_spool_oldest_age_seconds", _G, _STORE, "How long the oldest batch has been waiting."),
    OwnMetric(
        "adumbra_spool_lost_records_total",
        _C,
        ("store", "reason"),
        "Batches that waited and are lost: full (they gave way), damaged (on disk), refused (by the store, for good).",
    ),
    OwnMetric("adumbra_vm_declared_cpu_cores", _G, ("network", "vm"), "Cores that a VM is declared with."),
    OwnMetric("adumbra_vm_declared_memory_bytes", _G, ("network", "vm"), "Memory that a VM is declared with."),
    OwnMetric("adumbra_vm_declared_storage_bytes", _G, ("network", "vm"), "Storage that a VM is declared with."),
    OwnMetric("adumbra_latest_rows_left_out_total", _C, _NETWORK, "Rows of VMs that the scrape page has no room for."),
    OwnMetric("adumbra_networks", _G, ("state",), "Networks, by where they stand in their life."),
    OwnMetric("adumbra_networks_owned", _G, (), "Networks that this server's loops look after."),
    OwnMetric("adumbra_sources", _G, ("place", "state"), "Sources that are or were to be observed, of all networks."),
    OwnMetric("adumbra_taps_running", _G, (), "Taps that this server runs."),
    OwnMetric("adumbra_tap_restarts_total", _C, (), "Times that this server began a tap again."),
    OwnMetric("adumbra_jobs", _G, ("kind", "state"), "Jobs that are kept, of all networks."),
    OwnMetric("adumbra_workers_running", _G, (), "Processes of this server that work at jobs."),
    OwnMetric("adumbra_jobs_begun_total", _C, (), "Jobs that this server began."),
    OwnMetric("adumbra_loop_runs_total", _C, ("loop",), "Times that a loop's work was done, or tried."),
    OwnMetric("adumbra_loop_failures_total", _C, ("loop",), "Times that it failed."),
    OwnMetric(
        "adumbra_loop_up", _G, ("loop",), "1 where a loop's work went well the last time, 0 where it failed or is stuck."
    ),
    OwnMetric("adumbra_loop_seconds", _G, ("loop",), "How long a loop's work took the last time."),
    OwnMetric("adumbra_live_machines", _G, _NETWORK, "Real machines that a network's provider told of, the last time."),
    OwnMetric("adumbra_live_up", _G, _NETWORK, "1 where a network's real machines could be read the last time, 0 where not."),
    OwnMetric("adumbra_live_rows_total", _C, _NETWORK, "Intervals of real machines that were stored."),
    OwnMetric("adumbra_live_failures_total", _C, _NETWORK, "Times that a network's real machines could not be read."),
    OwnMetric(
        "adumbra_live_left_out_total",
        _C,
        ("network", "reason"),
        "Readings that closed no interval: anew (a machine was started again, or read too seldom), late (older than the last), "
        "strangers (not the network's); and counters that no machine has (odd).",
    ),
    OwnMetric("adumbra_http_requests_total", _C, ("method", "route", "status"), "Requests that were answered."),
    OwnMetric(
        "adumbra_http_request_seconds", Kind.HISTOGRAM, ("method", "route", "le"), "How long requests took to be answered."
    ),
    OwnMetric("adumbra_http_requests_open", _G, (), "Requests that are being answered."),
    OwnMetric("adumbra_readings_failed_total", _C, (), "Times that a part of the process could not be asked for its numbers."),
)
OWN_BY_NAME: Mapping[str, OwnMetric] = {metric.name: metric for metric in OWN_METRICS}
