"""Taps on another host, against real servers: what arrives is what `adumbra observe` would have stored, whatever fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.api.tap_server import Serving, serving
from tests.servers import free_port
from typer.testing import CliRunner, Result

from adumbra.cli.main import app
from adumbra.http_asking import HttpAccess
from adumbra.schema.errors import AdumbraError, ConflictError
from adumbra.schema.jobs import SourceState
from adumbra.schema.metrics import NAMES
from adumbra.schema.records import Series, SeriesQuery
from adumbra.service import following, networks, observations, tapping, taps
from adumbra.service.following import ObserveOptions
from adumbra.service.observations import Observation
from adumbra.service.tap_home import TapHome
from adumbra.service.tapping import TapJob
from adumbra.service.workspace import Workspace

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "shop"
SOURCE = f"pcap:{SHOP / 'shop.pcap.zst'}"
SPEC = (SHOP / "shop.yaml").read_text()


@pytest.fixture(scope="module")
def want(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """What an observation on the server's own host stores."""
    with Workspace(tmp_path_factory.mktemp("local")) as workspace:
        networks.create(workspace, SPEC, "spec", 1)
        observations.observe(workspace, "shop", SOURCE, time.time_ns)
        return workspace.metrics.read(SeriesQuery("shop", NAMES))


def same(workspace: Workspace, want: Series) -> None:
    got = workspace.metrics.read(SeriesQuery("shop", NAMES))
    assert (got.vms, got.start_ns, got.steps, got.step_s) == (want.vms, want.start_ns, want.steps, want.step_s)
    for name in NAMES:
        np.testing.assert_array_equal(got.values[name], want.values[name], err_msg=name)
    np.testing.assert_array_equal(got.one_sided, want.one_sided)


def job_of(home: Path, token: str, *urls: str, source: str = SOURCE, **told: object) -> TapJob:
    accesses = tuple(HttpAccess(url, token=token, give_up_s=0.5) for url in urls)
    return replace(TapJob("shop", source, home, accesses, host="edge", heartbeat_s=0.3, say=lambda _: None), **told)


