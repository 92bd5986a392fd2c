"""A PrometheusStore and real servers: what people see there by their own queries, and what becomes of a bad day."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests import servers
from tests.store.conftest import EPOCH_S, STORES, at_ns, make_batch

from adumbra.http_asking import HttpAccess
from adumbra.schema.errors import StoreUnavailableError
from adumbra.schema.records import MetricBatch, Origin, SeriesQuery
from adumbra.store.accumulate import Accumulator
from adumbra.store.prepared import dump
from adumbra.store.prometheus import PrometheusConfig, PrometheusStore

SERVED = ("prometheus", "victoriametrics")


class Served:
    """A server, a store on it, and a network of this test's own."""

    def __init__(self, url: str, settle: Callable[[str], None] = lambda _: None) -> None:
        self.url, self._settle = url, settle
        self.network = f"p{secrets.token_hex(6)}"

    def store(self, **more: Any) -> PrometheusStore:
        return PrometheusStore(PrometheusConfig(HttpAccess(self.url, give_up_s=1.0), **more))

    def write(self, store: PrometheusStore, batch: MetricBatch) -> None:
        store.write(replace(batch, network=self.network))
        self._settle(self.url)

    def ask(self, query: str, at_s: float) -> dict[tuple[str, ...], list[tuple[float, float]]]:
        """By vm and the other labels that tell series apart: (seconds after the zero, value)."""
        form = {"query": query.replace("$", f'network="{self.network}"'), "time": str(EPOCH_S + at_s), "nocache": "1"}
        answer = httpx.post(f"{self.url}/api/v1/query", data=form).raise_for_status().json()
        return {
            tuple(each["metric"].get(name, "") for name in ("vm", "role", "provenance", "le") if name in each["metric"]): [
                (round(time_s - EPOCH_S, 3), float(value)) for time_s, value in each.get("values") or [each["value"]]
            ]
            for each in answer["data"]["result"]
        }


@pytest.fixture(params=SERVED)
def served(request: pytest.FixtureRequest) -> Served:
    kind = STORES[request.param]
    return Served(request.getfixturevalue(kind.server), kind.settle)


@pytest.fixture(scope="module")
def strict() -> Iterator[str]:
    """A Prometheus as it is out of the box but for remote writes: in order only, and nobody deletes."""
    yield from servers.session(lambda folder: servers.prometheus(folder, out_of_order="", admin=False))


def counts(batch: MetricBatch, values: list[float]) -> MetricBatch:
    return replace(batch, columns={"rx_bytes": np.array(values)[:, np.newaxis] * np.ones((1, len(batch.vms)))})


