"""The fitted traffic model: who calls whom, rates over time, bursts, sizes and times, each from what is known to lie in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.emulate import traffic_lab

from adumbra.emulate.traffic import calls as traffic_calls
from adumbra.emulate.traffic import model as traffic
from adumbra.emulate.traffic import rates as traffic_rates
from adumbra.emulate.traffic import sizes as traffic_sizes
from adumbra.emulate.traffic.calls import Counts
from adumbra.schema.records import Floats, Series

DAY_S = 86_400
NS = 10**9


def series(values: dict[str, Floats], vms: tuple[str, ...], step_s: float = 1.0) -> Series:
    """A stored series: the given columns, all others 0, or NaN where they are times."""
    shape = next(iter(values.values())).shape
    unknown = {name: np.full(shape, np.nan if "_ms_" in name else 0.0) for name in traffic.COLUMNS}
    return Series("lab", vms, traffic_lab.START_NS, step_s, unknown | values, np.zeros(shape))


# ---- who calls whom ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_what_is_dealt_sums_to_what_was_seen(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.uniform(0.01, 1.0, (size + 1, size + 1))
    table[-1, -1] = 0.0
    rows, columns = rng.integers(0, 1000, size).astype(float), rng.integers(0, 1000, size).astype(float)
    dealt = traffic_calls.proportional_fit(table, rows, columns)
    assert dealt[:, :-1].sum(axis=0) == pytest.approx(columns, rel=1e-5, abs=1e-6)
    assert dealt[:-1].sum(axis=1) == pytest.approx(rows, rel=1e-3, abs=1e-3)
    assert (dealt >= 0).all()


def test_connections_of_the_front_are_dealt_to_what_stands_behind_it() -> None:
    _, _, ground, _ = traffic_lab.lab()  # web, db, cache, six
    opened, received = np.array([30.0, 50.0, 0, 0, 0]), np.array([4000.0, 4100.0, 45.0, 35.0, 900.0])
    steady = np.random.default_rng(1).poisson(20.0, (5, 100)).astype(float)
    steady[2:4] = steady[0] + steady[1]  # what is called moves with its callers
    near = np.array([0.0, 0.0, np.nan, np.nan, 0.0])
    dealt = traffic_calls.deal(ground, Counts(opened, received, received * 2), steady, near)
    web, db, cache, six, outside = range(5)
    assert dealt.connections[web, db] == pytest.approx(45.0, rel=0.03)
    assert dealt.connections[web, cache] == pytest.approx(35.0, rel=0.03)
    assert dealt.connections[web, six] == 0.0  # no IP version in common
    assert dealt.connections[outside, web] == pytest.approx(8100.0, rel=0.01)


def test_what_a_vm_served_is_what_passed_less_what_it_called_itself() -> None:
    _, _, ground, _ = traffic_lab.lab()
    opened, received = np.array([40.0, 40.0, 0, 0, 0]), np.array([100.0, 100.0, 80.0, 0.0, 0.0])
    counts = Counts(opened, received, np.array([300.0, 100.0, 200.0, 0.0, 0.0]))
    dealt = traffic_calls.deal(ground, counts, np.ones((5, 30)), np.array([0.0, 0, 1, np.nan, np.nan]))
    into, out = np.array([1000.0, 500.0, 100.0, 0, 0]), np.array([700.0, 400.0, 800.0, 0, 0])
    rx, tx = traffic_calls.served(dealt, into, out)
    # The calls go by requests, 3 to 1: web-1 had 600 of the 800 bytes that the database sent.
    assert rx[:3] == pytest.approx([400.0, 300.0, 100.0], rel=0.02)
    assert tx[:3] == pytest.approx([625.0, 375.0, 800.0], rel=0.02)


# ---- rates and bursts ----------------------------------------------------------------------------------------------------


def test_a_daily_profile_comes_of_three_days_and_holds_beyond_them() -> None:
    rng = np.random.default_rng(2)
    step_s = 60.0
    time_s = (np.arange(3 * DAY_S // 60) + 0.5) * step_s
    start_ns = 1_790_000_000 // DAY_S * DAY_S * NS
    rate = 10.0 * (1.0 + 0.8 * np.sin(2 * np.pi * time_s / DAY_S))
    rates = traffic_rates.fit_rates(start_ns, step_s, rng.poisson(rate * step_s)[None, :].astype(float))
    for hour in (3, 6, 12, 18, 23):
        want = 10.0 * (1.0 + 0.8 * np.sin(2 * np.pi * hour / 24))
        for day in (1, 40):  # within the history, and beyond it
            at_ns = start_ns + (day * DAY_S + hour * 3600) * NS
            assert rates.at(at_ns)[0] == pytest.approx(want, rel=0.1, abs=0.2)
            assert rates.covers(at_ns) == (day == 1)


def test_of_a_short_history_the_trend_is_known_within_and_the_mean_beyond() -> None:
    counts = np.concatenate([np.full(300, 2.0), np.full(300, 8.0)])[None, :]
    rates = traffic_rates.fit_rates(traffic_lab.START_NS, 1.0, counts)
    at = [float(rates.at(traffic_lab.START_NS + second * NS)[0]) for second in (100, 500, 5000, -100)]
    assert at == pytest.approx([2.0, 8.0, 5.0, 5.0])
    assert rates.day is None


def test_gaps_are_gaps_and_not_zeros() -> None:
    counts = np.full((1, 600), 4.0)
    counts[0, 200:400] = np.nan
    rates = traffic_rates.fit_rates(traffic_lab.START_NS, 1.0, counts)
    assert rates.mean[0] == 4.0
    assert rates.knots == pytest.approx(4.0)


@pytest.mark.parametrize(("cluster", "want"), [(1.0, 1.0), (2.0, 3.0), (4.0, 7.0)])
def test_the_dispersion_of_clusters_is_found(cluster: float, want: float) -> None:
    rng = np.random.default_rng(3)
    parents = rng.poisson(10.0 / cluster, 4000)
    counts = np.array([rng.geometric(1.0 / cluster, n).sum() if n else 0 for n in parents], np.float64)
    (found,) = traffic_rates.fit_bursts(counts[None, :], np.full((1, 4000), 10.0), 1.0, 300.0)
    assert 1.0 + 2.0 * (found.cluster - 1.0) == pytest.approx(want, rel=0.2)
    assert found.modulation < 0.05


def test_a_modulated_rate_is_found() -> None:
    rng = np.random.default_rng(4)
    level, shape, kept = 4.0, 4.0, np.exp(-1 / 10.0)
    counts = np.zeros(20_000)
    for t in range(len(counts)):
        level = rng.beta(shape * kept, shape * (1 - kept)) * level + rng.gamma(shape * (1 - kept))
        counts[t] = rng.poisson(10.0 * level / shape)
    (found,) = traffic_rates.fit_bursts(counts[None, :], np.full((1, len(counts)), 10.0), 1.0, 2000.0)
    assert found.modulation == pytest.approx(0.25, rel=0.3)
    assert found.modulation_s == pytest.approx(10.0, rel=0.5)


def test_one_event_in_the_history_is_no_burstiness() -> None:
    counts = np.random.default_rng(5).poisson(10.0, 1200).astype(float)
    counts[600:630] += 60.0
    (found,) = traffic_rates.fit_bursts(counts[None, :], np.full((1, 1200), 10.0), 1.0, 60.0)
    assert found.cluster < 1.2
    assert found.modulation < 0.05


# ---- sizes, times, clients -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    requests=st.integers(1, 10_000),
    connections=st.integers(1, 1_000),
    request=st.integers(1, 5_000),
    response=st.integers(1, 100_000),
    version=st.sampled_from([4, 6]),
)
def test_mean_sizes_come_back_from_sums_exactly(
    requests: int, connections: int, request: int, response: int, version: int
) -> None:
    full, header = traffic_sizes.segment_bytes(version), traffic_sizes.header_bytes(version)
    asked, told = -(-request // full), -(-response // full)
    rx_packets, tx_packets = requests * (asked + told) + 4 * connections, requests * told + 2 * connections
    rx = rx_packets * header + 8 * connections + requests * request
    tx = tx_packets * header + 8 * connections + requests * response
    none = np.zeros(0)
    sums = traffic_sizes.Sums(requests, connections, 0.0, rx, tx, rx_packets, tx_packets)
    found = traffic_sizes.fit_sizes(sums, traffic_sizes.Spread(none, none, none), version)
    assert found["request_bytes"] == pytest.approx(request)
    assert found["response_bytes"] == pytest.approx(response)
    assert 0.0 <= found["client_acks"] <= 1.0
    assert 0.0 <= found["server_acks"] <= 1.0


@pytest.mark.parametrize("cv", [0.2, 1.0, 3.0])
def test_the_spread_of_sizes_is_found_from_interval_sums(cv: float) -> None:
    rng = np.random.default_rng(6)
    mu, sigma = traffic_sizes.log_figures(1000.0, cv)
    counts = rng.poisson(20.0, 5000)
    totals = np.array([rng.lognormal(mu, sigma, n).sum() for n in counts])
    assert traffic_sizes.cv_of(counts.astype(float), totals) == pytest.approx(cv, rel=0.25)


@pytest.mark.parametrize(("median", "sigma"), [(5.0, 0.1), (5.0, 1.0), (0.2, 1.8)])
def test_a_lognormal_is_found_from_quantiles_of_intervals(median: float, sigma: float) -> None:
    rng = np.random.default_rng(7)
    counts = rng.integers(1, 60, 2000)
    draws = [rng.lognormal(np.log(median), sigma, n) for n in counts]
    p50, p99 = (np.array([np.quantile(each, level) for each in draws]) for level in (0.5, 0.99))
    found = traffic_sizes.lognormal_of(p50, p99, counts.astype(float))
    assert found is not None
    assert found.median == pytest.approx(median, rel=0.1)
    assert found.sigma == pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize(("clients", "draws"), [(5, 20), (100, 80), (2000, 500)])
def test_the_number_of_clients_is_found_from_distinct_ones(clients: int, draws: int) -> None:
    rng = np.random.default_rng(8)
    distinct = np.mean([len(set(rng.integers(0, clients, draws).tolist())) for _ in range(300)])
    assert traffic_sizes.clients_of(float(distinct), draws, 60_000) == pytest.approx(clients, rel=0.25)


def test_clients_that_never_return_are_as_many_as_may_be() -> None:
    assert traffic_sizes.clients_of(50.0, 50.0, 60_000) == 60_000


# ---- the whole fit -------------------------------------------------------------------------------------------------------


def test_what_was_never_seen_takes_its_role_and_says_so() -> None:
    _, _, ground, priors = traffic_lab.lab()
    rng = np.random.default_rng(9)
    vms = ("web-1", "web-2")
    inbound = rng.poisson(5.0, (2, 200)).astype(float)
    seen = {
        "connections_attempted": inbound, "requests": 2 * inbound, "rx_packets": 16 * inbound, "tx_packets": 12 * inbound,
        "rx_bytes": 2000 * inbound, "tx_bytes": 9000 * inbound, "connections_active": np.full((2, 200), 3.0),
        "peers": np.full((2, 200), 4.0),
    }  # fmt: skip
    found = traffic.fit(traffic_lab.history(series(seen, vms)), ground, priors, "lab")
    by_name = {vm.vm: vm for vm in found.vms}
    assert by_name["web-1"].connections_per_s == pytest.approx(5.0, rel=0.1)
    assert by_name["web-1"].requests_per_connection == pytest.approx(2.0)
    assert by_name["db"].connections_per_s == 0.0
    assert by_name["db"].response_bytes == priors[2].unseen.response_bytes
    assert not found.calls
    assert any("nothing was seen of db, cache, six" in note for note in found.notes)


def test_requests_that_are_not_told_are_the_roles_figure() -> None:
    """Flow records tell connections and bytes, and no requests."""
    _, _, ground, priors = traffic_lab.lab()
    inbound = np.random.default_rng(9).poisson(5.0, (1, 200)).astype(float)
    seen = {
        "connections_attempted": inbound, "requests": np.full((1, 200), np.nan), "rx_packets": 16 * inbound,
        "tx_packets": 12 * inbound, "rx_bytes": 2000 * inbound, "tx_bytes": 9000 * inbound,
    }  # fmt: skip
    found = traffic.fit(traffic_lab.history(series(seen, ("web-1",))), ground, priors, "lab")
    assert found.vms[0].requests_per_connection == pytest.approx(priors[0].unseen.requests_per_connection)
    assert any("requests can't be told" in note for note in found.notes)


def test_scans_are_no_traffic_to_generate() -> None:
    _, _, ground, priors = traffic_lab.lab()
    inbound = np.full((1, 200), 10.0)
    seen = {
        "connections_attempted": inbound, "connections_scanned": inbound - 4.0, "connections_failed": inbound - 4.0,
        "requests": np.full((1, 200), 8.0), "rx_packets": np.full((1, 200), 80.0), "tx_packets": np.full((1, 200), 60.0),
        "rx_bytes": np.full((1, 200), 20_000.0), "tx_bytes": np.full((1, 200), 40_000.0),
    }  # fmt: skip
    vm = traffic.fit(traffic_lab.history(series(seen, ("web-1",))), ground, priors, "lab").vms[0]
    assert vm.connections_per_s == pytest.approx(4.0)
    assert vm.failed_share == 0.0


def test_connections_that_no_request_explains_are_the_vms_own() -> None:
    """A batch machine that nobody asks opens connections to the database."""
    _, _, ground, priors = traffic_lab.lab()
    rng = np.random.default_rng(10)
    opened = rng.poisson(3.0, (1, 300)).astype(float)
    columns = np.vstack([opened, opened])  # web-1 opens, db receives
    zero = np.zeros_like(opened)
    seen = {
        "connections_attempted": columns, "connections_initiated": np.vstack([opened, zero]),
        "requests": np.vstack([zero, 5 * opened]), "rx_packets": 20 * columns, "tx_packets": 20 * columns,
        "rx_bytes": 4000 * columns, "tx_bytes": 6000 * columns,
        "rtt_ms_p50": np.full((2, 300), 0.2), "rtt_ms_p99": np.full((2, 300), 0.25),
    }  # fmt: skip
    found = traffic.fit(traffic_lab.history(series(seen, ("web-1", "db"))), ground, priors, "lab")
    by_name = {vm.vm: vm for vm in found.vms}
    assert by_name["web-1"].opened_per_s == pytest.approx(3.0, rel=0.1)
    assert by_name["db"].connections_per_s < 0.1
    assert [call.per_request for call in found.calls] == [0.0]


def test_of_priors_the_rate_is_the_users_and_calls_go_behind() -> None:
    _, _, ground, priors = traffic_lab.lab()
    found = traffic.from_priors(ground, priors, 90.0)
    assert [vm.connections_per_s for vm in found.vms] == pytest.approx([30.0, 30.0, 0.0, 0.0, 30.0])
    assert {(found.groups[call.caller], found.groups[call.callee]) for call in found.calls} == {("web", "db"), ("web", "cache")}
    assert found.rates.at(traffic_lab.START_NS)[:5].sum() == pytest.approx(90.0)


def test_a_drawn_size_has_the_mean_that_was_asked_for() -> None:
    from adumbra.emulate.traffic import draw_kernels
    from adumbra.emulate.traffic.population import clamped_log_figures

    state = np.zeros(9, np.int64)
    for mean, cv in ((100.0, 0.5), (5000.0, 2.0), (2000.0, 6.0)):
        mu, sigma = clamped_log_figures(mean, cv)
        drawn = [draw_kernels.size_of(state, mu, sigma) for _ in range(60_000)]
        assert np.mean(drawn) == pytest.approx(mean, rel=0.12 if cv > 3 else 0.04)


def test_the_model_is_plain_data_to_look_at() -> None:
    model = replace(traffic_lab.model(traffic_lab.lab()[2]), notes=("a note",))
    plain = model.to_dict()
    assert [call["to"] for call in plain["calls"]] == ["db", "cache"]
    assert plain["vms"][0]["vm"] == "web-1"
    assert plain["notes"] == ["a note"]
