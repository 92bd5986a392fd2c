"""A network with made-up traffic and sizes, for what only shows them: nothing is observed or trained."""

from __future__ import annotations

import numpy as np

from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, MetricBatch, Quantiles
from adumbra.schema.sizing import RESOURCES, Confidence, Estimate, NetworkProfile, VmProfile
from adumbra.service import networks
from adumbra.service.workspace import Workspace

SPEC = """\
name: lab
cidrs: [10.9.0.0/16]
subnets: [{name: front, cidr: 10.9.1.0/24}, {name: back, cidr: 10.9.2.0/24}]
links:
  - {between: [front, internet], rtt: 10ms, bandwidth: 10Gbps}
  - {between: [front, back], rtt: 1ms, bandwidth: 1Gbps}
vms:
  - {name: web, subnet: front, role: nginx, addresses: [10.9.1.10], type: m7i.large, ports: [80]}
  - {name: db, subnet: back, role: postgresql, addresses: [10.9.2.11], resources: {cpu_cores: 4, memory_gb: 16}}
targets: {shortfall: 1%, latency_p99: 200ms, loss: 1%}
"""
START_S, SECONDS = 1_700_000_000, 300
HOSTILE = "<script>alert('x')</script>"


def traffic(seconds: int = SECONDS) -> MetricBatch:
    shape = (seconds, 2)
    columns = {metric.name: np.zeros(shape, np.int64 if metric.whole else np.float64) for metric in METRICS}
    requests = np.random.default_rng(2).poisson(40, shape)
    columns["requests"], columns["connections_attempted"], columns["connections_active"] = requests, requests // 4, requests
    columns["rx_bytes"], columns["tx_bytes"] = requests * 400, requests * 9000
    columns["rx_packets"], columns["tx_packets"] = requests * 3, requests * 8
    columns["cpu_seconds"], columns["cpu_utilization"] = requests * 0.005, requests * 0.0025
    columns["cpu_seconds_low"], columns["cpu_seconds_high"] = requests * 0.002, requests * 0.01
    columns["memory_bytes"] = np.full(shape, 2.0 * 2**30)
    columns["memory_bytes_low"], columns["memory_bytes_high"] = np.full(shape, 1.0 * 2**30), np.full(shape, 4.0 * 2**30)
    columns["storage_bytes"] = np.full(shape, 5.0 * 2**30)
    columns["latency_ms_p99"] = np.full(shape, 12.0)
    starts = (START_S + np.arange(seconds)) * NANOSECONDS
    return MetricBatch("lab", 1.0, ("web", "db"), starts, columns, np.zeros(shape, np.bool_), "pcap:made.pcap")


def profile() -> NetworkProfile:
    def vm(name: str, type_: str | None, price: float | None, confidence: Confidence) -> VmProfile:
        estimate = {resource: Estimate(0.5, 1.0, 2.0) for resource in RESOURCES}
        reasons = (
            "learned from 5 min; the horizon is 7 d",
            f"{type_} is the cheapest type that fits; decided by memory",
            HOSTILE,
        )
        return VmProfile(name, 2, 4.0, 50, 20, type_, price, estimate, confidence, reasons)

    vms = (vm("web", "c6a.large", 0.0765, Confidence.MEDIUM), vm("db", "c6a.xlarge", 0.153, Confidence.LOW))
    return NetworkProfile("lab", 604_800.0, 0.01, 300.0, "LightGBM", vms)


def expected(step_s: float = 1.0, steps: int = 60) -> dict[str, Quantiles]:
    levels = (0.1, 0.5, 0.9, 0.99)
    values = np.broadcast_to(np.array([0.1, 0.2, 0.3, 0.4]), (2, steps, 4))
    start_ns = (START_S + SECONDS) * NANOSECONDS
    return {each: Quantiles(each, ("web", "db"), start_ns, step_s, levels, values) for each in RESOURCES}


def made_lab(workspace: Workspace) -> None:
    networks.create(workspace, SPEC, "lab.yaml", 1)
    networks.create(workspace, SPEC.replace("name: lab", "name: other", 1), "other.yaml", 1)
    workspace.metrics.write(traffic())
    workspace.state.save_profile("lab", profile().to_dict(), 2)
