"""Calibrations end to end on made traffic whose costs are known: learned, told, kept, refused, taken back, emulated anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from adumbra.schema.calibration import MeasuredOn
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


def usage_of(
    batch: MetricBatch, path: Path, *, shift_s: float = 0, rows: int | None = None, cores: float | None = None, first: int = 0,
    factor: float = 1.0,
) -> str:  # fmt: skip
    """Use of `web`, in a file: from row `first` on, each request at `factor` times its cost."""
    rng = np.random.default_rng(8)
    lines = ["vm,time,cpu_cores,memory_bytes"]
    for t in range(first, len(batch) if rows is None else rows):
        requests = float(batch.columns["requests"][t, 0])
        used = IDLE_CORES + factor * REQUEST_S * requests * max(0.1, 1 + 0.5 * rng.standard_normal() / max(requests, 1) ** 0.5)
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
    ({"factor": 500.0}, InputError, "is it in percent"),
    ({"factor": 1500.0}, InputError, "is it in millicores"),
    ({"factor": 100_000.0}, InputError, "is it in millicores"),
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


def test_use_that_stands_still_while_traffic_moves_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    batch = traffic()
    workspace.metrics.write(batch)
    (web,) = calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "u.csv", cores=0.5), now).calibration.vms
    assert "doesn't move, while the traffic does" in web.refused["cpu_cores"]


@pytest.mark.parametrize(
    ("rows", "factor", "what"), [(600, 25.0, "is it in cores?"), (16, 25.0, "is it in cores?"), (600, 1.0, "")]
)
def test_a_level_far_from_the_roles_is_doubted(
    workspace: Workspace, tmp_path: Path, rows: int, factor: float, what: str
) -> None:
    """Of a few rows too, of which none are held out."""
    batch = traffic()
    workspace.metrics.write(batch)
    found = calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "u.csv", rows=rows, factor=factor), now)
    told = [each for each in found.calibration.vms[0].fits["cpu_cores"].changed if "is it in" in each]
    assert [each.partition(": ")[2] for each in told] == ([what] if what else [])


@pytest.mark.parametrize(("interval_s", "row_s", "off_s"), [(10, 1, 0), (60, 10, 0), (1, 1.5, 0.25), (10, 7, 3), (10, 2, 1)])
def test_costs_are_the_same_whatever_the_lengths_of_rows_and_intervals(
    workspace: Workspace, tmp_path: Path, interval_s: int, row_s: float, off_s: float
) -> None:
    """Known costs, a load that moves slowly: rows that are finer than intervals, longer, and begin between them."""
    seconds = np.arange(3600)
    rate = 40 * (1.1 + np.sin(seconds / 300))
    per = rate.reshape(-1, interval_s).sum(axis=1)
    batch = traffic(len(per))
    columns = {name: np.zeros_like(values) for name, values in batch.columns.items()}
    columns["requests"] = np.rint(np.column_stack([per, per])).astype(np.int64)
    starts = (START_S // 60 * 60 + np.arange(len(per)) * interval_s) * NANOSECONDS
    workspace.metrics.write(replace(batch, interval_s=float(interval_s), start_ns=starts, columns=columns))
    cumulative = np.concatenate([[0.0], np.cumsum(IDLE_CORES + REQUEST_S * rate)])
    begins = START_S // 60 * 60 + off_s + np.arange(int((3600 - off_s) / row_s) - 1) * row_s
    at = begins - START_S // 60 * 60
    used = (np.interp(at + row_s, np.arange(3601), cumulative) - np.interp(at, np.arange(3601), cumulative)) / row_s
    path = tmp_path / "u.csv"
    path.write_text("vm,time,cpu_cores\n" + "".join(f"web,{b},{u}\n" for b, u in zip(begins, used, strict=True)))
    fit = calibrations.from_usage(workspace, "lab", str(path), now).calibration.vms[0].fits["cpu_cores"]
    means = dict(zip(fit.names, fit.mean, strict=True))
    assert fit.error_after is not None
    assert fit.error_after < 0.03
    assert means["idle_cores"] + means["request_s"] * 44 == pytest.approx(IDLE_CORES + REQUEST_S * 44, rel=0.05)


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


def test_an_update_goes_on_with_later_use_and_says_what_it_was_worth(workspace: Workspace, tmp_path: Path) -> None:
    batch = traffic(1200)
    workspace.metrics.write(batch)
    first = calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "a.csv", rows=600), now)
    later = usage_of(batch, tmp_path / "b.csv", first=500, factor=1.6)
    found = calibrations.update_from(workspace, "lab", later, now)
    (web,) = found.calibration.vms
    fit, was = web.fits["cpu_cores"], first.calibration.vms[0].fits["cpu_cores"]
    assert (found.version, found.calibration.follows) == (2, 1)
    assert fit.rows == 1200
    assert fit.error_before is not None
    assert fit.error_after is not None
    assert fit.error_before == pytest.approx(0.6 * 0.08 / (0.02 + 1.6 * 0.08), abs=0.08)
    assert fit.error_after < 0.1
    one_second = np.array([1.0, 20 // 3, 20, 8000, 60_000, 140])
    assert one_second @ np.array(was.mean) == pytest.approx(IDLE_CORES + 20 * REQUEST_S, rel=0.05)
    assert one_second @ np.array(fit.mean) == pytest.approx(IDLE_CORES + 20 * 1.6 * REQUEST_S, rel=0.1)
    assert (found.calibration.start_ns, found.calibration.end_ns) == (START_S * NANOSECONDS, (START_S + 1200) * NANOSECONDS)
    assert "100 rows were left out: the calibration had learned from their time already" in found.calibration.notes
    assert calibrations.shown(workspace, "lab") == replace(found, judged={}), "kept whole, what an update goes on from too"
    assert workspace.state.events("lab")[0].message == f"Brought up to date 1 of 2 VMs by {later}."


def test_an_update_needs_something_to_go_on_from_and_later_use(workspace: Workspace, tmp_path: Path) -> None:
    batch = traffic(1200)
    workspace.metrics.write(batch)
    early = usage_of(batch, tmp_path / "a.csv", rows=600)
    with pytest.raises(InputError, match="nothing to go on from"):
        calibrations.update_from(workspace, "lab", early, now)
    calibrations.from_traffic(workspace, "lab", now)
    with pytest.raises(InputError, match="nothing to go on from"):
        calibrations.update_from(workspace, "lab", early, now)
    calibrations.from_usage(workspace, "lab", early, now)
    with pytest.raises(InputError, match=r"until 2023-11-14T22:23:20Z.*nothing is later"):
        calibrations.update_from(workspace, "lab", early, now)
    assert workspace.state.calibration("lab").version == 2  # type: ignore[union-attr]
    (tmp_path / "after.csv").write_text(
        f"vm,time,cpu_cores\nweb,{START_S + 2000},1\nweb,{START_S + 2010},1\nweb,{START_S + 1195},1\nweb,{START_S + 2020},1\n"
    )
    with pytest.raises(TooLittleDataError, match="web: as it was: no 10 s on end were both measured and observed throughout"):
        calibrations.update_from(workspace, "lab", str(tmp_path / "after.csv"), now)


def test_an_update_that_was_killed_before_time_was_emulated_is_finished_by_the_same_one(
    workspace: Workspace, tmp_path: Path
) -> None:
    batch = traffic(1200)
    workspace.metrics.write(batch)
    calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "a.csv", rows=600), now)
    calibrations.reemulate(workspace, "lab", now)
    later = usage_of(batch, tmp_path / "b.csv", first=600)
    found = calibrations.update_from(workspace, "lab", later, now)
    assert calibrations.is_stale(workspace, "lab")
    again = calibrations.update_from(workspace, "lab", later, now)
    assert (again.version, again.calibration) == (found.version, found.calibration)
    calibrations.reemulate(workspace, "lab", now)
    with pytest.raises(InputError, match="nothing is later"):
        calibrations.update_from(workspace, "lab", later, now)


def test_memory_is_learned_with_what_came_before_it_was_measured(workspace: Workspace, tmp_path: Path) -> None:
    """db's cache is the sum of what came since watching began. Measured for the last third only, it is emulated as it was."""
    batch = traffic(900)
    workspace.metrics.write(batch)
    db = emulated_vms(networks.get(workspace, "lab"))[1]
    memory = db.prior.memory
    requests = np.cumsum(batch.columns["requests"][:, 1])
    held = 3 * memory.base_bytes + 4 * memory.cache_bytes * -np.expm1(
        -requests * memory.cache_request_bytes / memory.cache_bytes
    )
    held = held + memory.connection_bytes * batch.columns["connections_active"][:, 1]
    lines = [f"db,{START_S + t},{held[t]}" for t in range(600, 900)]
    (tmp_path / "m.csv").write_text("\n".join(["vm,time,memory_bytes", *lines]) + "\n")
    calibrations.from_usage(workspace, "lab", str(tmp_path / "m.csv"), now)
    calibrations.reemulate(workspace, "lab", now)
    emulated = workspace.metrics.read(SeriesQuery("lab", ("memory_bytes",), ("db",))).values["memory_bytes"][0]
    assert emulated == pytest.approx(held, rel=0.05)


