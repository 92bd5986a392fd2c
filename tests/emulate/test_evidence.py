"""Rows of counts beside measured use: what goes in, what is left out, and that pieces sum to the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adumbra.emulate.calibration.calibrate import calibrate
from adumbra.emulate.calibration.evidence import Evidence, Gathering
from adumbra.emulate.calibration.rows import MeasuredVm
from adumbra.emulate.calibration.tasks import FITTED
from adumbra.emulate.parameters import PARAMETER_SETS
from adumbra.emulate.paths import NetworkPath
from adumbra.emulate.roles import bundled_priors
from adumbra.emulate.vm import EmulatedNetwork, EmulatedVm
from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, Intervals, Requests
from adumbra.schema.sizing import Machine

S = NANOSECONDS
VM = EmulatedVm("web", bundled_priors().prior("nginx"), Machine(2, 8, 1000, 20), NetworkPath(0.001))
NONE = Requests(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.bool_))


def seconds(count: int, **columns: float) -> Intervals:
    """`count` seconds from 100 s on, each with these counts."""
    told = {metric.name: np.zeros((count, 1)) for metric in METRICS}
    told |= {name: np.full((count, 1), value, np.float64) for name, value in columns.items()}
    return Intervals(S, (100 + np.arange(count)) * S, told, np.zeros((count, 1), np.bool_), NONE)


def measured(starts_s: list[float], length_s: float = 10.0, core_speed: float = 1.0) -> MeasuredVm:
    starts = np.array([round(each * S) for each in starts_s], np.int64)
    return MeasuredVm("web", starts, length_s, {"cpu_cores": np.full(len(starts), 0.5)}, core_speed)


def gathered(*parts: Intervals, rows: MeasuredVm, vm: EmulatedVm = VM) -> Evidence:
    gathering = Gathering([vm], [rows])
    for part in parts:
        gathering.add(part)
    return gathering.evidence()[0]


LOAD = {
    "requests": 4, "connections_attempted": 3, "connections_scanned": 1, "rx_bytes": 500, "scan_bytes": 100, "tx_bytes": 2000,
    "rx_packets": 5, "tx_packets": 7,
}  # fmt: skip


def test_a_row_sums_what_came_in_its_time_without_scans() -> None:
    rows = gathered(seconds(20, **LOAD), rows=measured([100, 110]))
    want = [10, 20, 40, 4000, 20_000, 110, 40 / 1.08]  # 5 packets in, of which a fifth were scans
    assert rows.counts == pytest.approx(np.array([want] * 2))
    assert rows.works.tolist() == [40, 40]
    assert rows.used["cpu_cores"].tolist() == [0.5, 0.5]


def test_rows_that_were_not_watched_whole_are_left_out() -> None:
    rows = gathered(seconds(20, **LOAD), rows=measured([90, 95, 100, 112, 130]))
    assert np.isnan(rows.used["cpu_cores"]).tolist() == [True, True, False, True, True]


def test_rows_of_which_one_side_was_seen_are_left_out() -> None:
    whole = seconds(20, **LOAD)
    sided = whole.one_sided.copy()
    sided[3] = True
    rows = gathered(replace(whole, one_sided=sided), rows=measured([100, 110]))
    assert np.isnan(rows.used["cpu_cores"]).tolist() == [True, False]


def at_rates(per_row: np.ndarray, interval_s: int) -> Intervals:
    """Intervals from 120 s on, with so many requests each."""
    told = {metric.name: np.zeros((len(per_row), 1)) for metric in METRICS}
    told["requests"][:, 0] = per_row
    starts = (120 + interval_s * np.arange(len(per_row))) * S
    return Intervals(interval_s * S, starts, told, np.zeros((len(per_row), 1), np.bool_), NONE)


def test_merged_rows_that_begin_between_intervals_are_paid_by_their_share_of_each() -> None:
    """Rows of 15 s from 7 s on: four are merged, and 53 s of theirs lie in one interval, 7 s in the next."""
    requests = np.array([60.0, 600.0, 0.0])
    rows = gathered(at_rates(requests, 60), rows=measured([127 + 15 * step for step in range(8)], 15.0))
    assert rows.start_ns.tolist() == [127 * S, 187 * S]
    assert rows.length_s == 60
    assert rows.works.tolist() == pytest.approx([53 + 70, 530])
    assert rows.used["cpu_cores"].tolist() == [0.5, 0.5]


UNUSABLE = [
    ([120.0 + step for step in range(200) if step % 5], False, "no 10 s on end were both measured and observed throughout"),
    ([120.0 + step for step in range(200)], True, "only one side of its traffic was seen while it was measured"),
    ([900.0 + step for step in range(200)], False, "no traffic was observed while it was measured"),
    ([], False, "it was not measured"),
]


@pytest.mark.parametrize(("starts_s", "one_sided", "why"), UNUSABLE)
def test_why_no_row_can_be_used_is_told(starts_s: list[float], one_sided: bool, why: str) -> None:
    intervals = at_rates(np.arange(20.0), 10)
    intervals = replace(
        intervals, columns=intervals.columns | {"rx_bytes": np.full((20, 1), 9.0)}, one_sided=np.full((20, 1), one_sided)
    )
    learned, _ = calibrate(gathered(intervals, rows=measured(starts_s, 1.0)), VM.prior)
    assert learned.refused["cpu_cores"] == why


def test_a_resource_that_was_not_measured_is_told_so_beside_one_that_was() -> None:
    rows = measured([120.0 + 10 * step for step in range(20)])
    rows = replace(rows, used=rows.used | {"memory_gb": np.full(20, np.nan)})
    learned, _ = calibrate(gathered(at_rates(np.arange(20.0), 10), rows=rows), VM.prior)
    assert learned.refused["memory_gb"] == "it was not measured"


def test_a_faster_core_does_the_same_work_in_less_time_but_rests_as_long() -> None:
    """The core that it was measured on, whatever the VM is to stand on."""
    rows = gathered(seconds(10, **LOAD), rows=measured([100], core_speed=2.0), vm=replace(VM, core_speed=3.0))
    assert rows.counts[0] == pytest.approx([10, 10, 20, 2000, 10_000, 55, 20 / 1.08])


def test_pieces_sum_to_the_whole() -> None:
    whole = seconds(30, connections_active=9, **LOAD)

    def part(first: int, last: int) -> Intervals:
        columns = {name: values[first:last] for name, values in whole.columns.items()}
        return replace(whole, start_ns=whole.start_ns[first:last], columns=columns, one_sided=whole.one_sided[first:last])

    rows = measured([100, 110, 120])
    at_once, pieces = gathered(whole, rows=rows), gathered(part(0, 7), part(7, 8), part(8, 30), rows=rows)
    assert np.array_equal(at_once.counts, pieces.counts)
    assert np.allclose(at_once.holdings, pieces.holdings)
    assert at_once.holdings[2, :2].tolist() == [1, 9]


def test_a_vm_that_is_not_emulated_is_refused() -> None:
    with pytest.raises(ValueError, match="no emulated VM db"):
        Gathering([VM], [replace(measured([100]), vm="db")])


def test_too_few_rows_are_refused_in_words() -> None:
    rows = gathered(seconds(50, **LOAD), rows=measured([100, 110, 120, 130]))
    learned, judged = calibrate(rows, VM.prior)
    assert learned.refused == {
        "cpu_cores": "there are 4 rows with both traffic and use, and 12 are the least", "memory_gb": "it was not measured",
    }  # fmt: skip
    assert (learned.fits, judged) == ({}, {})


def test_what_waking_takes_is_learned_with_the_request() -> None:
    """Rows of a server whose every request costs the same: the fit names no wake_s, and its request costs all of it. The prior
    is judged with its own law, in which a request costs more when it comes alone.
    """
    rates = np.concatenate([np.tile([1.0, 4.0, 2.0, 8.0], 10), np.tile([16.0, 32.0], 10)])
    told = {metric.name: np.zeros((600, 1)) for metric in METRICS}
    told["requests"][:, 0] = np.repeat(rates, 10)
    told["connections_attempted"][:, 0] = 1.0
    intervals = Intervals(S, (100 + np.arange(600)) * S, told, np.zeros((600, 1), np.bool_), NONE)
    request_s = 5e-4
    rows = MeasuredVm("web", (100 + 10 * np.arange(60)) * S, 10.0, {"cpu_cores": 0.01 + request_s * rates})
    cpu = VM.prior.cpu.model_copy(update={"request_s": 1e-4, "wake_s": 4e-4, "idle_cores": 0.01, "connection_s": 0.0})
    learned, judged = calibrate(gathered(intervals, rows=rows), VM.prior.model_copy(update={"cpu": cpu}))
    fit = learned.fits["cpu_cores"]
    assert fit.names == FITTED
    assert dict(zip(fit.names, fit.mean, strict=True))["request_s"] == pytest.approx(request_s, rel=0.05)
    assert 1e-4 < dict(zip(fit.names, fit.before, strict=True))["request_s"] < 5e-4
    held_out = judged["cpu_cores"]
    told_s = rates[20:] * (1e-4 + 4e-4 / (1 + 0.02 * rates[20:]))
    assert held_out.before == pytest.approx(0.01 + told_s, rel=1e-6)
    assert held_out.after == pytest.approx(held_out.measured, rel=0.05)


def test_the_memory_that_is_fitted_is_the_memory_that_is_emulated() -> None:
    """A server whose connections, clients and cache hold three times what the prior says; its cache is half full when measuring
    begins. Emulated by what was learned, it holds what it held, all along.
    """
    figures = {"base_bytes": 1e7, "connection_bytes": 2e4, "release_s": 40.0, "session_bytes": 3e4, "session_s": 60.0,
               "cache_bytes": 2e8, "cache_request_bytes": 2e4}  # fmt: skip
    held = {name: 3 * value if name.endswith("bytes") else value for name, value in figures.items()}
    rng = np.random.default_rng(3)
    told = {metric.name: np.zeros((600, 1)) for metric in METRICS}
    told["requests"][:, 0] = rng.poisson(30, 600)
    told["connections_active"][:, 0] = np.round(400 * (1 + np.sin(np.arange(600) / 25)))
    told["peers"][:, 0] = np.round(150 * (1 + np.sin(np.arange(600) / 11)))
    intervals = Intervals(S, (100 + np.arange(600)) * S, told, np.zeros((600, 1), np.bool_), NONE)

    def with_memory(figures: dict[str, float]) -> EmulatedVm:
        memory = VM.prior.memory.model_copy(update=figures)
        return replace(VM, prior=VM.prior.model_copy(update={"memory": memory}))

    truth = EmulatedNetwork([with_memory(held)], 1).emulate(intervals)["memory_bytes"][:, 0]
    vm = with_memory(figures)
    rows = MeasuredVm("web", intervals.start_ns[200:], 1.0, {"memory_gb": truth[200:]})
    learned, _ = calibrate(gathered(intervals, rows=rows, vm=vm), vm.prior)
    calibrated = replace(vm, calibration=learned)
    assert calibrated.believed.memory.cache_bytes == pytest.approx(3 * figures["cache_bytes"], rel=0.02)
    emulated = EmulatedNetwork([calibrated], 1, PARAMETER_SETS).emulate(intervals)
    assert emulated["memory_bytes"][:, 0] == pytest.approx(truth, rel=0.03)
    width = emulated["memory_bytes_high"] / emulated["memory_bytes_low"]
    assert width.max() < 1.5, "the prior's spread is gone, that of the cache's bound too"
