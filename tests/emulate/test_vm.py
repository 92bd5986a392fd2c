"""Emulated VMs: what each column says of traffic that can be worked out by hand, and that only the traffic and seed decide."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.emulate.arrivals import ArrivalProcess
from adumbra.emulate.demand import MAX_DRAWN, NEEDED
from adumbra.emulate.layout import SIMULATED_BY_SET
from adumbra.emulate.paths import NetworkPath
from adumbra.emulate.roles import bundled_priors
from adumbra.emulate.vm import SIMULATED, EmulatedNetwork, EmulatedVm, spread
from adumbra.schema.metrics import BUCKETS_MS, BY_NAME, HISTOGRAMS, SIMULATED_WHERE_ONE_SIDED, Provenance
from adumbra.schema.records import Intervals, Requests
from adumbra.schema.sizing import RESOURCES, Machine

SECOND = 1_000_000_000
MB = 1_000_000

NAN = float("nan")


def run(vms, intervals, seed=1, sets=0):
    return EmulatedNetwork(vms, seed, sets).emulate(intervals)


def column(out, name, vm=0):
    return out[name][:, vm].tolist()


def split(intervals: Intervals, cuts: list[int]) -> list[Intervals]:
    """The same intervals in several batches."""
    edges = [0, *sorted(cuts), len(intervals)]
    parts = []
    for first, last in pairwise(edges):
        start_ns = intervals.start_ns[first:last]
        time_ns, requests = intervals.requests.time_ns, intervals.requests
        low, high = (start_ns[0], start_ns[-1] + intervals.interval_ns) if len(start_ns) else (0, 0)
        held = (time_ns >= low) & (time_ns < high)
        parts.append(
            dataclasses.replace(
                intervals,
                start_ns=start_ns,
                columns={name: values[first:last] for name, values in intervals.columns.items()},
                one_sided=intervals.one_sided[first:last],
                requests=Requests(time_ns[held], requests.vm[held], requests.opens[held]),
            )
        )
    return parts


def together(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_the_columns_are_the_catalogues(intervals_of, vm_of):
    simulated = {name for name, metric in BY_NAME.items() if metric.provenance is Provenance.SIMULATED}
    out = run([vm_of("a"), vm_of("b")], intervals_of([[[0.1], []]] * 3))
    assert set(out) == set(SIMULATED) == simulated | SIMULATED_WHERE_ONE_SIDED
    assert all(values.shape == (3, 2) and values.dtype == np.float64 for values in out.values())


def test_one_request_by_hand(intervals_of, vm_of, prior_of):
    """Path 10 ms; 1250 + 2500 bytes at 10 Mbit/s 3 ms; service 1 + 2 + 1.25 + 5 + 4 x 0.5 = 11.25 ms."""
    prior = prior_of(
        connection_s=0.002, request_s=0.001, byte_in_s=1e-6, byte_out_s=2e-6, packet_s=0.0005, idle_cores=0.1,
        memory={"base_bytes": 1000, "connection_bytes": 10},
        storage={"base_bytes": 500, "written_per_byte_in": 2, "ops_per_request": 3},
    )  # fmt: skip
    traffic = {"rx_bytes": 1250, "tx_bytes": 2500, "rx_packets": 2, "tx_packets": 2, "connections_attempted": 1,
               "connections_active": 7}  # fmt: skip
    out = run([vm_of(prior=prior, cores=1.1, mbps=10, path=NetworkPath(0.010))], intervals_of([[[0.5]]], traffic))
    for name in ("latency_ms_p50", "latency_ms_p95", "latency_ms_p99"):
        assert column(out, name) == pytest.approx([24.25])
    assert column(out, "cpu_seconds") == pytest.approx([0.01125 + 0.1])
    assert column(out, "cpu_utilization") == pytest.approx([0.11125 / 1.1])
    assert column(out, "memory_bytes") == [1070]
    assert column(out, "storage_bytes") == [3000]
    assert column(out, "storage_ops") == [3]
    assert column(out, "dropped_ratio") == [0]
    assert np.isnan(column(out, "rtt_ms_p50")).all()


@pytest.mark.parametrize("length_s", [1.0, 10.0])
@pytest.mark.parametrize("requests", [1, 5, 50, 500])
def test_requests_that_come_alone_cost_more_than_many(intervals_of, vm_of, prior_of, requests, length_s):
    """Each costs 1 ms, and 2 ms more for those that come 20 ms and more after what woke the machine last."""
    times = (np.arange(requests) / requests * length_s).tolist()
    out = run([vm_of(prior=prior_of(request_s=0.001, wake_s=0.002), cores=64)], intervals_of([[times]], length_s=length_s))
    woken = requests / (1 + 0.02 * requests / length_s)
    assert column(out, "cpu_seconds") == pytest.approx([0.001 * requests + 0.002 * woken], rel=1e-4)
    each_ms = column(out, "cpu_seconds")[0] / requests * 1e3
    assert column(out, "latency_ms_p50") == pytest.approx([each_ms], rel=1e-3)
    assert 1.0 < each_ms < 3.0


@pytest.mark.parametrize(
    ("cores", "servers", "arrivals", "want_ms"),
    [
        (1, None, [0.1, 0.1, 0.1, 0.1], [100, 200, 300, 400]),
        (2, None, [0.1, 0.1, 0.1, 0.1], [100, 100, 200, 200]),
        (4, None, [0.1, 0.1, 0.1, 0.1], [100, 100, 100, 100]),
        (4, 1, [0.1, 0.1, 0.1, 0.1], [100, 200, 300, 400]),  # a single-threaded server has no use for more cores
        (4, 2, [0.1, 0.1, 0.1, 0.1], [100, 100, 200, 200]),
        (0.5, None, [0.1, 0.1], [200, 400]),
        (0.25, None, [0.1], [400]),
        (2.5, None, [0.1, 0.1], [80, 80]),  # two servers of 1.25 cores
        (1, None, [0.1, 0.3], [100, 100]),
    ],
)
def test_cores_are_servers(intervals_of, vm_of, prior_of, cores, servers, arrivals, want_ms):
    vm = vm_of(prior=prior_of(request_s=0.1, servers=servers), cores=cores)
    out = run([vm], intervals_of([[arrivals], [[]]]))
    for name, level in (("latency_ms_p50", 50), ("latency_ms_p95", 95), ("latency_ms_p99", 99)):
        assert out[name][0, 0] == pytest.approx(np.percentile(want_ms, level), abs=0.001)
    assert out["cpu_seconds"].sum() == pytest.approx(0.1 * len(arrivals))
    assert out["cpu_utilization"][0, 0] <= min(1, (servers or cores) / cores) + 1e-12


def test_a_faster_core_takes_less_time(intervals_of, vm_of):
    out = run([vm_of("slow"), vm_of("fast", core_speed=2.0)], intervals_of([[[0.5], [0.5]]]))
    assert out["latency_ms_p50"][0].tolist() == pytest.approx([1.0, 0.5])
    assert out["cpu_seconds"][0].tolist() == pytest.approx([0.001, 0.0005])


def test_an_idle_vm_has_no_latency_and_no_loss(intervals_of, vm_of, prior_of):
    out = run([vm_of(prior=prior_of(idle_cores=0.02, memory={"base_bytes": 5}), cores=2)], intervals_of([[[]]] * 2))
    for name in ("latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "dropped_ratio", "rtt_ms_p50", "rtt_ms_p99"):
        assert np.isnan(out[name]).all()
    assert column(out, "cpu_seconds") == pytest.approx([0.02, 0.02])
    assert column(out, "cpu_utilization") == pytest.approx([0.01, 0.01])
    assert column(out, "memory_bytes") == [5, 5]
    assert column(out, "storage_ops") == [0, 0]


def test_an_overloaded_vm_is_full_gets_slower_and_refuses_at_last(intervals_of, vm_of, prior_of):
    """Twice what one core can do for 8 s, with a patience of 3 s; then quiet, and the backlog is worked off."""
    busy = np.linspace(0, 0.999, 200).tolist()
    traffic = intervals_of([[busy]] * 8 + [[[]]] * 5, {"rx_packets": [[200]] * 8 + [[0]] * 5, "rx_bytes": 0})
    out = run([vm_of(prior=prior_of(request_s=0.01), patience_s=3.0)], traffic)
    utilization, latency, dropped = (column(out, name) for name in ("cpu_utilization", "latency_ms_p50", "dropped_ratio"))
    assert utilization[:8] == pytest.approx([1.0] * 8)
    assert all(later > sooner + 500 for sooner, later in pairwise(latency[:3]))
    assert latency[7] == pytest.approx(3000, rel=0.02)
    assert dropped[:2] == [0, 0]
    assert dropped[4:8] == pytest.approx([0.5] * 4, abs=0.02)
    assert utilization[8:11] == pytest.approx([1.0] * 3, abs=0.02)
    assert utilization[11:] == [0, 0]
    refused = sum(200 * share for share in dropped[:8])
    assert sum(column(out, "cpu_seconds")) == pytest.approx(0.01 * (1600 - refused))


def test_a_narrow_link_fills_its_buffer_then_drops_the_excess(intervals_of, vm_of, prior_of):
    """20 Mbit/s of answers over 10 Mbit/s: the buffer adds its 50 ms, and half is lost."""
    requests = np.linspace(0, 0.99, 100).tolist()
    traffic = {"tx_bytes": 2_500_000, "tx_packets": 1700, "rx_bytes": 6000, "rx_packets": 100}
    narrow, wide = vm_of("narrow", prior_of(), mbps=10), vm_of("wide", prior_of(), mbps=100)
    out = run([narrow, wide], intervals_of([[requests, requests]] * 3, traffic))
    tx_share = 1700 / 1800
    assert column(out, "dropped_ratio", 0)[1:] == pytest.approx([0.5 * tx_share] * 2, rel=0.03)
    assert column(out, "dropped_ratio", 1) == [0, 0, 0]
    serialised_ms = (25_000 + 60) * 8 / 10e6 * 1e3
    assert column(out, "latency_ms_p99", 0)[2] == pytest.approx(serialised_ms + 50, rel=0.3)
    assert column(out, "latency_ms_p99", 1)[2] == pytest.approx(serialised_ms / 10, rel=0.5)


def test_a_gap_in_the_watch_empties_the_links_buffers(intervals_of, vm_of, prior_of):
    """6.25 MB lie in the buffers after the first interval: 50 ms at line rate."""
    traffic = {"rx_bytes": [[200 * MB], [0]], "tx_bytes": [[200 * MB], [0]], "rx_packets": 1, "tx_packets": 1}
    for gap_s, want_ms in [(0, 100), (0.02, 60), (1, 0)]:
        intervals = intervals_of([[[]], [[0.0]]], traffic, one_sided=True, starts_s=[0, 1 + gap_s])
        out = run([vm_of(prior=prior_of())], intervals)
        assert column(out, "rtt_ms_p50") == pytest.approx([100, want_ms])


def test_what_the_cores_refuse_is_not_answered(intervals_of, vm_of, prior_of):
    """One of two requests is refused: its answer's 50 MB aren't sent, nor are its bytes written."""
    prior = prior_of(request_s=0.5, storage={"written_per_byte_in": 1, "ops_per_request": 1})
    traffic = {"rx_bytes": [[1000], [0]], "rx_packets": [[2], [0]], "tx_bytes": [[100 * MB], [0]], "tx_packets": [[8], [0]]}
    out = run([vm_of(prior=prior, mbps=400, patience_s=0.1)], intervals_of([[[0.1, 0.1]], [[]]], traffic))
    assert column(out, "storage_ops") == [1, 0]
    assert column(out, "storage_bytes") == [500, 500]
    assert out["dropped_ratio"][0, 0] == pytest.approx(0.5)  # 50 MB in 1 s is just what 400 Mbit/s carry


def test_work_that_no_core_can_begin_in_time_is_refused(intervals_of, vm_of, prior_of):
    prior = prior_of(byte_in_s=1e-6, storage={"written_per_byte_in": 1})
    traffic = {"rx_bytes": [[8 * MB], [0], [0]], "rx_packets": [[10], [0], [0]], "tx_packets": [[10], [0], [0]]}
    out = run([vm_of(prior=prior, patience_s=1.0)], intervals_of([[[]]] * 3, traffic))
    assert column(out, "cpu_seconds") == pytest.approx([1, 1, 0])
    assert out["dropped_ratio"][0, 0] == pytest.approx(0.75)
    assert column(out, "storage_bytes") == pytest.approx([2 * MB] * 3)


def test_an_idle_system_leaves_something_to_requests(intervals_of, vm_of, prior_of):
    """More idle use than the VM has cores: 95 % of it is taken, the rest serves."""
    out = run([vm_of(prior=prior_of(idle_cores=0.5, request_s=0.001), cores=0.25)], intervals_of([[[0.1]]]))
    assert column(out, "latency_ms_p50") == pytest.approx([1 / 0.0125])
    assert column(out, "cpu_seconds") == pytest.approx([0.2375 + 0.001])


def test_a_path_narrower_than_the_vms_link_is_what_counts(intervals_of, vm_of, prior_of):
    traffic = {"tx_bytes": 125_000, "tx_packets": 100}
    vm = vm_of(prior=prior_of(), mbps=1000, path=NetworkPath(0.004, 1e6))
    out = run([vm], intervals_of([[[0.0]]], traffic))
    assert column(out, "latency_ms_p50") == pytest.approx([4 + 1000])


def test_a_large_answer_alone_is_sent_whole(intervals_of, vm_of, prior_of):
    """50 MB are far more than the link's buffer of 6 MB, but their sender paces them: 0.4 s, and nothing is lost."""
    out = run([vm_of(prior=prior_of())], intervals_of([[[0.9]]] * 5, {"tx_bytes": 50 * MB, "tx_packets": 35_000}))
    assert column(out, "dropped_ratio") == [0] * 5
    assert column(out, "latency_ms_p50") == pytest.approx([400] * 5, rel=0.01)