class TestSeries:
    def test_totals_and_their_bases(self, served: Served) -> None:
        with served.store() as store:
            served.write(store, counts(make_batch([0, 1], ("db",)), [5, 2]))
            served.write(store, counts(make_batch([2, 10], ("db",)), [1, 3]))
        assert served.ask("adumbra_vm_receive_bytes_total{$}[1m]", 30) == {
            ("db", "db", "observed"): [(0.001, 0), (1, 5), (2, 7), (3, 8), (10.001, 0), (11, 3)]
        }
        assert served.ask("adumbra_network_interval_end_seconds{$,interval='1s'}[1m]", 30) == {
            (): [(at, EPOCH_S + at) for at in (1, 2, 3, 11)]
        }

    def test_labels_say_how_a_number_was_come_by(self, served: Served) -> None:
        batch = make_batch([0, 1], ("web-1",), value=7)
        with served.store() as store:
            served.write(store, replace(batch, one_sided=np.array([[True], [False]])))
            served.write(store, replace(batch, origin=Origin.LIVE))
        assert served.ask("adumbra_vm_round_trip_median_seconds{$,origin='shadow'}[5s]", 2) == {
            ("web-1", "web", "simulated"): [(1, 0.007)], ("web-1", "web", "observed"): [(2, 0.007)],
        }  # fmt: skip
        assert served.ask("adumbra_vm_one_sided_ratio{$,origin='shadow'}[5s]", 2) == {("web-1", "web"): [(1, 1), (2, 0)]}
        assert set(served.ask("adumbra_vm_memory_bytes{$,origin='live',subnet='data'}", 2)) == {("web-1", "web", "observed")}
        assert set(served.ask("adumbra_vm_memory_bytes{$,origin='shadow'}", 2)) == {("web-1", "web", "simulated")}

    def test_histograms_are_what_functions_for_them_want(self, served: Served) -> None:
        batch = make_batch(list(range(60)), ("web-1",))
        slow = {name: np.zeros((60, 1)) for name in batch.columns if name.startswith("rtt_le_")}
        slow |= {name: np.ones((60, 1)) for name in ("rtt_le_100ms", "rtt_le_300ms", "rtt_le_1s", "rtt_le_3s", "rtt_le_inf")}
        with served.store() as store:
            served.write(store, replace(batch, columns={**slow, "rtt_sum_ms": np.full((60, 1), 50.0)}))
        quantile = "histogram_quantile(0.5, sum by (le) (rate(adumbra_vm_round_trip_seconds_bucket{$}[30s])))"
        assert served.ask(quantile, 59.5)[()][0][1] == pytest.approx(0.065)
        mean = "rate(adumbra_vm_round_trip_seconds_sum{$}[30s]) / rate(adumbra_vm_round_trip_seconds_count{$}[30s])"
        assert [each[0][1] for each in served.ask(mean, 59.5).values()] == [pytest.approx(0.05)]

    def test_rates_and_increases_are_as_people_expect(self, served: Served) -> None:
        with served.store() as store:
            served.write(store, counts(make_batch(list(range(60)), ("db",)), [10.0] * 60))
            served.write(store, counts(make_batch(list(range(120, 180)), ("db",)), [30.0] * 60))
        with served.store() as later:  # another process, whose totals begin anew, puts something into the gap
            served.write(later, counts(make_batch(list(range(60, 120)), ("db",)), [20.0] * 60))
        total = "adumbra_vm_receive_bytes_total{$}"
        for at_s, rate in ((58, 10), (118, 20), (178, 30)):
            assert served.ask(f"rate({total}[30s])", at_s) == {
                ("db", "db", "observed"): [(at_s, pytest.approx(rate, rel=0.02))]
            }
        got = served.ask(f"increase({total}[180s])", 180)[("db", "db", "observed")][0][1]
        assert got == pytest.approx(10 * 60 + 20 * 60 + 30 * 60, rel=0.02)


class TestAnotherProcess:
    def test_a_writer_that_begins_anew_and_a_gap(self, served: Served, tmp_path: Path) -> None:
        """The first process prepares three batches and sends one; the second sends all of them, and goes on by itself."""
        with served.store() as store:
            batches = [replace(make_batch([at, at + 1], value=at), network=served.network) for at in (1, 3, 9)]
            ready = [store.prepare(each) for each in batches]
            store.send(ready[0])
        (tmp_path / "ready").write_bytes(b"".join(len(raw).to_bytes(4, "big") + raw for raw in map(dump, ready)))
        script = (
            "import sys; from pathlib import Path; from adumbra.store.prepared import load\n"
            "from adumbra.http_asking import HttpAccess\n"
            "from adumbra.store.prometheus import PrometheusConfig, PrometheusStore\n"
            "raw = Path(sys.argv[2]).read_bytes()\n"
            "with PrometheusStore(PrometheusConfig(HttpAccess(sys.argv[1]))) as store:\n"
            "    while raw:\n"
            "        size = int.from_bytes(raw[:4], 'big'); store.send(load(raw[4:4 + size])); raw = raw[4 + size:]\n"
            "    print(store.counters().dropped)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", script, served.url, str(tmp_path / "ready")]
        said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert said.stdout.strip() == "{}"
        with served.store() as store:
            served.write(store, make_batch([11, 20], value=50))
            series = store.read(SeriesQuery(served.network, ("rx_bytes", "peers"), ("web-1",)))
        want = np.full((1, 20), np.nan)
        want[0, [0, 1, 2, 3, 8, 9, 10, 19]] = [1, 1, 3, 3, 9, 9, 50, 50]
        np.testing.assert_array_equal(series.values["rx_bytes"], want)
        np.testing.assert_array_equal(series.values["peers"], want)


