"""Calibrations end to end on made traffic whose costs are known: learned, told, kept, refused, taken back, emulated anew."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.metrics import METRICS, NAMES, Provenance
from adumbra.schema.records import NANOSECONDS, MetricBatch, SeriesQuery
from adumbra.service import calibrations, networks
from adumbra.service.observations import emulated_vms
from adumbra.service.workspace import Workspace

SPEC = """\
name: lab
cidrs: [10.9.0.0/16]
subnets:
  - {name: a, cidr: 10.9.1.0/24}
vms:
  - {name: web, subnet: a, role: nginx, addresses: [10.9.1.10], ports: [80]}
  - {name: db, subnet: a, role: postgresql, addresses: [10.9.1.11], ports: [5432]}
"""
START_S = 1_700_000_000
REQUEST_S, IDLE_CORES = 4e-3, 0.02
BASE_BYTES, CONNECTION_BYTES = 80e6, 300e3


def now() -> int:
    return 1_800_000_000 * NANOSECONDS


def traffic(seconds: int = 600, *, constant: bool = False) -> MetricBatch:
    rng = np.random.default_rng(4)
    rate = np.full(seconds, 20.0) if constant else 25 * (1.1 + np.sin(np.arange(seconds) / 60))
    requests = np.column_stack([np.full(seconds, 20) if constant else rng.poisson(rate) for _ in range(2)])
    columns = {metric.name: np.zeros((seconds, 2), np.int64 if metric.whole else np.float64) for metric in METRICS}
    columns["requests"] = requests
    columns["connections_attempted"] = requests // 3
    columns["connections_active"] = requests
    columns["rx_bytes"], columns["tx_bytes"] = requests * 400, requests * 3000
    columns["rx_packets"], columns["tx_packets"] = requests * 3, requests * 4
    columns["response_ms_p50"] = np.full((seconds, 2), 6.0)
    starts = (START_S + np.arange(seconds)) * NANOSECONDS
    return MetricBatch("lab", 1.0, ("web", "db"), starts, columns, np.zeros((seconds, 2), np.bool_), "pcap:made.pcap")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        networks.create(opened, SPEC, "lab.yaml", now())
        yield opened


def usage_of(batch: MetricBatch, path: Path, *, shift_s: float = 0, rows: int | None = None, cores: float | None = None) -> str:
    rng = np.random.default_rng(8)
    lines = ["vm,time,cpu_cores,memory_bytes"]
    for t in range(len(batch) if rows is None else rows):
        requests = float(batch.columns["requests"][t, 0])
        used = IDLE_CORES + REQUEST_S * requests * max(0.1, 1 + 0.5 * rng.standard_normal() / max(requests, 1) ** 0.5)
        held = BASE_BYTES + CONNECTION_BYTES * requests
        lines.append(f"web,{START_S + t + shift_s},{used if cores is None else cores},{held}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_costs_are_learned_and_what_changed_is_told(workspace: Workspace, tmp_path: Path) -> None:
    batch = traffic()
    workspace.metrics.write(batch)
    found = calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "u.csv"), now)
    (web,) = found.calibration.vms
    fit = web.fits["cpu_cores"]
    one_second = np.array([1.0, 20 // 3, 20, 8000, 60_000, 140])
    assert one_second @ np.array(fit.mean) == pytest.approx(IDLE_CORES + 20 * REQUEST_S, rel=0.05)
    assert fit.error_before is not None
    assert fit.error_after is not None
    assert fit.coverage is not None
    assert fit.error_after < 0.1 < fit.error_before
    assert fit.coverage >= 0.6
    assert any("the same traffic takes" in each and "times what the prior said" in each for each in fit.changed)
    assert workspace.state.events("lab")[0].message == f"Calibrated 1 of 2 VMs by {tmp_path / 'u.csv'}."
    again = calibrations.from_usage(workspace, "lab", str(tmp_path / "u.csv"), now)
    assert again.version == found.version + 1
    assert again.calibration == found.calibration, "what is learned doesn't depend on what was learned before"


def test_the_latest_calibration_is_what_emulated_vms_follow_until_it_is_taken_back(
    workspace: Workspace, tmp_path: Path
) -> None:
    batch = traffic()
    workspace.metrics.write(batch)
    found = calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "u.csv"), now)
    web, db = emulated_vms(networks.get(workspace, "lab"))
    assert web.calibration == found.calibration.of("web")
    assert db.calibration is None
    assert calibrations.shown(workspace, "lab") is not None
    assert calibrations.reset(workspace, "lab", now)
    assert calibrations.shown(workspace, "lab") is None
    assert emulated_vms(networks.get(workspace, "lab"))[0].calibration is None
    assert not calibrations.reset(workspace, "lab", now), "there is nothing left to take back"


def test_stored_time_is_emulated_anew_and_what_was_observed_stays(workspace: Workspace, tmp_path: Path) -> None:
    batch = traffic()
    workspace.metrics.write(batch)
    query = SeriesQuery("lab", NAMES)
    before = workspace.metrics.read(query)
    calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "u.csv"), now)
    assert calibrations.is_stale(workspace, "lab")
    assert calibrations.reemulate(workspace, "lab", now) == 2 * len(batch)
    assert not calibrations.is_stale(workspace, "lab")
    after = workspace.metrics.read(query)
    for metric in METRICS:
        if metric.provenance is not Provenance.SIMULATED:
            assert np.array_equal(after.values[metric.name], before.values[metric.name], equal_nan=True), metric.name
    used = after.values["cpu_seconds"][after.vms.index("web")].sum()
    requests = float(batch.columns["requests"][:, 0].sum())
    assert used == pytest.approx(IDLE_CORES * len(batch) + REQUEST_S * requests, rel=0.1)
    calibrations.reemulate(workspace, "lab", now)
    again = workspace.metrics.read(query)
    assert all(np.array_equal(again.values[name], after.values[name], equal_nan=True) for name in NAMES)


def test_under_a_constant_load_only_the_level_is_learned_and_that_is_said(workspace: Workspace, tmp_path: Path) -> None:
    batch = traffic(constant=True)
    workspace.metrics.write(batch)
    fit = (
        calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "u.csv"), now).calibration.vms[0].fits["cpu_cores"]
    )
    assert fit.changed[0] == "the load hardly moved: only its level was learned"
    ratios = {round(a / b, 6) for a, b in zip(fit.mean[1:], fit.before[1:], strict=True) if b > 0}
    assert len(ratios) == 1


REFUSED = [
    ({"shift_s": 86_400 * 3}, InputError, "they have no time in common"),
    ({"shift_s": -3600}, InputError, "1 hours apart: give times with their zone"),
    ({"rows": 5}, TooLittleDataError, "there are 5 rows"),
    ({"rows": 1}, TooLittleDataError, "more than one row"),
]


@pytest.mark.parametrize(("made", "error", "what"), REFUSED)
def test_what_does_not_overlap_or_suffice_is_refused(
    workspace: Workspace, tmp_path: Path, made: dict[str, int], error: type[Exception], what: str
) -> None:
    batch = traffic()
    workspace.metrics.write(batch)
    with pytest.raises(error, match=what):
        calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "u.csv", **made), now)
    assert workspace.state.calibration("lab") is None


def test_use_that_is_nothing_throughout_teaches_nothing_of_that_resource(workspace: Workspace, tmp_path: Path) -> None:
    batch = traffic()
    workspace.metrics.write(batch)
    (web,) = calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "u.csv", cores=0), now).calibration.vms
    assert web.refused == {"cpu_cores": "what was measured is 0 throughout"}
    assert set(web.fits) == {"memory_gb"}


def test_nothing_observed_is_told_as_such(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(TooLittleDataError):
        calibrations.from_usage(workspace, "lab", usage_of(traffic(), tmp_path / "u.csv"), now)


def test_rows_may_be_longer_than_intervals_and_begin_between_them(workspace: Workspace, tmp_path: Path) -> None:
    batch = traffic(1200)
    workspace.metrics.write(batch)
    path = tmp_path / "u.csv"
    lines = ["vm,time,cpu_cores"]
    for t in range(7, 1170, 20):
        used = IDLE_CORES + REQUEST_S * float(batch.columns["requests"][t : t + 20, 0].mean())
        lines.append(f"10.9.1.10,{datetime.fromtimestamp(START_S + t, UTC).isoformat()},{used}")
    path.write_text("\n".join(lines) + "\n")
    fit = calibrations.from_usage(workspace, "lab", str(path), now).calibration.vms[0].fits["cpu_cores"]
    assert fit.rows == len(lines) - 1
    assert fit.error_after is not None
    assert fit.error_after < 0.05


def test_where_only_traffic_is_seen_response_times_correct_a_little_and_say_how_little(workspace: Workspace) -> None:
    workspace.metrics.write(traffic())
    found = calibrations.from_traffic(workspace, "lab", now)
    fit = found.calibration.vms[0].fits["cpu_cores"]
    assert fit.error_after is None
    assert "at low load the median response takes 6 ms" in fit.changed[0]
    assert fit.mean[2] > fit.before[2]
    assert fit.covariance[2][2] ** 0.5 > 0.3 * fit.mean[2]