def test_work_without_requests_is_done_all_the_same(intervals_of, vm_of, prior_of):
    """A stream that goes on: 3 s of work come in one interval without a request, and are done in three."""
    traffic = {"rx_bytes": [[3 * MB], [0], [0], [0]], "rx_packets": [[2000], [0], [0], [0]]}
    out = run([vm_of(prior=prior_of(byte_in_s=1e-6), cores=1)], intervals_of([[[]]] * 4, traffic))
    assert column(out, "cpu_seconds") == pytest.approx([1, 1, 1, 0])
    assert np.isnan(column(out, "latency_ms_p50")).all()


def test_a_gap_in_the_watch_works_backlogs_off(intervals_of, vm_of, prior_of):
    prior = prior_of(byte_in_s=1e-6, memory={"connection_bytes": 100, "release_s": 2})
    traffic = {"rx_bytes": [[3 * MB], [0]], "rx_packets": [[9], [0]], "connections_active": [[10], [0]]}
    near = run([vm_of(prior=prior)], intervals_of([[[]]] * 2, traffic, starts_s=[0, 1.5]))
    far = run([vm_of(prior=prior)], intervals_of([[[]]] * 2, traffic, starts_s=[0, 100]))
    assert column(near, "cpu_seconds") == pytest.approx([1, 1])
    assert column(far, "cpu_seconds") == pytest.approx([1, 0])
    assert column(near, "memory_bytes") == pytest.approx([1000, 1000 * np.exp(-1.5 / 2)])
    assert column(far, "memory_bytes")[1] < 1e-9


