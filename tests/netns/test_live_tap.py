"""A tap of a live interface, by the command, in a namespace of its own: waiting for its network, renewed, stopped, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.api.tap_server import Serving, serving
from tests.netns.spaces import Spaces, needs

from adumbra.schema.jobs import SourceState
from adumbra.schema.records import NANOSECONDS, SeriesQuery
from adumbra.service import networks, taps

pytestmark = [pytest.mark.root, needs()]

SPEC = """
name: {name}
cidrs: [10.20.0.0/16]
subnets: [{{name: web, cidr: 10.20.1.0/24}}]
vms:
  - {{name: web, subnet: web, addresses: [10.20.1.10]}}
{more}
"""
MORE = "  - {name: db, subnet: web, addresses: [10.20.1.20]}"
SOON_S = 5.0
"""How long after its end an interval is to be stored: under 1 s on a machine that isn't busy, which a test's often is."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def net() -> Iterator[Spaces]:
    """An interface n0 on this host's side, cabled to one in a namespace that sends."""
    with Spaces("far") as made:
        name = f"tap{os.getpid() % 100_000}"
        subprocess.run(
            ["ip", "link", "add", name, "type", "veth", "peer", "name", "f0", "netns", made.real("far")], check=True
        )  # fmt: skip
        try:
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
            made.run("far", "ip", "address", "add", "10.20.1.99/24", "dev", "f0")
            made.run("far", "ip", "link", "set", "f0", "up")
            for last in (10, 20):
                address = f"10.20.1.{last}"
                made.run("far", "ip", "neighbour", "add", address, "lladdr", "02:00:00:00:00:01", "dev", "f0")
            made.interface = name  # type: ignore[attr-defined]
            yield made
        finally:
            subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)


_SENDER = """
import socket, sys, time
sockets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(10**6):
    for last in (10, 20):
        sockets.sendto(b"x" * 72, (f"10.20.1.{last}", 9))
    time.sleep(max(0, 0.02 - time.time() % 0.02))
"""


@pytest.fixture(scope="module")
def sending(net: Spaces) -> Iterator[None]:
    """Fifty datagrams of 100 bytes a second, to each of two addresses."""
    child = net.start("far", sys.executable, "-c", _SENDER)
    yield
    child.kill()


@contextmanager
def tapping(server: Serving, home: Path, name: str, source: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "ADUMBRA_HOME": str(home), "ADUMBRA_TOKEN": server.token,
        "ADUMBRA_DRAIN_S": "10", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    line = [sys.executable, "-m", "adumbra", "tap", name, source, "--server", server.url, *options]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        try:
            yield child
        finally:
            child.kill()


def said(child: subprocess.Popen[str], text: str) -> str:
    """What the tap said up to a line with these words."""
    assert child.stderr is not None
    told = ""
    while text not in told:
        line = child.stderr.readline()
        assert line, told
        told += line
    return told


def stored_by(server: Serving, name: str, least: int, vm: str = "web", within_s: float = 120.0) -> tuple[int, int]:
    """Waits until so many intervals are stored; gives the first's beginning, and when it was seen to be there."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        span = server.workspace.metrics.span(name)
        if span is not None and span[1] - span[0] >= least * NANOSECONDS and vm in server.workspace.metrics.vms(name):
            return span[0], time.time_ns()
        time.sleep(0.02)
    raise AssertionError(f"{name} has {server.workspace.metrics.span(name)}")


def packets(server: Serving, name: str) -> dict[str, list[float]]:
    series = server.workspace.metrics.read(SeriesQuery(name, ("rx_packets",)))
    return dict(zip(series.vms, series.values["rx_packets"].tolist(), strict=True))


@pytest.mark.usefixtures("sending")
def test_a_tap_that_waits_ships_soon_after_its_network_is_made_and_ends_in_good_order(
    server: Serving, net: Spaces, tmp_path: Path
) -> None:
    source = f"live:{net.interface}"  # type: ignore[attr-defined]
    with tapping(server, tmp_path, "soon", source) as child:
        said(child, "the tap waits for it")
        posted_ns = time.time_ns()
        answer = server.client.post(
            f"{server.url}/v1/networks", json={"spec": SPEC.format(name="soon", more="")},
            headers={"Authorization": f"Bearer {server.token}"},
        )  # fmt: skip
        assert answer.status_code == 201
        start_ns, seen_ns = stored_by(server, "soon", 1)
        first_s, late_s = (seen_ns - posted_ns) / 1e9, (seen_ns - start_ns) / 1e9 - 1
        sys.stderr.write(f"first interval {first_s:.2f} s after the POST, {late_s:.2f} s after its end\n")
        lates = []
        for least in (3, 4, 5):
            begun_ns, seen_ns = stored_by(server, "soon", least)
            lates.append((seen_ns - begun_ns) / 1e9 - least)
        sys.stderr.write(f"later ones {', '.join(f'{late:.2f}' for late in lates)} s after their ends\n")
        assert min(late_s, *lates) < SOON_S
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, out + err
    (record,) = server.workspace.state.sources.of("soon")
    assert record.state is SourceState.STOPPED
    assert record.accounts["losses"]["dropped"] == 0
    whole = packets(server, "soon")["web"][1:-1]
    assert all(48 <= count <= 52 for count in whole), whole


@pytest.mark.usefixtures("sending")
def test_another_spec_is_followed_from_an_intervals_border_with_nothing_lost_or_doubled(
    server: Serving, net: Spaces, tmp_path: Path
) -> None:
    source = f"live:{net.interface}"  # type: ignore[attr-defined]
    networks.create(server.workspace, SPEC.format(name="renewed", more=""), "spec", time.time_ns())
    with tapping(server, tmp_path, "renewed", source) as child:
        stored_by(server, "renewed", 2)
        networks.update(server.workspace, SPEC.format(name="renewed", more=MORE), "spec", time.time_ns())
        stored_by(server, "renewed", 4, "db")
        time.sleep(2.0)
        (record,) = server.workspace.state.sources.of("renewed")
        taps.stop(server.workspace, "renewed", record.id, time.time_ns())
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, out + err
        assert "isn't to be observed any more" in err
    counted = packets(server, "renewed")
    whole = counted["web"][1:-1]
    assert len(whole) > 4
    assert all(48 <= count <= 52 for count in whole), whole  # a gap would be NaN, a border that is cut less, a doubled one more
    db = np.array(counted["db"])
    known = np.flatnonzero(~np.isnan(db))
    assert np.array_equal(known, np.arange(known[0], len(db)))
    assert all(48 <= count <= 52 for count in db[known[:-1]]), db
    assert server.workspace.state.shipments.overlaps("renewed") == ()


@pytest.mark.usefixtures("sending")
def test_a_second_tap_of_a_live_interface_is_noticed(server: Serving, net: Spaces, tmp_path: Path) -> None:
    source = f"live:{net.interface}"  # type: ignore[attr-defined]
    networks.create(server.workspace, SPEC.format(name="twice", more=""), "spec", time.time_ns())
    with (
        tapping(server, tmp_path / "one", "twice", source, "--for", "20s") as one,
        tapping(server, tmp_path / "two", "twice", source, "--layer", "innermost", "--for", "20s") as two,
    ):
        outs = [child.communicate(timeout=90) for child in (one, two)]
    assert sorted([one.returncode, two.returncode]) == [0, 2], outs  # a host's source has one tap
    assert any("is observed for twice already" in err for _, err in outs)
