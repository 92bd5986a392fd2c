"""A link that bursts: the token bucket by hand, against small steps, and its books."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.emulate.layout import FLEET
from adumbra.emulate.link_kernels import carry, delay, flow, rest
from adumbra.emulate.paths import NetworkPath
from adumbra.emulate.vm import EmulatedNetwork, EmulatedVm
from adumbra.schema.sizing import Machine

MB = 1_000_000


def make_link(peak=4.0, base=1.0, credit=600.0, buffer=1000.0):
    fleet = np.zeros(1, FLEET)
    fleet["peak_bytes_per_ns"], fleet["base_bytes_per_ns"] = peak, base
    fleet["credit_bytes"], fleet["buffer_bytes"] = credit, buffer
    return fleet[0]


@pytest.mark.parametrize(
    ("length", "inflow", "backlog", "credit", "want"),
    [
        (100, 0.0, 0.0, 600.0, (0.0, 600.0, 0.0)),  # it stays full
        (100, 0.0, 0.0, 500.0, (0.0, 600.0, 0.0)),  # what the baseline leaves unused refills it
        (100, 0.5, 0.0, 500.0, (0.0, 550.0, 0.0)),
        (100, 2.0, 0.0, 600.0, (0.0, 500.0, 0.0)),  # over the baseline: credit is spent, nothing waits
        (100, 2.0, 0.0, 50.0, (50.0, 0.0, 0.0)),  # until there is none: after 50 ns the baseline is all
        (100, 0.0, 200.0, 600.0, (0.0, 500.0, 0.0)),  # drained at the peak in 50 ns, 150 spent, 50 refilled
        (100, 0.0, 400.0, 150.0, (150.0, 0.0, 0.0)),  # 50 ns at the peak, 50 at the baseline
        (100, 0.0, 400.0, 0.0, (300.0, 0.0, 0.0)),
        (400, 1.0, 400.0, 0.0, (400.0, 0.0, 0.0)),
        (100, 6.0, 0.0, 600.0, (200.0, 300.0, 0.0)),  # more than the peak
        (1000, 6.0, 0.0, 600.0, (1000.0, 0.0, 3400.0)),  # 400 more in 200 ns, then 4000 in 800 ns
    ],
)
def test_flows_by_hand(length, inflow, backlog, credit, want):
    assert flow(make_link(), float(length), inflow, backlog, credit) == pytest.approx(want)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 8), st.floats(0, 1000), st.floats(0, 600), st.integers(1, 500))
def test_flows_against_small_steps(inflow, backlog, credit, length):
    found = flow(make_link(), float(length), inflow, backlog, credit)
    step, lost = 0.01, 0.0
    for _ in range(length * 100):
        rate = 4.0 if credit > 0 else 1.0
        sent = min(backlog / step + inflow, rate)
        backlog += (inflow - sent) * step
        lost += max(backlog - 1000.0, 0.0)
        backlog = min(max(backlog, 0.0), 1000.0)
        credit = min(max(credit + (1.0 - sent) * step, 0.0), 600.0)
    assert found == pytest.approx((backlog, credit, lost), abs=0.2)


@settings(deadline=None)
@given(st.floats(0, 8), st.floats(0, 1000), st.floats(0, 600), st.floats(0, 500), st.floats(0, 500))
def test_a_flow_may_be_cut_in_two(inflow, backlog, credit, one, other):
    whole = flow(make_link(), one + other, inflow, backlog, credit)
    half = flow(make_link(), one, inflow, backlog, credit)
    end = flow(make_link(), other, inflow, half[0], half[1])
    assert (end[0], end[1], half[2] + end[2]) == pytest.approx(whole, abs=1e-6)


@settings(deadline=None)
@given(st.floats(0, 1000), st.floats(0, 600))
def test_the_delay_is_how_long_it_takes_to_drain(backlog, credit):
    link = make_link()
    wait = delay(backlog, credit, 4.0, 1.0)
    assert rest(link, round(wait * 1.0 + 0.5) + 1, backlog, credit)[0] == 0
    if wait > 2:
        assert rest(link, int(wait) - 1, backlog, credit)[0] > 0


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(0, 999), max_size=20).map(sorted),
    st.floats(0, 900), st.floats(0, 8000), st.floats(0, 1000), st.floats(0, 600),
)  # fmt: skip
def test_the_books_balance(arrive_ns, burst, fluid, backlog, credit):
    """Never more sent than the baseline and the credit allow, nor than the peak."""
    offered, wait_ns = np.ones(len(arrive_ns), np.uint8), np.empty(len(arrive_ns))
    times = np.array(arrive_ns, np.int64)
    after, left, dropped = carry(make_link(), times, offered, 0, 1000, burst, fluid, backlog, credit, wait_ns)
    sent = burst * len(arrive_ns) + fluid + backlog - dropped - after
    assert 0 <= after <= 1000
    assert 0 <= left <= 600
    assert -1e-6 <= sent <= min(4.0 * 1000, 1000 + credit) + 1e-6
    assert (wait_ns >= 0).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 999), max_size=20).map(sorted), st.floats(0, 900), st.floats(0, 8000), st.floats(0, 1000))
def test_a_link_whose_credit_never_ends_is_one_of_its_peak(arrive_ns, burst, fluid, backlog):
    times = np.array(arrive_ns, np.int64)
    told = []
    for link, credit in ((make_link(credit=1e12), 1e12), (make_link(base=4.0, credit=0.0), 0.0)):
        offered, wait_ns = np.ones(len(times), np.uint8), np.empty(len(times))
        after, _, dropped = carry(link, times, offered, 0, 1000, burst, fluid, backlog, credit, wait_ns)
        told.append([after, dropped, *wait_ns, *offered])
    assert told[0] == pytest.approx(told[1], abs=1e-6)


def test_a_vm_that_bursts_is_throttled_once_its_credit_is_spent(prior_of, intervals_of):
    """40 Mbit/s over 10 that may peak at 50: 30 s worth of credit at the peak, so 40 s at this rate; then 10 Mbit/s."""
    machine = Machine(1, 4, 10, 20, peak_bandwidth_mbps=50)
    vm = EmulatedVm("a", prior_of(), machine, NetworkPath(0.0), credit_bytes=30 * 40 * MB / 8)
    traffic = {"tx_bytes": [[5 * MB]] * 60 + [[0]] * 30 + [[5 * MB]], "tx_packets": [[3500]] * 60 + [[0]] * 30 + [[3500]]}
    out = EmulatedNetwork([vm], 1).emulate(intervals_of([[[]]] * 91, traffic))
    dropped = out["dropped_ratio"][:, 0]
    assert (dropped[:39] == 0).all()
    assert dropped[42:60] == pytest.approx(np.full(18, 0.75), abs=0.01)
    assert np.isnan(dropped[60:90]).all()
    assert dropped[90] == 0  # 30 s of rest brought credit for 10 s