@pytest.mark.parametrize(("release_s", "after"), [(0, 100), (1, 100 + 900 * np.exp(-1)), (1e9, 1000)])
def test_memory_comes_back_over_the_release_time(intervals_of, vm_of, prior_of, release_s, after):
    prior = prior_of(memory={"connection_bytes": 100, "release_s": release_s})
    out = run([vm_of(prior=prior)], intervals_of([[[]]] * 2, {"connections_active": [[10], [1]]}))
    assert column(out, "memory_bytes") == pytest.approx([1000, after])


def test_storage_only_grows_by_what_is_written(intervals_of, vm_of, prior_of):
    prior = prior_of(storage={"base_bytes": 10, "written_per_byte_in": 1.5, "ops_per_request": 2})
    out = run([vm_of(prior=prior)], intervals_of([[[0.1, 0.2]], [[]], [[0.3]]], {"rx_bytes": [[100], [20], [0]]}))
    assert column(out, "storage_bytes") == pytest.approx([160, 190, 190])
    assert column(out, "storage_ops") == [4, 0, 2]


def test_logs_grow_by_requests_whatever_else_is_received(intervals_of, vm_of, prior_of):
    prior = prior_of(storage={"base_bytes": 10, "written_per_request": 200})
    out = run([vm_of(prior=prior)], intervals_of([[[0.1, 0.2]], [[]], [[0.3]]], {"rx_bytes": [[100], [9000], [0]]}))
    assert column(out, "storage_bytes") == pytest.approx([410, 410, 610])


