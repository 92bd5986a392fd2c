"""Weeks of a network's use: what is learned decides sizes by risk, and by the hour of the week. By the real commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.asking import shown, told

from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, MetricBatch
from adumbra.service import networks
from adumbra.service.workspace import Workspace

VMS, DAYS, HOUR_S = 10, 29, 3_600
MONDAY_S = 1_767_571_200  # 2026-01-05
SPEC = """
name: fleet
cidrs: [10.9.0.0/16]
subnets: [{name: a, cidr: 10.9.1.0/24}]
vms:
  - {name: web, count: 10, subnet: a, addresses: 10.9.1.10-10.9.1.19, role: app, type: m7i.2xlarge, ports: [80]}
targets: {shortfall: 2%}
interval: 1h
"""


def use() -> MetricBatch:
    """A day's pattern on workdays, quiet weekends, bursts."""
    rng = np.random.default_rng(5)
    hours = np.arange(DAYS * 24)
    busy = np.where((hours // 24 % 7 < 5) & (hours % 24 >= 9) & (hours % 24 < 17), 4.0, 1.0)
    level = busy[:, None] * rng.lognormal(0, 0.15, (len(hours), VMS)) * rng.uniform(0.2, 0.6, VMS)
    level[rng.random(level.shape) < 0.01] *= 2
    columns = {metric.name: np.zeros(level.shape, np.int64 if metric.whole else np.float64) for metric in METRICS}
    for name, amount in (
        ("cpu_seconds", level * HOUR_S), ("memory_bytes", 2e9 + 4e8 * level), ("storage_bytes", np.full(level.shape, 5e9)),
        ("rx_bytes", level * 2e9), ("tx_bytes", level * 9e9), ("rx_packets", level * 3e6), ("tx_packets", level * 7e6),
    ):  # fmt: skip
        columns[name] = amount.astype(columns[name].dtype)
    starts = (MONDAY_S + HOUR_S * hours) * NANOSECONDS
    vms = tuple(f"web-{i + 1}" for i in range(VMS))
    return MetricBatch("fleet", float(HOUR_S), vms, starts, columns, np.zeros(level.shape, np.bool_), "pcap:made.pcap")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    with Workspace(folder) as workspace:
        networks.create(workspace, SPEC, "fleet.yaml", 1)
        workspace.metrics.write(use())
    shown(folder, "train", "fleet")
    return folder


def test_a_profile_is_by_risk_and_says_whose_time_the_dial_bounds(home: Path) -> None:
    each = told(home, "profile", "fleet", "--shortfall", "5%")
    pooled = told(home, "profile", "fleet", "--shortfall", "5%", "--risk", "pooled")
    assert (each["risk"], pooled["risk"]) == ("per-vm", "pooled")
    for profile, whose in ((each, "this VM's"), (pooled, "the fleet's")):
        for vm in profile["vms"]:
            said = [reason for reason in vm["reasons"] if "the least size that keeps 5 %" in reason]
            assert {reason.split(":")[0] for reason in said} == {"cpu_cores", "memory_gb", "bandwidth_mbps"}
            assert all(whose in reason and "over 7 d" in reason for reason in said)


def test_the_hours_of_the_week_have_sizes_of_their_own(home: Path) -> None:
    found = told(home, "profile", "fleet", "--by-hour", "--shortfall", "5%")
    assert list(found) == ["cpu_cores", "bandwidth_mbps"]
    sizes = np.array([found["cpu_cores"]["vms"][f"web-{i + 1}"] for i in range(VMS)])
    assert sizes.shape == (VMS, 7, 24)
    workday, night = sizes[:, :5, 9:17].mean(axis=(1, 2)), sizes[:, :5, :8].mean(axis=(1, 2))
    assert (workday > 2 * night).all()
    table = shown(home, "profile", "fleet", "--by-hour", "--shortfall", "5%")
    assert "saved by the hour" in " ".join(table.split())
    assert max(map(len, table.splitlines())) <= 100
