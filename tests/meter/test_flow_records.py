"""Flow records in, columns out: spreading, scaling, what isn't told, lateness, gaps, scans, and bounds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.meter.flow_stories import BEGIN_S, DB, FILE, WEB, Flow, Story, metered, records, refused, told

from adumbra.meter.flow_records import FlowMeter, FlowMeterSettings
from adumbra.schema.metrics import METRICS, Provenance
from adumbra.schema.records import NANOSECONDS, ConnectionRecords

# ---- spreading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flow", "sizes", "packets"),
    [
        (Flow(0.5, 0.5), [600], [6]),  # an instant
        (Flow(0.0, 1.999999999), [300, 300], [3, 3]),
        (Flow(0.5, 2.499999999), [150, 300, 150], [2, 3, 1]),  # whole packets, that add up
        (Flow(0.75, 1.749999999), [150, 450], [2, 4]),
        (Flow(0.0, 1.0), [600, 0], [6, 0]),  # its end is part of it, if only for a nanosecond
        (Flow(0.0, 3.999999999, bytes=1, packets=1), [0, 1, 0, 0], [0, 1, 0, 0]),
        (Flow(0.0, 3.999999999, bytes=0, packets=0), [0, 0, 0, 0], [0, 0, 0, 0]),
        (Flow(0.0, 1.999999999, rate=100), [30_000, 30_000], [300, 300]),
    ],
)
def test_a_flow_is_spread_over_its_intervals(flow: Flow, sizes: list[int], packets: list[int]) -> None:
    story = metered([flow])
    assert story.column("rx_bytes") == sizes
    assert story.column("rx_packets") == packets
    assert story.total("tx_bytes") == story.total("rx_bytes", DB) == 0


def test_a_flow_between_two_vms_counts_for_both() -> None:
    story = metered([told(src=WEB, dst=DB)])
    assert (story.column("tx_bytes", WEB), story.column("rx_bytes", DB)) == ([600], [600])
    assert [story.column(name, vm) for name in ("connections_attempted", "connections_initiated") for vm in (WEB, DB)] == [
        [1],
        [1],
        [1],
        [0],
    ]


flows = st.builds(
    lambda start, length, size, packets, rate, src, dst, sign: Flow(
        start, start + length, src, dst, size, packets, rate, *sign
    ),
    st.floats(0, 100),
    st.one_of(st.just(0.0), st.floats(0, 5), st.floats(0, 100)),
    st.integers(0, 10**9),
    st.integers(-1, 10**4),
    st.sampled_from([1, 1, 1, 10, 1000]),
    st.sampled_from([WEB, "198.18.0.1", "198.18.0.2"]),
    st.sampled_from([WEB, DB]),
    st.sampled_from([(-1, -1, -1, -1), (1, 1, 0, 1), (1, 0, 1, 1), (0, 0, 0, 0)]),
)


def outcome(story: Story) -> tuple[Any, ...]:
    names = [metric.name for metric in METRICS if metric.provenance is not Provenance.SIMULATED]
    columns = {(name, vm): story.column(name, vm) for name in names for vm in (WEB, DB)} if story.intervals else {}
    return story.seconds, columns, story.one_sided() if story.intervals else [], story.meter.accounts()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(flows, min_size=1, max_size=12), st.sampled_from([0.1, 1.0, 7.0, 60.0]), st.lists(st.integers(0, 4), max_size=5)
)
def test_totals_are_kept_over_any_spread_and_any_batches(rows: list[Flow], interval_s: float, batches: list[int]) -> None:
    story = metered(rows, interval_s, batches=batches, kind=ConnectionRecords)
    for vm in (WEB, DB):
        got = [flow for flow in rows if flow.dst == vm]
        sent = [flow for flow in rows if flow.src == vm]
        assert story.total("rx_bytes", vm) == sum(flow.bytes * flow.rate for flow in got)
        assert story.total("rx_packets", vm) == sum(max(flow.packets, 0) * flow.rate for flow in got)
        assert story.total("tx_bytes", vm) == sum(flow.bytes * flow.rate for flow in sent)
        either = [flow for flow in rows if vm in {flow.src, flow.dst}]
        for name, of in (("attempted", "attempted"), ("established", "established"), ("failed", "failed")):
            want = sum(max(getattr(flow, of), 0) * flow.rate for flow in either)
            assert story.total(f"connections_{name}", vm) == want
        assert story.total("missed_packets", vm) == 0
    assert outcome(metered(rows, interval_s, kind=ConnectionRecords)) == outcome(story)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(flows, min_size=1, max_size=12),
    st.sampled_from([1.0, 7.0]),
    st.lists(st.integers(0, 4), max_size=5),
    st.sampled_from([0.0, 5.0, 60.0]),
    st.sampled_from([64, 1 << 12]),
    st.integers(0, 2**62),
)
def test_what_is_late_is_missed_and_batches_change_nothing(
    rows: list[Flow], interval_s: float, batches: list[int], lateness_s: float, cells: int, seed: int
) -> None:
    bounds = FlowMeterSettings(lateness_s=lateness_s, max_cells=cells)
    rows = [replace(flow, packets=max(flow.packets, 1)) for flow in rows]
    story = metered(rows, interval_s, bounds, batches, seed=seed)
    want = outcome(metered(rows, interval_s, bounds))
    assert outcome(story) == want
    for vm in (WEB, DB):
        ends = [[flow.src, flow.dst] for flow in rows]
        given_packets = sum(
            flow.packets * flow.rate * (len({vm} & set(pair)) if story.meter.accounts().late else pair.count(vm))
            for flow, pair in zip(rows, ends, strict=True)
        )
        counted = story.total("rx_packets", vm) + story.total("tx_packets", vm)
        if story.meter.accounts().late == 0:
            assert counted == given_packets
        elif not any(pair == [vm, vm] for pair in ends):
            assert counted + story.total("missed_packets", vm) == given_packets


# ---- what is told --------------------------------------------------------------------------------------------------------


def test_what_no_flow_can_tell_is_null() -> None:
    story = metered([Flow(0, 5)])
    for name in (
        "requests",
        "rtt_ms_p50",
        "rtt_ms_p99",
        "ack_ms_p50",
        "ack_ms_p99",
        "response_ms_p50",
        "response_ms_p99",
        "loss_ratio",
        "retransmitted_packets",
        "out_of_order_packets",
        "duplicate_acks",
        "zero_windows",
        "connections_attempted",
        "connections_initiated",
        "connections_established",
        "connections_failed",
        "connections_active",
        "connections_scanned",
    ):
        assert story.column(name) == [None] * 6, name
    names = {metric.name for metric in METRICS if metric.provenance is not Provenance.SIMULATED}
    assert set(story.intervals[0].columns) == names
    assert len(story.intervals[0].requests) == 0


@pytest.mark.parametrize(
    ("rows", "column", "want"),
    [
        ([told(start=0, end=0), told(start=2, end=2)], "connections_attempted", [1, 0, 1]),
        ([told(start=0, end=0), Flow(2, 2)], "connections_attempted", [1, 0, None]),  # a row that doesn't tell
        ([told(start=0, end=0), Flow(2, 2), told(start=2, end=2)], "connections_attempted", [1, 0, 1]),  # one that does
        ([told(start=0, end=0), Flow(2, 2, protocol=17)], "connections_attempted", [1, 0, 0]),  # only TCP's rows matter
        ([Flow(0, 0), Flow(2, 2, protocol=17, attempted=0)], "connections_attempted", [None, None, None]),
        ([told(start=0, end=2, attempted=2)], "connections_attempted", [2, 0, 0]),  # where it begins
        ([told(start=0, end=2, established=0, failed=1)], "connections_failed", [0, 0, 1]),  # where it ends
        ([Flow(0, 0, bytes=-1), Flow(2, 2)], "rx_bytes", [None, 0, 600]),
        ([Flow(0, 0, bytes=-1), Flow(2, 2, bytes=-1)], "rx_bytes", [None, None, None]),
        ([Flow(0, 0, packets=-1), Flow(0, 0)], "rx_packets", [6]),
        ([Flow(0, 0, bytes=-1), Flow(2, 2)], "tx_bytes", [0, 0, 0]),
        ([told(start=0, end=0, from_client=-1)], "connections_initiated", [None]),
    ],
)
def test_what_is_not_told_is_null_and_what_did_not_happen_is_zero(
    rows: list[Flow], column: str, want: list[float | None]
) -> None:
    for size in (1, len(rows)):
        assert metered(rows, batches=[size]).column(column) == want


def test_columns_are_whole_where_all_is_told() -> None:
    columns = metered([told()]).intervals[0].columns
    assert columns["connections_attempted"].dtype == columns["rx_bytes"].dtype == np.int64
    assert columns["requests"].dtype == np.float64


def test_open_connections_where_rows_are_whole_connections() -> None:
    rows = [told(start=0.5, end=3.5), told(start=1.2, end=1.8), told(start=2, end=9), refused(start=0, end=5)]
    back = [replace(row, src=WEB, dst="198.18.0.1", attempted=0, established=0, from_client=0) for row in rows]
    story = metered([*rows, *back], kind=ConnectionRecords)
    assert story.column("connections_active") == [1, 1, 2, 1, 1, 1, 1, 1, 1, 0]
    assert metered([*rows, *back]).column("connections_active") == [None] * 10


def test_peers_are_those_whose_packets_fall_into_an_interval() -> None:
    rows = [
        Flow(0, 1.9, packets=2, src="198.18.0.1"),
        Flow(0, 0, src="198.18.0.1"),
        Flow(0, 0, src="2001:db8::1"),
        Flow(1, 1, src=DB),
        Flow(3, 3, packets=0, src="198.18.0.9"),
        Flow(3, 3, packets=-1, src="198.18.0.9"),
    ]
    assert metered(rows).column("peers") == [2, 2, 0, 1]


def test_one_sided_until_the_other_side_is_seen() -> None:
    rows = [Flow(0, 0), Flow(1, 1), Flow(1, 1, src=WEB, dst="198.18.0.1"), Flow(2, 2)]
    assert metered(rows).one_sided() == [True, False, False]
    assert metered([Flow(0, 0, bytes=-1, packets=-1)]).one_sided() == [False]  # it tells nothing of traffic


@pytest.mark.parametrize(
    ("rows", "want"),
    [
        ([Flow(0, 0)], [0]),
        ([Flow(0, 0, rate=100, packets=4)], [math.sqrt(100 * 99 * 4) / 400]),
        ([Flow(0, 0, rate=100, packets=4), Flow(0, 0, packets=600)], [math.sqrt(100 * 99 * 4) / 1000]),
        ([Flow(0, 0, rate=100, packets=4), Flow(2, 2, packets=5)], [math.sqrt(100 * 99 * 4) / 400, None, 0]),
    ],
)
def test_sampling_error(rows: list[Flow], want: list[float | None]) -> None:
    got = metered(rows).column("sampling_error_ratio")
    assert got == [value if value is None else pytest.approx(value) for value in want]


def test_sampling_error_is_that_of_sampling() -> None:
    rng = np.random.default_rng(5)
    packets, rate = 20_000, 50
    estimates = [rate * int((rng.random(packets) < 1 / rate).sum()) for _ in range(300)]
    got = metered([Flow(0, 0, rate=rate, packets=packets // rate)]).column("sampling_error_ratio")[0]
    assert got == pytest.approx(np.std(estimates) / packets, rel=0.15)


# ---- time ----------------------------------------------------------------------------------------------------------------

COLLECTED = FlowMeterSettings(lateness_s=10.0)


def test_an_interval_closes_once_the_lateness_has_passed() -> None:
    meter = FlowMeter(2, NANOSECONDS, COLLECTED)
    assert list(meter.add(records([Flow(0, 0)]))) == []
    assert list(meter.add(records([Flow(10.9, 10.9)]))) == []
    assert [int(each) for part in meter.add(records([Flow(12, 12)])) for each in part.start_ns] == [BEGIN_S * NANOSECONDS]


def test_what_is_late_is_counted_and_missed_and_the_rest_is_metered() -> None:
    story = metered([Flow(20, 20), Flow(8, 12 - 1e-9, packets=8), Flow(1, 2, packets=5)], settings=COLLECTED)
    assert story.seconds[0] == 10
    assert story.column("rx_packets")[:3] == [2, 2, 0]
    assert story.column("missed_packets")[:3] == [4 + 5, 0, 0]
    assert (story.meter.accounts().late, story.meter.accounts().attributed) == (2, 3)


def test_silence_is_quiet_for_an_hour_and_then_a_gap() -> None:
    story = metered([Flow(0, 0), Flow(3600, 3600), Flow(20_000, 20_000)])
    assert story.seconds == [*range(3601), 20_000]
    assert story.column("rx_bytes")[1] == 0
    yearly = metered([Flow(day * 86_400, day * 86_400) for day in range(365)])
    assert yearly.seconds == [day * 86_400 for day in range(365)]


def test_a_collector_that_watches_sees_quiet() -> None:
    meter = FlowMeter(2, 60 * NANOSECONDS, COLLECTED)
    story = Story(meter, list(meter.add(records([Flow(0, 0)]))))
    for minute in range(1, 300):
        story.intervals += meter.advance((BEGIN_S + 60 * minute) * NANOSECONDS)
    assert len(story.seconds) == 298
    story.intervals += meter.add(records([Flow(60 * 300, 60 * 300)], complete_to_ns=(BEGIN_S + 60 * 305) * NANOSECONDS))
    story.intervals += meter.finish()
    assert [round(each) for each in np.diff(story.seconds)] == [60] * 303
    assert story.total("rx_bytes") == 1200


def test_files_stay_open_until_their_end_or_until_their_cells_are_used_up() -> None:
    rows = [*(Flow(second, second) for second in range(0, 6400, 64)), Flow(0, 0)]
    assert metered(rows).meter.accounts().late == 0
    few = metered(rows, settings=FlowMeterSettings(lateness_s=None, max_cells=16 * 64))
    assert few.meter.accounts().late == 1
    assert few.total("rx_packets") == 600
    assert few.total("missed_packets") == 6


def test_lost_datagrams_are_missed_by_every_vm() -> None:
    meter = FlowMeter(2, NANOSECONDS, FILE)
    meter.miss(3)
    story = Story(meter, list(meter.add(records([Flow(0, 0), Flow(5, 5)]))))
    meter.miss(4)
    story.intervals += meter.finish()
    assert story.column("missed_packets", DB) == [3, 0, 0, 0, 0, 4]


def test_accounts_of_rows() -> None:
    rows = records([Flow(), Flow(dst="198.18.9.9"), Flow(dst="198.18.9.9")])
    rows.dst_vm[2] = -2
    meter = FlowMeter(2, NANOSECONDS)
    assert list(meter.add(rows)) == []
    accounts = meter.accounts(outcomes={"parsed": 3, "malformed": 2})
    assert (accounts.offered, accounts.parsed, accounts.attributed, accounts.foreign, accounts.unclaimed) == (5, 3, 1, 1, 1)


# ---- scans ---------------------------------------------------------------------------------------------------------------


def scan(targets: int, **changes: Any) -> list[Flow]:
    return [refused(start=k / 10, end=k / 10, dst_port=1000 + k, **changes) for k in range(targets)]


@pytest.mark.parametrize(
    ("rows", "attempts", "size"),
    [
        (scan(19), 0, 0),
        (scan(20), 20, 800),
        (scan(300), 300, 12_000),
        ([*scan(19), *scan(19)], 0, 0),  # the same ports again
        ([told(start=k, end=k, dst_port=1000 + k) for k in range(30)], 0, 0),  # they are answered
        ([*scan(20), *(told(start=5, end=5, dst_port=443) for _ in range(3))], 0, 0),  # enough of them
        ([*scan(20), told(start=5, end=5, dst_port=443)], 21, 800 + 600),
        ([refused(src=f"198.18.0.{k}", dst_port=k) for k in range(1, 60)], 0, 0),  # many sources
        (scan(30, src=DB), 0, 0),  # a VM of the network
    ],
)
def test_scanners(rows: list[Flow], attempts: int, size: int) -> None:
    story = metered(rows)
    assert (story.total("connections_scanned"), story.total("scan_bytes")) == (attempts, size)
    assert story.total("connections_attempted") == len(rows)  # a scan is counted as observed all the same
    assert story.meter.accounts().scanned_attempts == attempts


def test_a_scan_is_told_without_flags_too() -> None:
    probes = [Flow(k, k, packets=1, bytes=44, dst_port=k) for k in range(25)]
    story = metered(probes)
    assert story.total("scan_bytes") == 25 * 44
    assert set(story.column("connections_scanned")) == {None}
    assert metered([replace(probe, packets=9, bytes=4000) for probe in probes]).total("scan_bytes") == 0
    assert (
        metered([replace(probe, rate=100) for probe in probes]).total("scan_bytes") == 0
    )  # a sample of one packet says little


def test_a_failed_attempt_at_a_port_that_is_not_declared_is_no_demand() -> None:
    rows = [refused(dst_port=23), refused(dst_port=443), told(dst_port=23), refused(dst_port=23, dst=DB)]
    story = metered(rows, ports=[[443], []])
    assert (story.total("connections_scanned"), story.total("scan_bytes")) == (1, 40)
    assert story.total("connections_scanned", DB) == 0


def test_answers_that_the_servers_rows_tell_of_count() -> None:
    asked = [Flow(k, k, attempted=1, established=0, from_client=1, dst_port=k) for k in range(30)]
    answers = [Flow(k, k, src=WEB, dst="198.18.0.1", attempted=0, established=1, failed=0, from_client=0) for k in range(30)]
    both = [row for pair in zip(asked, answers, strict=True) for row in pair]
    assert metered(both).total("connections_scanned") == 0
    assert metered(asked).total("connections_scanned") == 30


def test_many_sources_cost_bounded_memory() -> None:
    bounds = FlowMeterSettings(lateness_s=None, max_sources=64)
    rows = [refused(src=f"198.18.{k >> 8}.{k & 255}", dst_port=k) for k in range(2000)]
    story = metered(rows, settings=bounds)
    assert story.meter.accounts().evicted_sources >= 2000 - 64
    assert story.total("connections_failed") == 2000


# ---- hostile -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flow",
    [
        Flow(0, 0, bytes=2**62, packets=2**62, rate=2**62),
        Flow(0, 0, rate=-5),
        Flow(0, 0, rate=0),
        Flow(0, 0, bytes=-(2**62)),
        Flow(-1_699_000_000, 5),
        Flow(-3_000_000_000, -2_000_000_000),
        Flow(50, 2),
        Flow(0, 7_000_000_000),
        Flow(0, 0, attempted=2**60, from_client=1),
    ],
)
def test_impossible_rows_do_no_harm(flow: Flow) -> None:
    story = metered([Flow(10, 10), *[flow] * 3000, Flow(10, 10)], interval_s=0.1)
    assert story.meter.accounts().attributed == 3002
    assert len(story.seconds) < 200_000
    values = [value for name in ("rx_bytes", "rx_packets") for value in story.column(name) if value is not None]
    assert all(0 <= value <= 2**62 for value in values)
    assert story.total("rx_bytes") >= 1200


def test_times_far_in_the_future_make_a_gap() -> None:
    story = metered([Flow(0, 0), Flow(2_000_000_000, 2_000_000_000), Flow(1, 1)])
    assert story.seconds == [0, 1, 2_000_000_000]