def test_where_only_syns_are_seen_each_brings_what_the_role_expects(intervals_of, vm_of, prior_of):
    """100 SYNs a second, 20 of them the VM's own: 80 would-be connections of 3 requests of 2 ms."""
    prior = prior_of(
        request_s=0.002, connection_s=0.001, storage={"ops_per_request": 1}, memory={"connection_bytes": 10},
        unseen={"requests_per_connection": 3, "request_bytes": 100, "response_bytes": 5000},
    )  # fmt: skip
    traffic = {"connections_attempted": 100, "connections_initiated": 20, "rx_bytes": 6000, "rx_packets": 100}
    network = [vm_of(prior=prior, cores=2, path=NetworkPath(0.03))]
    seen = run(network, intervals_of([[[]]] * 3, traffic, one_sided=True))
    assert column(seen, "storage_ops") == [240] * 3
    assert sum(column(seen, "cpu_seconds")) == pytest.approx(3 * (0.1 + 0.48), rel=0.02)
    assert column(seen, "memory_bytes") == [800] * 3
    assert all(32 < latency < 60 for latency in column(seen, "latency_ms_p50"))
    assert all(30 <= rtt < 31 for rtt in column(seen, "rtt_ms_p50") + column(seen, "rtt_ms_p99"))
    answered = run(network, intervals_of([[[]]] * 3, traffic, one_sided=False))
    assert column(answered, "storage_ops") == [0] * 3
    assert np.isnan(column(answered, "rtt_ms_p50")).all()


def test_scans_are_no_demand(intervals_of, vm_of, prior_of):
    prior = prior_of(request_s=0.001, connection_s=0.001, byte_in_s=1e-6, storage={"ops_per_request": 1})
    clients = {"connections_attempted": 10, "rx_bytes": 600, "rx_packets": 10}
    scanned = {"connections_attempted": 510, "rx_bytes": 30_600, "rx_packets": 510}
    scans = {"connections_scanned": 500, "scan_bytes": 30_000}
    quiet = run([vm_of(prior=prior)], intervals_of([[[]]], clients, one_sided=True))
    noisy = run([vm_of(prior=prior)], intervals_of([[[]]], {**scanned, **scans}, one_sided=True))
    for name in SIMULATED:
        np.testing.assert_allclose(noisy[name], quiet[name], err_msg=name)
    blind = run([vm_of(prior=prior)], intervals_of([[[]]], scanned, one_sided=True))
    assert sum(column(blind, "storage_ops")) == 510


@pytest.mark.parametrize(
    ("told", "want"),
    [
        ({"connections_attempted": 20}, 60),
        ({"connections_attempted": NAN, "rx_bytes": 100_000, "tx_bytes": 4_000_000}, 200),
        ({"connections_attempted": 20, "rx_bytes": 100_000, "tx_bytes": 4_000_000}, 200),  # 20 connections, kept open
        ({"connections_attempted": NAN, "rx_bytes": 100_000, "tx_bytes": 0}, 0),
        ({"connections_attempted": NAN, "rx_bytes": NAN, "tx_bytes": NAN, "rx_packets": NAN}, 0),
    ],
)
def test_requests_that_a_source_cannot_tell_are_taken_from_what_it_tells(intervals_of, vm_of, prior_of, told, want):
    """Three requests a connection, 500 bytes each, answered by 20,000: whichever of connections and bytes makes more."""
    unseen = {"requests_per_connection": 3, "request_bytes": 500, "response_bytes": 20_000}
    prior = prior_of(request_s=1e-6, unseen=unseen, storage={"ops_per_request": 1})
    out = run([vm_of(prior=prior)], intervals_of([[[]]], {"requests": NAN, **told}))
    assert column(out, "storage_ops") == [want]
    assert np.isnan(column(out, "rtt_ms_p50")).all()  # two-sided: what isn't known isn't simulated