SPEEDS = [
    (None, 1.0, "m7i.large, as declared"),
    ("m5n.large", 0.76, "m5n.large"),
    ("0.5", 0.5, "cores of the given speed"),
]


@pytest.mark.parametrize(("given", "speed", "what"), SPEEDS)
def test_use_is_taken_for_that_of_the_cores_that_it_was_measured_on(
    workspace: Workspace, tmp_path: Path, given: str | None, speed: float, what: str
) -> None:
    """Half as fast cores take twice the time for the same work: what a reference core takes is what was measured, times their
    speed. What is used at rest is cores.
    """
    batch = traffic()
    workspace.metrics.write(batch)
    networks.update(workspace, SPEC.replace("role: nginx,", "role: nginx, type: m7i.large,"), "lab.yaml", now())
    usage = usage_of(batch, tmp_path / "u.csv")
    found = calibrations.from_usage(workspace, "lab", usage, now, measured_on=given)
    web = found.calibration.vms[0]
    assert web.measured_on == MeasuredOn(speed, what)
    second = np.array([0.0, 20 // 3, 20, 8000, 60_000, 140])
    assert second @ np.array(web.fits["cpu_cores"].mean) == pytest.approx(20 * REQUEST_S * speed, rel=0.1)
    shown = calibrations.shown(workspace, "lab")
    assert shown is not None
    assert shown.calibration.vms[0].measured_on == web.measured_on


def test_an_update_takes_the_cores_that_the_calibration_took(workspace: Workspace, tmp_path: Path) -> None:
    batch = traffic(1200)
    workspace.metrics.write(batch)
    early, later = usage_of(batch, tmp_path / "a.csv", rows=600), usage_of(batch, tmp_path / "b.csv", first=600)
    calibrations.from_usage(workspace, "lab", early, now, measured_on="0.5")
    fit = calibrations.update_from(workspace, "lab", later, now).calibration.vms[0]
    assert fit.measured_on == MeasuredOn(0.5, "cores of the given speed")
    assert fit.fits["cpu_cores"].error_before == pytest.approx(fit.fits["cpu_cores"].error_after, abs=0.03)


def test_response_times_count_by_the_speed_of_what_answered(workspace: Workspace) -> None:
    workspace.metrics.write(traffic())
    costs = [
        calibrations.from_traffic(workspace, "lab", now, measured_on=given).calibration.vms[0].fits["cpu_cores"].mean[2]
        for given in (None, "0.5")
    ]
    assert costs[1] < 0.9 * costs[0]


def test_where_donors_answer_it_is_said_that_their_cores_may_be_others(workspace: Workspace, tmp_path: Path) -> None:
    batch = traffic()
    workspace.metrics.write(batch)
    networks.update(workspace, SPEC + "donors:\n  - {from: 192.168.7.0/24, to: 10.9.1.0/24}\n", "lab.yaml", now())
    usage = usage_of(batch, tmp_path / "u.csv")
    notes = calibrations.from_usage(workspace, "lab", usage, now).calibration.notes
    assert any("the network has donors" in note and "--measured-on" in note for note in notes)
    assert calibrations.from_usage(workspace, "lab", usage, now, measured_on="1").calibration.notes == ()


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("m9z.large", "--measured-on: .*no current instance type.*or give a core's speed"),
        ("0", "speed of 0"),
        ("nan", "speed of"),
    ],
)
def test_cores_that_there_are_not_are_refused(workspace: Workspace, tmp_path: Path, given: str, what: str) -> None:
    batch = traffic()
    workspace.metrics.write(batch)
    with pytest.raises(InputError, match=what):
        calibrations.from_usage(workspace, "lab", usage_of(batch, tmp_path / "u.csv"), now, measured_on=given)