@contextmanager
def process(home: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its token."""
    command = [sys.executable, str(ROOT / "tests" / "api" / "tap_server_process.py"), str(home), str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            assert child.stdout is not None
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


def test_a_capture_through_a_tap_is_what_observing_it_stores(tmp_path: Path, want: Series) -> None:
    with serving(tmp_path / "server") as server:
        networks.create(server.workspace, SPEC, "spec", 1)
        told = tapping.tap(job_of(tmp_path / "tap", server.token, server.url), time.time_ns)
        assert (told.intervals, told.replaced, told.notes) == (900, 0, ())
        same(server.workspace, want)
        (source,) = server.workspace.state.sources.of("shop")
        assert (source.state, source.host, source.accounts["attributed"]) == (SourceState.DONE, "edge", 472_944)

        again = tapping.tap(job_of(tmp_path / "tap", server.token, server.url), time.time_ns)
        assert again.notes == ()  # the same tap replaces its own
        same(server.workspace, want)

        other = tapping.tap(job_of(tmp_path / "another", server.token, server.url, host="other"), time.time_ns)
        assert any("rows were left out, as another tap had told of them" in note for note in other.notes)
        same(server.workspace, want)
        newest, _, first = server.workspace.state.sources.of("shop")
        assert "what was told first stands" in newest.trouble
        assert newest.trouble == first.trouble
        assert newest.accounts["duplicates"] > 1_000
        kinds = [each.kind for each in server.workspace.state.events("shop")]
        assert kinds.count("source.duplicate") == 1


def test_a_server_that_is_killed_midway_and_comes_again_has_all_of_it_once(
    tmp_path: Path, want: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_ROWS_A_WRITE", 150)  # many batches
    port, killed = free_port(), threading.Event()
    told: list[Observation] = []
    with process(tmp_path / "server", port) as (child, token):
        url = f"http://127.0.0.1:{port}"
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.post(f"{url}/v1/networks", json={"spec": SPEC}, headers=headers, timeout=60).status_code == 201

        def kill_midway(share: float | None, _: str) -> None:
            if share is not None and share > 0.4 and not killed.is_set():
                while not _some(url, headers):
                    time.sleep(0.01)
                child.kill()
                killed.set()

        job = job_of(tmp_path / "tap", token, url, drain_s=120.0)
        thread = threading.Thread(target=lambda: told.append(tapping.tap(job, time.time_ns, kill_midway)))
        thread.start()
        assert killed.wait(120)
        child.wait()
    with process(tmp_path / "server", port):
        thread.join(120)
    assert told[0].notes == ()
    with Workspace(tmp_path / "server") as workspace:
        same(workspace, want)
        assert workspace.state.shipments.overlaps("shop") == ()


def _some(url: str, headers: dict[str, str]) -> bool:
    told = httpx.get(f"{url}/v1/networks/shop/series", headers=headers, timeout=60).json()
    return told["start_ns"] is not None


def test_where_one_server_is_away_the_next_is_tried_and_what_nobody_takes_waits_for_the_next_start(
    tmp_path: Path, want: Series
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with serving(tmp_path / "server") as server:
        networks.create(server.workspace, SPEC, "spec", 1)
        token = server.token
        told = tapping.tap(job_of(tmp_path / "tap", token, dead, server.url), time.time_ns)
        assert told.notes == ()
        same(server.workspace, want)
        server.workspace.metrics.delete_network("shop")
        server.workspace.state.shipments.forget("shop")
    # All servers are away: the tap goes on by what it followed last, and keeps what it measures.
    told = tapping.tap(job_of(tmp_path / "tap", token, dead, drain_s=0.5), time.time_ns)
    assert "wait to be sent" in told.notes[0]
    with serving(tmp_path / "server") as server:
        assert server.workspace.metrics.span("shop") is None
        job = job_of(tmp_path / "tap", token, server.url, options=ObserveOptions(stop=_after(3)))
        tapping.tap(job, time.time_ns)
        same(server.workspace, want)


def _after(times: int) -> Callable[[], bool]:
    """Stops once it was asked so often."""
    left = iter(range(times))
    return lambda: next(left, None) is None


def test_a_folder_has_one_tap(tmp_path: Path) -> None:
    with TapHome(tmp_path, "shop", "live:eth0") as home:
        with pytest.raises(ConflictError, match="taps that for that network already"), TapHome(tmp_path, "shop", "live:eth0"):
            pass
        with TapHome(tmp_path, "shop", "live:eth1") as other:
            assert other.instance != home.instance
    with TapHome(tmp_path, "shop", "live:eth0") as again:
        assert again.instance == home.instance


def test_a_source_that_the_server_looks_after_is_told_to_its_own_record(tmp_path: Path, want: Series) -> None:
    with serving(tmp_path / "server", captures=SHOP) as server:
        networks.create(server.workspace, SPEC, "spec", 1)
        sources = server.workspace.state.sources
        number = taps.ask_for(server.workspace, "shop", taps.Asked("pcap:shop.pcap.zst", {}), SHOP, 1).id
        record = sources.get(number)
        job = job_of(tmp_path / "tap", server.token, server.url, source=record.source, number=number)
        stopped = replace(job, options=ObserveOptions(stop=_after(3)))
        tapping.tap(stopped, time.time_ns)
        assert sources.get(number).state is SourceState.WAITING  # its supervisor begins it again
        tapping.tap(job, time.time_ns)
        assert sources.get(number).state is SourceState.DONE
        assert [each.id for each in sources.of("shop")] == [number]
        same(server.workspace, want)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        networks.create(running.workspace, SPEC, "spec", 1)
        yield running


def command(home: Path, token: str, *arguments: str) -> Result:
    """What `adumbra tap` does, asked in this process."""
    environment = {"ADUMBRA_HOME": str(home), "ADUMBRA_TOKEN": token, "ADUMBRA_DRAIN_S": "5"}
    return CliRunner(env=environment).invoke(app, ["tap", *arguments])


@pytest.mark.parametrize(
    ("token", "arguments", "status", "said"),
    [
        ("adu_wrong", ("--server", "{url}"), 1, "does not let us in"),
        ("", ("--server", "{url}"), 2, "the tap has no token"),
        ("x", ("--server", "http://198.51.100.7"), 2, "unencrypted"),
        ("x", (), 2, "nowhere to ship to"),
        ("x", ("--server", "{url}", "--store", "prometheus+http://h"), 2, "give --server, or --spec and --store"),
        ("x", ("--spec", str(SHOP / "shop.yaml"), "--store", "duckdb:"), 2, "one store that other hosts reach"),
    ],
)
def test_a_tap_that_cannot_begin_says_why(
    server: Serving, tmp_path: Path, token: str, arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = command(tmp_path, token, "shop", SOURCE, *(each.format(url=server.url) for each in arguments))
    assert isinstance(done.exception, AdumbraError), done.output
    assert (done.exception.exit_status, said in str(done.exception)) == (status, True), str(done.exception)


def test_straight_into_a_store_without_a_server(tmp_path: Path, want: Series, victoriametrics_url: str) -> None:
    url = victoriametrics_url.replace("http://", "victoriametrics+http://")
    done = command(tmp_path, "", "shop", SOURCE, "--spec", str(SHOP / "shop.yaml"), "--store", url, "-o", "json")
    assert done.exit_code == 0, done.output
    httpx.get(f"{victoriametrics_url}/internal/force_flush").raise_for_status()
    query = f'sum(last_over_time(adumbra_vm_receive_bytes_total{{network="shop",vm="db"}}[1h] @ {want.start_ns / 1e9 + 1500}))'
    answer = httpx.get(f"{victoriametrics_url}/api/v1/query", params={"query": query}).json()
    total = float(answer["data"]["result"][0]["value"][1])
    assert total == pytest.approx(float(np.nansum(want.values["rx_bytes"][want.vms.index("db")])))