@pytest.mark.parametrize("one_sided", [False, True])
def test_requests_that_are_counted_but_not_timed_are_drawn(intervals_of, vm_of, prior_of, one_sided):
    """What is replayed from stored counts: as many requests as told, those with a time at that time."""
    prior = prior_of(request_s=0.002, storage={"ops_per_request": 1}, unseen={"requests_per_connection": 50})
    traffic = intervals_of(
        [[[]], [[0.1, 0.2]], [[0.1, 0.2]]], {"requests": [[40], [40], [1]], "connections_attempted": 2}, one_sided
    )
    out = run([vm_of(prior=prior)], traffic)
    assert column(out, "storage_ops") == [40, 40, 2]
    assert sum(column(out, "cpu_seconds")) == pytest.approx(82 * 0.002)
    assert not np.isnan(out["latency_ms_p50"]).any()


def test_clustered_arrivals_wait_longer(intervals_of, vm_of, prior_of):
    vms = [vm_of(f"{size}", prior_of(request_s=0.005), arrivals=ArrivalProcess(size, 0.001)) for size in (1, 5, 20)]
    out = run(vms, intervals_of([[[]] * 3] * 50, {"requests": 100}))
    alone, few, many = out["latency_ms_p95"].mean(axis=0)
    assert alone < 0.7 * few < 0.5 * many
    assert out["cpu_seconds"].sum(axis=0) == pytest.approx([25.0] * 3, rel=0.02)


@pytest.mark.parametrize(
    ("cores", "arrivals", "want_ms"),
    [
        (1, [0.1, 0.1], [200, 200]),  # both share the core
        (2, [0.1, 0.1], [100, 100]),
        (1, [0.1, 0.15], [150, 150]),  # 50 ms alone, 100 ms with the other, then the other alone
        (2, [0.1, 0.1, 0.1], [150, 150, 150]),
    ],
)
def test_requests_that_share_the_cores(intervals_of, vm_of, prior_of, cores, arrivals, want_ms):
    vm = vm_of(prior=prior_of(request_s=0.1, cpu={"discipline": "ps"}), cores=cores)
    out = run([vm], intervals_of([[arrivals], [[]]]))
    for name, level in (("latency_ms_p50", 50), ("latency_ms_p95", 95), ("latency_ms_p99", 99)):
        assert out[name][0, 0] == pytest.approx(np.percentile(want_ms, level), abs=0.001)
    assert out["cpu_seconds"].sum() == pytest.approx(0.1 * len(arrivals))


def test_a_shared_request_is_told_in_the_interval_in_which_it_is_done(intervals_of, vm_of, prior_of):
    vm = vm_of(prior=prior_of(request_s=1.5, cpu={"discipline": "ps"}), path=NetworkPath(0.02))
    out = run([vm], intervals_of([[[0.25]], [[]], [[]]], {"tx_bytes": 0}))
    assert column(out, "latency_ms_p50") == pytest.approx([NAN, 1520, NAN], nan_ok=True)
    assert column(out, "cpu_seconds") == pytest.approx([0.75, 0.75, 0])


def test_shared_cores_refuse_whoever_finds_all_places_taken(intervals_of, vm_of, prior_of):
    """Of 1000 at once, 256 share the core: the others are turned away, and their packets count as dropped."""
    vm = vm_of(prior=prior_of(request_s=0.001, cpu={"discipline": "ps"}))
    out = run([vm], intervals_of([[[0.1] * 1000], [[]]], {"rx_packets": [[1000], [0]]}))
    assert out["dropped_ratio"][0, 0] == pytest.approx(0.744)
    assert out["cpu_seconds"].sum() == pytest.approx(0.256)
    assert column(out, "latency_ms_p50")[0] == pytest.approx(256, rel=1e-3)


@pytest.mark.parametrize("discipline", ["fcfs", "ps"])
def test_both_disciplines_do_all_work_that_comes(intervals_of, vm_of, prior_of, discipline):
    vm = vm_of(prior=prior_of(request_s=0.004, cpu={"discipline": discipline, "service_cv": 1.5}))
    busy = np.linspace(0, 0.99, 200).tolist()
    out = run([vm], intervals_of([[busy]] * 20 + [[[]]] * 10))
    work_s = run([vm_of(prior=vm.prior, cores=64)], intervals_of([[busy]] * 20 + [[[]]] * 10))["cpu_seconds"].sum()
    assert out["cpu_seconds"].sum() == pytest.approx(work_s, rel=1e-6)


def test_work_without_requests_on_shared_cores(intervals_of, vm_of, prior_of):
    traffic = {"rx_bytes": [[3 * MB], [0], [0], [0]], "rx_packets": [[2000], [0], [0], [0]]}
    vm = vm_of(prior=prior_of(byte_in_s=1e-6, cpu={"discipline": "ps"}), cores=1)
    out = run([vm], intervals_of([[[]]] * 4, traffic))
    assert column(out, "cpu_seconds") == pytest.approx([1, 1, 1, 0])
    assert np.isnan(column(out, "latency_ms_p50")).all()


