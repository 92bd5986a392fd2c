"""Demand of shares of traffic: whole requests, each with what it brought, as many as asked for on the mean."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.emulate.conftest import make_intervals, make_prior, make_vm

from adumbra.emulate.demand import demand_table, load_of
from adumbra.emulate.trial import Traffic
from adumbra.emulate.vm import EmulatedNetwork, keys_of
from adumbra.schema.records import Intervals

STEPS = 4000
EXACT = {"request_s": 0.001, "byte_in_s": 1e-6, "byte_out_s": 1e-6, "packet_s": 1e-4, "connection_s": 0.002}
A_REQUEST = {"rx_bytes": 100, "tx_bytes": 400, "rx_packets": 1, "tx_packets": 1, "connections_attempted": 1}
FIGURES = ("drawn", "requests", "stands_for", "work_s", "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections")
WORK_S = 0.001 + 500e-6 + 2e-4 + 0.002  # of one such request


def share_of(factor: float, requests: int = 1, steps: int = STEPS, vms: int = 1) -> Intervals:
    """So many requests in each interval, and of all counts `factor` times as much."""
    counts = {name: factor * requests * count for name, count in (A_REQUEST | {"requests": 1}).items()}
    intervals = make_intervals([[[]] * vms] * steps)
    columns = {name: np.full((steps, vms), counts.get(name, 0.0)) for name in (*intervals.columns, "requests")}
    return dataclasses.replace(intervals, columns=columns)


def loads(intervals: Intervals, names: tuple[str, ...] = ("a",), **figures: object) -> np.ndarray:
    vms = [make_vm(name, make_prior(**(figures or EXACT))) for name in names]
    seen = np.zeros(intervals.one_sided.shape, np.int64)
    return load_of(intervals, seen, demand_table([vm.prior for vm in vms]), keys_of(vms, 1))


@pytest.mark.parametrize("factor", [0.03, 0.1, 0.5, 0.9, 1.1, 1.5, 2.75])
@pytest.mark.parametrize("requests", [1, 3, 40])
def test_shares_of_traffic_are_followed_by_whole_requests_that_bring_what_each_brought(factor: float, requests: int) -> None:
    intervals = share_of(factor, requests)
    load = loads(intervals)[:, 0]
    asked = factor * requests * STEPS
    part = factor * requests % 1
    sd = np.sqrt(STEPS * part * (1 - part))
    assert load["drawn"].sum() == pytest.approx(asked, abs=4 * sd + 1e-6)
    assert set(np.unique(load["drawn"])) <= {int(factor * requests), int(factor * requests) + 1}
    for name in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets"):
        assert load[name] == pytest.approx(load["drawn"] * A_REQUEST[name]), name
    traffic = Traffic.of(
        make_vm(prior=make_prior(**EXACT)), intervals.start_ns, intervals.interval_ns, load, seed=1, memory_bytes=0.0
    )
    assert traffic.requests == load["drawn"].sum()
    assert traffic.reference_ns == pytest.approx(WORK_S * 1e9, abs=1)


def test_emulated_vms_do_as_much_of_a_share_of_traffic() -> None:
    for factor in (0.1, 1.5):
        out = EmulatedNetwork([make_vm(prior=make_prior(**EXACT))], 1).emulate(share_of(factor))
        assert out["cpu_seconds"].sum() == pytest.approx(factor * STEPS * WORK_S, rel=0.15)
        assert np.nanmedian(out["latency_ms_p50"]) == pytest.approx(WORK_S * 1e3, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 3.0), st.sets(st.integers(1, 29)))
def test_what_a_share_comes_to_depends_on_vm_and_interval_only(factor: float, cuts: set[int]) -> None:
    intervals = share_of(factor, steps=30, vms=2)
    both = loads(intervals, ("a", "b"))
    parts = np.split(np.arange(30), sorted(cuts))
    grouped = [
        loads(
            dataclasses.replace(
                intervals, start_ns=intervals.start_ns[part], one_sided=intervals.one_sided[part],
                columns={name: values[part] for name, values in intervals.columns.items()},
            ),
            ("a", "b"),
        )
        for part in parts
    ]  # fmt: skip
    for name in FIGURES:
        assert (np.concatenate(grouped)[name] == both[name]).all(), name
    other = loads(share_of(factor, steps=30, vms=2), ("b", "c"))
    for name in FIGURES:
        assert (other[name][:, 0] == both[name][:, 1]).all(), "nor on which other VMs there are"


def test_vms_do_not_round_alike() -> None:
    drawn = loads(share_of(0.5, vms=2), ("a", "b"))["drawn"]
    assert (drawn[:, 0] != drawn[:, 1]).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("one_sided", [False, True])
def test_estimates_of_requests_that_nobody_counted_keep_their_mean(one_sided: bool) -> None:
    """A tenth of a connection brings 0.4 requests: of flow records by their bytes, of SYNs by the role's figures."""
    counts = {"connections_attempted": 0.1, "rx_bytes": 40.0, "tx_bytes": 160.0, "requests": 0.0 if one_sided else np.nan}
    intervals = make_intervals([[[]]] * STEPS, one_sided=one_sided)
    columns = {name: np.full((STEPS, 1), counts.get(name, 0.0)) for name in (*intervals.columns, "requests")}
    unseen = {"requests_per_connection": 4, "request_bytes": 100, "response_bytes": 400}
    load = loads(dataclasses.replace(intervals, columns=columns), request_s=0.001, unseen=unseen)
    assert load["drawn"].mean() == pytest.approx(0.4, abs=0.04)
    assert load["work_s"].mean() == pytest.approx(0.0004, abs=0.00004)
    if not one_sided:
        assert load["rx_bytes"] == pytest.approx(40.0), "what was observed stays"


def test_without_a_draw_the_load_is_what_is_to_be_expected() -> None:
    intervals = share_of(0.3)
    table = demand_table([make_prior(**EXACT)])
    load = load_of(intervals, np.zeros((STEPS, 1), np.int64), table)
    assert load["requests"] == pytest.approx(0.3)
    assert load["work_s"] == pytest.approx(0.3 * WORK_S)
    assert not load["drawn"].any()


def test_whole_counts_stay_however_large() -> None:
    for count in (0, 1, 7, 10**9, 2**60):
        load = loads(share_of(1.0, count, steps=3))
        assert (load["requests"] == min(float(count), 1e18)).all()
