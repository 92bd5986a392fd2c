"""How emulated VMs lie in memory: what they are, what they carry on, what is asked of them. Shapes only; computes nothing.

M VMs, each with 1 + S sets of parameters, the central one first.
"""

from __future__ import annotations

import numpy as np

from adumbra.schema.calibration import COSTS
from adumbra.schema.metrics import BUCKETS_MS

FLEET = np.dtype(
    [
        ("key", np.uint64), ("first_server", np.int64), ("servers", np.int64), ("first_job", np.int64), ("jobs", np.int64),
        ("patience_ns", np.int64),
        *((name, np.float64) for name in (
            "cores", "core_speed", "service_cv", "peak_bytes_per_ns", "base_bytes_per_ns", "credit_bytes", "buffer_bytes",
            "rtt_ns", "release_ns", "session_ns", "retention_ns", "cluster_size", "cluster_spread_ns",
        )),
    ],
    align=True,
)  # fmt: skip
"""What an emulated VM is, the same in all its sets.

key: of its random numbers; first_server, servers: where the servers of its first set stand among all, and how many a set has;
first_job, jobs: likewise the places for requests that share the cores, 0 where requests wait their turn; core_speed: in
reference cores; peak, base, credit: of the link, each way (link_kernels.py); release, session, retention: how long memory,
clients and what was written are kept, 0 for not at all, infinite for good; cluster_*: see arrivals.ArrivalProcess.
"""

MEMORY: tuple[str, ...] = ("base_bytes", "connection_bytes", "session_bytes", "cache_request_bytes", "cache_bytes")
STORAGE: tuple[str, ...] = ("base_bytes", "written_per_byte_in", "written_per_request", "ops_per_request")
PARAMETERS = np.dtype(
    [(name, np.float64) for name in (
        *COSTS, "server_cores", *(f"memory_{name}" for name in MEMORY), *(f"storage_{name}" for name in STORAGE),
    )]
)  # fmt: skip
"""One set of a VM's parameters, by the names of roles.RolePrior; server_cores: the cores that each server stands for."""

STATE = np.dtype([(name, np.float64) for name in ("rx_backlog_bytes", "rx_credit_bytes", "connections", "peers", "gone_peers")])
"""What a VM carries on that is the same in all its sets: the link in, connections whose memory is in use, clients that are
there, and that are remembered."""

RUN = np.dtype(
    [
        *((name, np.float64) for name in (
            "tx_backlog_bytes", "tx_credit_bytes", "written_bytes", "requests", "virtual_ns",
        )),
        ("at_ns", np.int64), ("jobs", np.int64),
    ],
    align=True,
)  # fmt: skip
"""What each set carries on, beside its servers or jobs: the link out, bytes written and kept, requests served
so far; of shared cores the time of the last event, the service that each job has had up to then, and how many are there."""

JOB = np.dtype([("finish_ns", np.float64), ("arrive_ns", np.int64), ("rest_ns", np.float64), ("number", np.int64)], align=True)
"""A request that shares the cores: the service at which it is done, when it came, what path and link add to its latency (NaN:
it is no request), and its number among the interval's, -1 once that is over."""

LOAD = np.dtype(
    [
        ("seen", np.int64), ("drawn", np.int64),
        *((name, np.float64) for name in (
            "stands_for", "work_s", "connections", "requests", "wakes", "rx_bytes", "tx_bytes", "rx_packets", "tx_packets",
            "connections_held", "peers",
        )),
        ("one_sided", np.bool_),
    ],
    align=True,
)  # fmt: skip
"""What one interval asks of one emulated VM.

seen: requests with a captured time; drawn: arrivals to draw; stands_for >= 1: requests that each of these means; work_s:
seconds on a reference core, by the central parameters; connections that were begun, requests, bytes and packets with what
unseen requests would bring; wakes: see demand.wakes; connections_held: open or would-be; peers: NaN if not told.
"""

SIMULATED_BY_SET: tuple[str, ...] = (
    "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "cpu_utilization", "cpu_seconds",
    "memory_bytes", "storage_bytes", "storage_ops", "dropped_ratio",
)  # fmt: skip
"""The columns that depend on parameters, in the order in which kernels write them."""
P50, P95, P99, CPU_UTILIZATION, CPU_SECONDS, MEMORY_BYTES, STORAGE_BYTES, STORAGE_OPS, DROPPED_RATIO = range(9)
RTT_P50, RTT_P99 = 9, 10
LOW, HIGH = 11, 20  # where the lower and upper bounds of the nine begin
HISTOGRAM = 29  # where the latencies' buckets begin: counts up to each bound, then their sum
BUCKETS = len(BUCKETS_MS)
WIDTH = HISTOGRAM + BUCKETS + 1

SHARED_JOBS = 256
"""The most requests that share a VM's cores at once, as software bounds its processes or connections; at least 4 a server."""