def test_half_hidden_connections_that_bring_requests_are_no_would_be_ones(intervals_of, vm_of, prior_of):
    """An asymmetric mirror shows the clients' side only: their requests are seen, and stand for themselves."""
    prior = prior_of(storage={"ops_per_request": 1}, unseen={"requests_per_connection": 50})
    out = run([vm_of(prior=prior)], intervals_of([[[0.1, 0.2, 0.3]]], {"connections_attempted": 2}, one_sided=True))
    assert column(out, "storage_ops") == [3]


def test_round_trips_of_one_sided_traffic_show_the_links_queue(intervals_of, vm_of, prior_of):
    traffic = {"rx_bytes": 2_500_000, "rx_packets": 2000}
    out = run([vm_of(prior=prior_of(), mbps=10, path=NetworkPath(0.02))], intervals_of([[[]]], traffic, one_sided=True))
    assert column(out, "rtt_ms_p50") == pytest.approx([70])


def test_a_flood_of_syns_is_bounded_in_memory_and_whole_in_count(intervals_of, vm_of, prior_of):
    flood = 10 * MAX_DRAWN
    prior = prior_of(request_s=1e-7, storage={"ops_per_request": 1})
    traffic = {"connections_attempted": flood, "rx_bytes": 60 * flood, "rx_packets": flood}
    out = run([vm_of(prior=prior, mbps=10_000)], intervals_of([[[]]], traffic, one_sided=True))
    assert column(out, "storage_ops") == [flood]
    assert sum(column(out, "cpu_seconds")) == pytest.approx(flood * 1e-7, rel=0.01)


def test_one_that_stands_for_many_varies_less(intervals_of, vm_of, prior_of):
    """100 services of variation 5, taken as one, have variation 0.5."""
    prior = prior_of(request_s=1e-6, service_cv=5, unseen={"requests_per_connection": 100 * MAX_DRAWN})
    whole = run([vm_of(prior=prior, cores=64)], intervals_of([[[]]] * 2, {"connections_attempted": [[1], [0]]}, one_sided=True))
    latencies = [whole[f"latency_ms_{p}"][0, 0] for p in ("p50", "p99")]
    assert latencies[1] / latencies[0] == pytest.approx(np.exp(2.3263 * np.sqrt(np.log(1.25))), rel=0.03)


@pytest.mark.parametrize("cores", [0.25, 1, 64])
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("size", [0, 1, 2**31, 2**62, -1])
def test_no_traffic_is_too_odd(intervals_of, vm_of, cores, one_sided, size):
    roles = sorted(bundled_priors().roles)
    vms = [vm_of(role, bundled_priors().prior(role), cores=cores) for role in roles]
    traffic = dict.fromkeys(NEEDED, size) | {"connections_initiated": 0}
    out = run(vms, intervals_of([[[0.5]] * len(roles), [[]] * len(roles)], traffic, one_sided))
    for name, values in out.items():
        assert (np.isfinite(values) | np.isnan(values)).all(), name
        assert not (values < 0).any(), name
    assert (out["cpu_utilization"] <= 1).all()
    assert not (out["dropped_ratio"] > 1).any()


def test_percentiles_are_exact_over_each_cells_requests(intervals_of, vm_of, prior_of):
    """One server, known services: Lindley's waits by hand, numpy's percentiles."""
    rng = np.random.default_rng(3)
    cells = [[np.sort(rng.uniform(0, 1, count)).round(6).tolist()] for count in (1, 2, 37, 400)]
    out = run([vm_of(prior=prior_of(request_s=0.002), path=NetworkPath(0.005))], intervals_of(cells))
    free = 0.0
    for i, (arrivals,) in enumerate(cells):
        latencies = []
        for at in arrivals:
            free = max(free, i + at) + 0.002
            latencies.append((free - i - at + 0.005) * 1e3)
        for name, level in (("latency_ms_p50", 50), ("latency_ms_p95", 95), ("latency_ms_p99", 99)):
            assert out[name][i, 0] == pytest.approx(np.percentile(latencies, level), abs=1e-4)
        *buckets, total = HISTOGRAMS["latency"]
        assert [out[name][i, 0] for name in buckets] == [sum(ms <= bound for ms in latencies) for bound in BUCKETS_MS]
        assert out[total][i, 0] == pytest.approx(sum(latencies), abs=1e-2)


def fleet(vm_of, prior_of):
    heavy = {"cpu": {"service_cv": 1.5}, "memory": {"base_bytes": 10, "connection_bytes": 7, "release_s": 3}}
    writes = {"storage": {"base_bytes": 1, "written_per_byte_in": 0.7, "ops_per_request": 0.3}}
    unseen = {"unseen": {"requests_per_connection": 2.5, "request_bytes": 300, "response_bytes": 4000}}
    costs = {"request_s": 0.02, "byte_in_s": 1e-7, "packet_s": 1e-5, "idle_cores": 0.01}
    prior = prior_of(**costs, **heavy, **writes, **unseen)
    shared = prior_of(**costs, **heavy | {"cpu": {"service_cv": 1.5, "discipline": "ps"}}, **writes, **unseen)
    bursting = Machine(1, 4, 0.5, 20, peak_bandwidth_mbps=2)
    return [
        vm_of("a", prior, cores=1, mbps=1),
        vm_of("b", prior, cores=3, mbps=100),
        vm_of("c", prior, cores=0.5, mbps=10, patience_s=0.5),
        vm_of("d", shared, cores=1, mbps=1, arrivals=ArrivalProcess(3, 0.05)),
        EmulatedVm("e", shared, bursting, NetworkPath(0.001), credit_bytes=100_000),
    ]


