"""What stores can do is found out by trying; what can't be sent waits, is told, and goes on. Servers are real."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests import servers
from tests.captures import Frame, ethernet, ip, pcap, tcp

from adumbra.cli.output import console
from adumbra.cli.store import check_table, status_table
from adumbra.schema.records import NANOSECONDS, SeriesQuery
from adumbra.service import calibrations, networks, observations, stores
from adumbra.service.stores import Checked
from adumbra.service.workspace import Storage, Workspace
from adumbra.store.urls import parse_stores

SPEC = """\
name: lab
cidrs: [10.9.0.0/16]
subnets:
  - {name: a, cidr: 10.9.1.0/24}
vms:
  - {name: web, count: 2, subnet: a, role: web, type: m7i.large, ports: [80]}
"""
EPOCH_NS = 1_700_006_400 * NANOSECONDS
ALL = ("reach", "write, read", "write again", "old samples", "replace", "delete")


@contextmanager
def workspace(home: Path, urls: str, drain_s: float = 0.5) -> Iterator[Workspace]:
    said: list[str] = []
    with Workspace(home, Storage(parse_stores(urls), drain_s=drain_s), said.append) as opened:
        yield opened


def checked(home: Path, urls: str) -> tuple[Checked, ...]:
    with workspace(home, urls) as opened:
        return tuple(stores.check(opened, time.time_ns(), lambda *_: None))


def verdicts(found: Checked) -> dict[str, str]:
    return {probe.what: probe.verdict.value for probe in found.probes}


def shown(table: object) -> str:
    out = console()
    with out.capture() as capture:
        out.print(table)
    assert max(map(len, capture.get().splitlines())) <= 110
    return " ".join(capture.get().split())


def nowhere() -> str:
    return f"http://127.0.0.1:{servers.free_port()}"


class TestCheck:
    def test_the_embedded_store_does_it_all(self, tmp_path: Path) -> None:
        (found,) = checked(tmp_path, "")
        assert (verdicts(found), found.works, found.read) == (dict.fromkeys(ALL, "ok"), True, True)
        with workspace(tmp_path, "") as opened:
            assert opened.metrics.vms("adumbra.check") == ()

    def test_stores_that_are_set_up_right(
        self, tmp_path: Path, prometheus_url: str, victoriametrics_url: str, influxdb_url: str
    ) -> None:
        urls = f"prometheus+{prometheus_url} victoriametrics+{victoriametrics_url}?read=1 influxdb+{influxdb_url}/checked"
        prometheus, victoriametrics, influxdb = checked(tmp_path, urls)
        assert verdicts(influxdb) == dict.fromkeys(("spool", *ALL), "ok")
        assert verdicts(victoriametrics) == verdicts(influxdb) | {"replace": "limited"}
        # Prometheus keeps what came out of order for a while, whoever deletes it.
        assert verdicts(prometheus) == verdicts(victoriametrics) | {"delete": "limited"}
        assert [each.read for each in (prometheus, victoriametrics, influxdb)] == [False, True, False]
        assert influxdb.probes[1].told.startswith("InfluxDB 1.")

    def test_a_store_that_is_not(self, tmp_path: Path) -> None:
        with ExitStack() as stack:
            folder = stack.enter_context(servers.folder_of("prometheus"))
            server = stack.enter_context(servers.running(servers.prometheus(folder, out_of_order="", admin=False)))
            (found,) = checked(tmp_path, f"prometheus+{server.url}")
        assert not found.works
        mended = {probe.what: probe.mend for probe in found.probes if probe.verdict.value != "ok"}
        assert "out_of_order_time_window: 1y" in mended["old samples"]
        assert mended["delete"] == "start it with --web.enable-admin-api"
        words = shown(check_table((found,)))
        assert f"prometheus+{server.url}, read from" in words
        assert "what is sent twice is there once" in words  # counted as refused or not, as the server finds it

    def test_a_store_that_is_not_there_or_is_none(self, tmp_path: Path, influxdb_url: str) -> None:
        """The one has secrets, which are shown nowhere; the other is asked in the wrong language."""
        away = nowhere().replace("//", "//me:s3cr3t@")
        found = checked(tmp_path, f"influxdb+{away}/db?header.X-Key=s3cr3t prometheus+{influxdb_url}")
        assert [verdicts(each)["reach"] for each in found] == ["failed", "failed"]
        assert "can't be reached" in shown(check_table(found))
        assert "s3cr3t" not in repr(found)


@pytest.fixture
def capture(tmp_path: Path) -> str:
    """A capture of ten seconds for the network lab: the source to observe."""
    syn = ethernet(ip("192.0.2.1", "10.9.1.10", 6, tcp(40_000, 80, 2)))
    frames = [Frame(EPOCH_NS + second * NANOSECONDS, syn) for second in range(10)]
    (tmp_path / "lab.pcap").write_bytes(pcap(frames))
    return f"pcap:{tmp_path / 'lab.pcap'}"


def rows(opened: Workspace) -> list[list[float]]:
    found: list[list[float]] = opened.metrics.read(SeriesQuery("lab", ("rx_bytes",), step_s=1.0)).values["rx_bytes"].tolist()
    return found


class TestAway:
    def test_what_is_observed_meanwhile_waits_and_is_sent_later(self, tmp_path: Path, capture: str) -> None:
        with servers.folder_of("influxdb") as folder:
            server = servers.influxdb(folder)
            name = f"influxdb+{server.url}/lab"
            with workspace(tmp_path, f"duckdb: {name}") as opened:
                networks.create(opened, SPEC, "lab.yaml", 1)
                observation = observations.observe(opened, "lab", capture, time.time_ns)
                assert observation.intervals == 10
                (note,) = observation.notes
                assert note.startswith(f"1 batches wait to be sent to {name}")
                embedded = rows(opened)
            with workspace(tmp_path, name) as opened:
                (waits,) = stores.status(opened)
                assert (waits.store, waits.waiting, waits.held, waits.configured) == (name, 1, 0, True)
                assert "waits 1" in shown(status_table((waits,)))
            with workspace(tmp_path, "") as opened:
                (waits,) = stores.status(opened)
                assert "not in ADUMBRA_STORE 1" in shown(status_table((waits,)))
            with servers.running(server), workspace(tmp_path, name) as opened:
                assert stores.flush(opened, 20.0, lambda *_: None) == ()
                assert "all sent 0" in shown(status_table(stores.status(opened)))
                assert rows(opened) == embedded
        assert np.nansum(embedded) == 400

    def test_a_network_can_be_deleted_meanwhile(self, tmp_path: Path, capture: str) -> None:
        with workspace(tmp_path, f"prometheus+{nowhere()}", 0.0) as opened:
            networks.create(opened, SPEC, "lab.yaml", 1)
            observations.observe(opened, "lab", capture, time.time_ns)
            networks.delete(opened, "lab", 2)
            (told,) = opened.left_by_deletion("lab")
            assert told.startswith("the deletion of lab in prometheus+http://127.0.0.1:")
            assert stores.status(opened)[0].waiting == 2
            assert networks.listing(opened) == ()

    def test_what_was_written_first_stays_and_that_is_said(self, tmp_path: Path, capture: str, prometheus_url: str) -> None:
        with workspace(tmp_path, f"prometheus+{prometheus_url}", 20.0) as opened:
            networks.create(opened, SPEC.replace("name: lab", "name: lab-stays"), "lab.yaml", 1)
            store = f"prometheus+{prometheus_url}"
            assert observations.observe(opened, "lab-stays", capture, time.time_ns).notes == ()
            query = SeriesQuery("lab-stays", ("memory_bytes", "rx_bytes"))
            before = opened.metrics.read(query)
            (note,) = observations.observe(opened, "lab-stays", capture, time.time_ns).notes
            assert note == f"this was observed before, and {store} keeps what was written first"
            assert calibrations.reemulate(opened, "lab-stays", time.time_ns) == 0
            assert opened.keeping == (store,)
            again = opened.metrics.read(query)
        for name in query.columns:
            np.testing.assert_array_equal(again.values[name], before.values[name])


class TestSeveral:
    def test_the_embedded_store_is_let_go_of_and_others_are_not(self, tmp_path: Path, capture: str) -> None:
        urls = f"duckdb: prometheus+{nowhere()}"
        with workspace(tmp_path, urls) as one, workspace(tmp_path, "") as another:
            networks.create(one, SPEC, "lab.yaml", 1)
            observations.observe(one, "lab", capture, time.time_ns)
            assert one.metrics.vms("lab") == ("web-1", "web-2")
            one.release_metrics()
            assert another.metrics.vms("lab") == ("web-1", "web-2")
            another.release_metrics()
            assert one.metrics.span("lab") == (EPOCH_NS, EPOCH_NS + 10 * NANOSECONDS)


class TestState:
    def test_it_lies_where_it_is_said_to(self, tmp_path: Path) -> None:
        for _ in range(2):
            with Workspace(tmp_path / "home", Storage(state=str(tmp_path / "elsewhere" / "s.db"))) as opened:
                if not networks.listing(opened):
                    networks.create(opened, SPEC, "lab.yaml", 1)
                assert [each.name for each in networks.listing(opened)] == ["lab"]
        assert list((tmp_path / "home").iterdir()) == []

    def test_it_may_lie_in_postgresql(self, tmp_path: Path, postgresql_url: str) -> None:
        with Workspace(tmp_path, Storage(state=postgresql_url)) as opened:
            networks.create(opened, SPEC.replace("name: lab", "name: lab-shared"), "lab.yaml", 1)
        with Workspace(tmp_path / "another", Storage(state=postgresql_url)) as opened:
            assert networks.get(opened, "lab-shared").spec.name == "lab-shared"
        assert not (tmp_path / "state.db").exists()