class TestVmsThatGo:
    def test_their_series_end_at_once(self, served: Served) -> None:
        now = round(time.time()) - EPOCH_S - 30
        with served.store() as store:
            served.write(store, make_batch([now, now + 1], ("web-1", "db")))
            assert len(served.ask("adumbra_vm_peers{$}", now + 2.002)) == 2
            served.write(store, make_batch([now + 2], ("web-1",)))
        for name in ("adumbra_vm_peers", "adumbra_vm_receive_bytes_total", "adumbra_vm_one_sided_ratio"):
            assert [told[0] for told in served.ask(f"{name}{{$}}", now + 3)] == ["web-1"]

    def test_and_begin_again_when_they_come_back(self, served: Served) -> None:
        with served.store() as store:
            for at, vms in ((0, ("a", "b")), (1, ("a",)), (2, ("a", "b"))):
                served.write(store, make_batch([at], vms))
            assert len(served.ask("adumbra_vm_peers{$}", 3)) == 2
            values = store.read(SeriesQuery(served.network, ("rx_bytes",))).values["rx_bytes"]
        np.testing.assert_array_equal(values, [[1, 1, 1], [2, np.nan, 2]])

    def test_a_vm_of_another_role_is_one_vm_still(self, served: Served) -> None:
        batch = make_batch([0, 1], ("web-1",))
        with served.store() as store:
            served.write(store, batch)
            served.write(store, replace(batch, start_ns=batch.start_ns + 2 * 10**9, roles=("proxy",)))
            assert [told[1] for told in served.ask("adumbra_vm_peers{$}", 4)] == ["proxy"]
            query = SeriesQuery(served.network, ("rx_bytes", "peers", "storage_bytes", "cpu_utilization"), step_s=4.0)
            assert {name: values.tolist() for name, values in store.read(query).values.items()} == {
                "rx_bytes": [[4]], "peers": [[1]], "storage_bytes": [[1]], "cpu_utilization": [[1]],
            }  # fmt: skip


class TestWhatIsRefused:
    def test_out_of_order_and_duplicates_are_dropped_and_counted(self, strict: str) -> None:
        served = Served(strict)
        with served.store() as store:
            served.write(store, counts(make_batch([10], ("a", "b")), [5]))
            assert store.counters().dropped == {}
        with served.store() as store:  # the same time, in part another value: as when it is observed with other settings
            batch = replace(counts(make_batch([10], ("a", "b")), [5]), network=served.network)
            store.write(replace(batch, columns={"rx_bytes": np.array([[5, 6]])}))
            assert store.counters().dropped == {"out_of_order": 2, "duplicate": 1}  # two bases; b's other value
        with served.store() as store:  # what begins before and goes on after: the new is kept
            served.write(store, replace(make_batch([3, 4, 20, 21], ("a",)), columns={}))
            assert store.counters().dropped == {"out_of_order": 4}
        assert served.ask("adumbra_vm_receive_bytes_total{$}[1m]", 50) == {
            (vm, "db", "observed"): [(10.001, 0), (11, 5)] for vm in "ab"
        }  # fmt: skip
        assert served.ask("adumbra_vm_one_sided_ratio{$,vm='a'}[1m]", 50) == {("a", "db"): [(11, 0), (21, 0), (22, 0)]}

    def test_nothing_is_amended(self, served: Served) -> None:
        batch = make_batch([0, 1, 2], ("db",))
        with served.store() as store:
            served.write(store, batch)
            assert store.amend(replace(batch, network=served.network)) == 0
            assert not store.abilities.replaces
            with pytest.raises(ValueError, match="twice"):
                store.amend(replace(batch, vms=("db", "db")))
            assert store.read(SeriesQuery(served.network, ("rx_bytes",))).values["rx_bytes"].tolist() == [[1, 1, 1]]

    def test_a_prometheus_that_takes_no_remote_writes_says_what_to_do(self) -> None:
        with servers.folder_of("plain") as folder:
            server = servers.prometheus(folder)
            server.command.remove("--web.enable-remote-write-receiver")
            with servers.running(server), Served(server.url).store() as store:
                with pytest.raises(StoreUnavailableError, match="start Prometheus with --web"):
                    store.write(make_batch([0]))
                assert store.counters().dropped == {}

    def test_intervals_that_it_cannot_tell_apart(self) -> None:
        with pytest.raises(ValueError, match="whole ms"):
            Served("http://127.0.0.1:1").store().prepare(make_batch([0], interval_s=0.0005))


