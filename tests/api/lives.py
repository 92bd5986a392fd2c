"""Networks that have lived, for tests of the API: observed, trained, sized."""

from __future__ import annotations

import numpy as np
from tests.api.serving import Serving

from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, MetricBatch
from adumbra.schema.state import ObservationState
from adumbra.service import learning, profiles

START_S, STEPS = 1_700_000_100, 300
VMS = ("web-1", "web-2", "db")


def batch(name: str, start_s: int = START_S, steps: int = STEPS, interval_s: float = 1.0) -> MetricBatch:
    """Metrics of the VMs of `serving.SPEC`, of so many intervals."""
    rng = np.random.default_rng(3)
    shape = (steps, len(VMS))
    requests = rng.poisson(40, shape)
    columns = {metric.name: np.zeros(shape, np.int64 if metric.whole else np.float64) for metric in METRICS}
    columns["requests"], columns["connections_attempted"], columns["connections_active"] = requests, requests // 4, requests
    columns["connections_established"] = requests // 4
    columns["rx_bytes"], columns["tx_bytes"] = requests * 400, requests * 9000
    columns["rx_packets"], columns["tx_packets"] = requests * 3, requests * 8
    columns["cpu_seconds"], columns["cpu_utilization"] = requests * 0.005, requests * 0.0025
    columns["memory_bytes"], columns["storage_bytes"] = 2e9 + 1e6 * requests, np.full(shape, 8e9)
    columns["rtt_ms_p50"] = np.full(shape, np.nan)
    starts = start_s * NANOSECONDS + np.arange(steps) * round(interval_s * NANOSECONDS)
    return MetricBatch(name, interval_s, VMS, starts, columns, np.zeros(shape, np.bool_), "pcap:made.pcap")


def observe(serving: Serving, name: str, start_s: int = START_S, steps: int = STEPS) -> None:
    """Metrics of the network, as if a capture had been observed."""
    state, made = serving.workspace.state, batch(name, start_s, steps)
    began = state.begin_observation(name, made.source, f"{name}@{start_s}", serving.server.now())
    serving.workspace.metrics.write(made)
    accounts = {"offered": 1000, "attributed": 990, "late": 2, "untracked": 0, "losses": {"dropped": 8}}
    state.finish_observation(began.id, ObservationState.DONE, {"accounts": accounts}, serving.server.now())


def learn(serving: Serving, name: str) -> None:
    """What was observed of the network is learned, and sizes are made of it."""
    learning.train(serving.workspace, name, serving.server.now)
    profiles.profile(serving.workspace, name, serving.server.now)