count = st.integers(0, 300)
cell = st.tuples(
    st.lists(st.integers(0, 999), max_size=25), st.booleans(), count, st.integers(0, 200_000), st.integers(0, 200_000), count,
    st.integers(0, 40) | st.just(NAN),
)  # fmt: skip
traffics = st.lists(st.tuples(st.integers(0, 2), st.tuples(cell, cell, cell, cell, cell)), min_size=1, max_size=8)


def story(rows, intervals_of):
    """Intervals, with gaps before some, from what hypothesis tells."""
    starts = np.cumsum([1 + gap for gap, _ in rows]).tolist()
    cells = [line for _, line in rows]
    columns = {
        "connections_attempted": [[c[2] for c in line] for line in cells],
        "connections_initiated": [[c[2] // 5 for c in line] for line in cells],
        "connections_active": [[c[5] for c in line] for line in cells],
        "rx_bytes": [[c[3] for c in line] for line in cells],
        "tx_bytes": [[c[4] for c in line] for line in cells],
        "rx_packets": [[-(-c[3] // 1000) for c in line] for line in cells],
        "tx_packets": [[-(-c[4] // 1000) for c in line] for line in cells],
        "requests": [[c[6] for c in line] for line in cells],
        "peers": [[c[6] for c in line] for line in cells],
    }
    arrivals = [[sorted(t / 1000 for t in c[0]) for c in line] for line in cells]
    return intervals_of(arrivals, columns, [[c[1] for c in line] for line in cells], starts_s=starts)


@settings(max_examples=60, deadline=None)
@given(rows=traffics, cuts=st.lists(st.integers(0, 8), max_size=4), seed=st.integers(0, 2**64))
def test_batches_change_nothing(rows, cuts, seed, intervals_of, vm_of, prior_of):
    """The same traffic cut into batches anywhere, even handed from one object to another: identical to the last bit."""
    intervals, vms = story(rows, intervals_of), fleet(vm_of, prior_of)
    whole = EmulatedNetwork(vms, seed, 3)
    want = whole.emulate(intervals)
    cut, got = EmulatedNetwork(vms, seed, 3), []
    for part in split(intervals, [c for c in cuts if c < len(rows)]):
        got.append(cut.emulate(part))
        state, cut = cut.state(), EmulatedNetwork(vms, seed, 3)
        cut.restore(state)
    for name, values in together(got).items():
        np.testing.assert_array_equal(values, want[name], err_msg=name)
    for name, values in cut.state().items():
        np.testing.assert_array_equal(values, whole.state()[name], err_msg=name)


@settings(max_examples=40, deadline=None)
@given(rows=traffics)
def test_a_vm_depends_on_no_other(rows, intervals_of, vm_of, prior_of):
    intervals, vms = story(rows, intervals_of), fleet(vm_of, prior_of)
    want = run(vms, intervals, sets=2)
    held = intervals.requests.vm == 1
    alone = dataclasses.replace(
        intervals,
        columns={name: values[:, 1:2] for name, values in intervals.columns.items()},
        one_sided=intervals.one_sided[:, 1:2],
        requests=Requests(intervals.requests.time_ns[held], np.zeros(held.sum(), np.int32), intervals.requests.opens[held]),
    )
    for name, values in run(vms[1:2], alone, sets=2).items():
        np.testing.assert_array_equal(values[:, 0], want[name][:, 1], err_msg=name)


@settings(max_examples=60, deadline=None)
@given(rows=traffics)
def test_bounds_hold_whatever_comes(rows, intervals_of, vm_of, prior_of):
    vms = fleet(vm_of, prior_of)
    out = run(vms, story(rows, intervals_of), sets=3)
    for name in SIMULATED_BY_SET:
        low, central, high = out[f"{name}_low"], out[name], out[f"{name}_high"]
        assert (np.isnan(central) == np.isnan(low)).all()
        assert ((low <= central) & (central <= high))[~np.isnan(central)].all()
    cores = np.array([vm.machine.cpu_cores for vm in vms])
    assert (out["cpu_seconds"] <= cores * (1 + 1e-9)).all()
    assert ((out["cpu_utilization"] >= 0.01 / cores - 1e-12) & (out["cpu_utilization"] <= 1)).all()
    assert (np.diff(out["storage_bytes"], axis=0) >= 0).all()
    ratio = out["dropped_ratio"]
    assert (np.isnan(ratio) | ((ratio >= 0) & (ratio <= 1))).all()
    p50, p95, p99 = (out[f"latency_ms_{p}"] for p in ("p50", "p95", "p99"))
    known = ~np.isnan(p50)
    assert (known == ~np.isnan(p99)).all()
    assert ((p50 <= p95) & (p95 <= p99))[known].all()
    assert (p50[known] > 0).all()


def test_the_seed_decides_and_nothing_else(intervals_of, vm_of, prior_of):
    vms = [vm_of(prior=prior_of(request_s=0.01, cpu={"service_cv": 1.0}))]
    traffic = intervals_of([[np.linspace(0, 0.9, 50).tolist()]] * 3)
    one, again, other = run(vms, traffic, 1), run(vms, traffic, 1), run(vms, traffic, 2)
    np.testing.assert_array_equal(one["latency_ms_p99"], again["latency_ms_p99"])
    assert (one["latency_ms_p99"] != other["latency_ms_p99"]).all()
    assert len(set(column(one, "latency_ms_p99"))) == 3  # every interval draws anew


def test_many_intervals_at_once_are_taken_in_parts(intervals_of, vm_of, monkeypatch):
    vms, traffic = [vm_of("a"), vm_of("b")], intervals_of([[[0.1], [0.2, 0.9995]]] * 20)
    want = run(vms, traffic)
    monkeypatch.setattr("adumbra.emulate.vm._CELLS_AT_ONCE", 7)
    for name, values in run(vms, traffic).items():
        np.testing.assert_array_equal(values, want[name])


def test_no_intervals_give_no_rows(intervals_of, vm_of):
    network = EmulatedNetwork([vm_of()], 1)
    empty = split(intervals_of([[[]]]), [0])[0]
    assert {values.shape for values in network.emulate(empty).values()} == {(0, 1)}
    assert network.state()["clock_ns"].tolist() == [-1]


def test_spread_follows_the_prior(vm_of, prior_of):
    wide = spread([vm_of("a", prior_of()), vm_of("b", bundled_priors().prior("unheard-of"))])
    assert tuple(wide) == RESOURCES
    generic = bundled_priors().roles["generic"].spread
    assert wide["cpu_cores"].tolist() == [0.5, math.hypot(generic.cpu, generic.costs)]
    assert [wide[r][0] for r in ("memory_gb", "bandwidth_mbps", "storage_gb")] == [0.25, 0.0, 1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"machine": Machine(0, 4, 100, 20)},
        {"machine": Machine(float("nan"), 4, 100, 20)},
        {"machine": Machine(float("inf"), 4, 100, 20)},
        {"machine": Machine(1e9, 4, 100, 20)},
        {"machine": Machine(1, 4, 0, 20)},
        {"path": NetworkPath(-1.0)},
        {"path": NetworkPath(0.1, 0.0)},
        {"core_speed": 0.0},
        {"buffer_bytes": 0.0},
        {"machine": Machine(1, 4, 100, 20, 0.0)},
        {"credit_bytes": -1.0},
        {"patience_s": float("inf")},
    ],
)
def test_sizes_that_no_machine_has_are_refused(prior_of, wrong):
    given_ = {"name": "a", "prior": prior_of(), "machine": Machine(1, 4, 100, 20), "path": NetworkPath(0.0)}
    with pytest.raises(ValueError, match="the emulated VM a "):
        EmulatedVm(**given_ | wrong)


def test_networks_that_make_no_sense_are_refused(vm_of):
    with pytest.raises(ValueError, match="no VMs"):
        EmulatedNetwork([], 1)
    with pytest.raises(ValueError, match="one name"):
        EmulatedNetwork([vm_of("a"), vm_of("a")], 1)


def shifted(intervals, ns):
    return dataclasses.replace(intervals, start_ns=intervals.start_ns + ns)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda i: shifted(i, -SECOND // 2), "in order"),  # before what was emulated
        (lambda i: shifted(i, 10 * SECOND), "outside"),  # away from its requests
        (lambda i: dataclasses.replace(i, start_ns=i.start_ns[::-1].copy()), "in order"),
        (lambda i: dataclasses.replace(i, columns={}), "column rx_bytes"),
        (lambda i: dataclasses.replace(i, requests=dataclasses.replace(i.requests, vm=i.requests.vm + 1)), "isn't there"),
        (
            lambda i: dataclasses.replace(i, requests=dataclasses.replace(i.requests, time_ns=i.requests.time_ns[::-1].copy())),
            "out of order",
        ),
    ],
)
def test_intervals_that_do_not_follow_are_refused_and_change_nothing(intervals_of, vm_of, change, says):
    network = EmulatedNetwork([vm_of()], 1)
    network.emulate(intervals_of([[[0.5]]]))
    before = network.state()
    with pytest.raises(ValueError, match=says):
        network.emulate(change(intervals_of([[[0.5]], [[0.1]]], starts_s=[1, 2])))
    for name, values in network.state().items():
        np.testing.assert_array_equal(values, before[name])


def test_a_state_of_other_vms_is_refused(vm_of):
    state = EmulatedNetwork([vm_of(cores=2)], 1).state()
    with pytest.raises(ValueError, match="free_ns"):
        EmulatedNetwork([vm_of(cores=4)], 1).restore(state)
    with pytest.raises(ValueError, match="clock_ns"):
        EmulatedNetwork([vm_of(cores=2)], 1).restore({})