class TestDeleting:
    def test_where_nobody_may_delete_the_series_end(self, strict: str) -> None:
        served = Served(strict)
        now = round(time.time()) - EPOCH_S - 30
        with served.store() as store:
            assert not store.abilities.deletes
            served.write(store, make_batch([now], ("db",)))
            assert store.delete_network(served.network) == 0
            assert served.ask("adumbra_vm_peers{$}", now + 2) == {}
            assert store.vms(served.network) == ("db",)

    @pytest.mark.parametrize("name", SERVED)
    def test_what_is_deleted_is_gone_and_other_networks_are_not(self, name: str) -> None:
        with servers.folder_of(name) as folder, servers.running(getattr(servers, name)(folder)) as server:
            served = Served(server.url, STORES[name].settle)
            with served.store() as store:
                assert store.abilities.deletes
                served.write(store, make_batch([0, 1, 2], ("a", "b")))
                store.write(make_batch([0], network=served.network + "-2"))
                STORES[name].settle(server.url)
                assert store.delete_network(served.network) == 6
                assert (store.vms(served.network), store.span(served.network)) == ((), None)
                assert served.ask('{__name__=~".+",$}[1h]', 60) == {}
                assert store.span(served.network + "-2") == (at_ns(0), at_ns(1))
                served.write(store, make_batch([100], ("c",)))
                assert store.vms(served.network) == ("c",)


def test_an_outage_under_way(tmp_path: Path) -> None:
    """Killed while it is written to, and back: what was sent without an answer is sent again, and there is once."""
    with servers.folder_of("outage") as folder:
        server = servers.prometheus(folder)
        server.start()
        try:
            served = Served(server.url)
            totals = Accumulator()
            ready = [totals.add(replace(make_batch([at], ("a", "b")), network=served.network)) for at in range(40)]
            with served.store() as store:
                for number, each in enumerate(ready):
                    if number == 20:
                        server.kill()
                        with pytest.raises(StoreUnavailableError):
                            store.send(each)
                        server.start()
                        store.send(ready[number - 1])  # as one does that isn't sure
                    store.send(each)
                assert store.counters().dropped == {}
                assert store.counters().retries >= 1
                series = store.read(SeriesQuery(served.network, ("rx_bytes", "requests")))
            for values in series.values.values():
                np.testing.assert_array_equal(values, np.repeat([[1.0], [2.0]], 40, axis=1))
        finally:
            server.stop()


def test_reading_more_than_an_answer_may_hold(served: Served) -> None:
    """A day of seconds is more than the 11,000 points that Prometheus gives at once."""
    rows = 25_000
    batch = counts(make_batch([float(s) for s in range(rows)], ("db",)), [2.0] * rows)
    with served.store() as store:
        served.write(store, batch)
        assert store.span(served.network) == (at_ns(0), at_ns(rows))
        series = store.read(SeriesQuery(served.network, ("rx_bytes",)))
        assert series.steps == rows
        assert (series.values["rx_bytes"] == 2.0).all()
        hourly = store.read(SeriesQuery(served.network, ("rx_bytes",), step_s=3600.0)).values["rx_bytes"]
    assert hourly.tolist() == [[2 * 3600] * 6 + [2 * (rows % 3600)]]
