"""A tap of a live interface, by the command, in a namespace of its own: waiting for its network, renewed, stopped, ended."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
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
SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35  # asm-generic/socket.h
MORE = "  - {name: db, subnet: web, addresses: [10.20.1.20]}\n  - {name: far, subnet: far, addresses: [10.30.0.1]}"
WIDER = (
    "cidrs: [10.20.0.0/16]\nsubnets: [{name: web, cidr: 10.20.1.0/24}]",
    "cidrs: [10.20.0.0/16, 10.30.0.0/16]\nsubnets: [{name: web, cidr: 10.20.1.0/24}, {name: far, cidr: 10.30.0.0/24}]",
)
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
            made.run("far", "ip", "route", "add", "10.30.0.0/16", "dev", "f0")
            for address in ("10.20.1.10", "10.20.1.20", "10.30.0.1"):
                made.run("far", "ip", "neighbour", "add", address, "lladdr", "02:00:00:00:00:01", "dev", "f0")
            made.interface = name  # type: ignore[attr-defined]
            yield made
        finally:
            subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)


_SENDER = """
import socket, sys, time
sockets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(10**6):
    for address in ("10.20.1.10", "10.20.1.20", "10.30.0.1"):
        sockets.sendto(b"x" * 72, (address, 9))
    time.sleep(max(0, 0.02 - time.time() % 0.02))
"""


@pytest.fixture(scope="module")
def sending(net: Spaces) -> Iterator[None]:
    """Fifty datagrams of 100 bytes a second, or fewer, to each of three addresses."""
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


class Witness:
    """Counts what passes an interface in each second, by destination, by the kernel's own receive times, which taps have too.

    A sender on a busy machine sends less than it is to; what it did send is what must have been counted. Opened by `with`.
    """

    def __init__(self, interface: str, port: int = 9) -> None:
        self._counts: Counter[tuple[str, int]] = Counter()
        self._wanted = port
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind((interface, 0x0800))
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._ending = threading.Event()

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def of(self, address: str, start_ns: int, count: int) -> list[int]:
        """How many went to that address in so many seconds from a time on."""
        first = start_ns // NANOSECONDS
        return [self._counts[address, first + k] for k in range(count)]

    def _count(self) -> None:
        self._socket.settimeout(0.2)
        while not self._ending.is_set():
            try:
                packet, told, _, sender = self._socket.recvmsg(2048, 64)
            except TimeoutError:
                continue
            if sender[2] == socket.PACKET_OUTGOING or packet[9] != socket.IPPROTO_UDP:
                continue
            if int.from_bytes(packet[22:24]) == self._wanted:
                second, _ = struct.unpack("=qq", told[0][2])
                self._counts[socket.inet_ntoa(packet[16:20]), second] += 1


@pytest.fixture(scope="module")
def witness(net: Spaces) -> Iterator[Witness]:
    with Witness(net.interface) as counting:  # type: ignore[attr-defined]
        yield counting


def same_as_seen(server: Serving, witness: Witness, name: str, vm: str, address: str, *, all_along: bool = True) -> int:
    """Every interval of a VM but the first and the last is what passed the interface. Gives how many these are."""
    series = server.workspace.metrics.read(SeriesQuery(name, ("rx_packets",)))
    values = series.values["rx_packets"][series.vms.index(vm)]
    known = np.flatnonzero(~np.isnan(values))
    assert np.array_equal(known, np.arange(known[0], len(values))), values  # no gap
    assert known[0] == 0 or not all_along, values
    first = int(known[0]) + 1 if all_along else int(known[0])
    begin_ns = series.start_ns + first * NANOSECONDS
    assert values[first:-1].tolist() == witness.of(address, begin_ns, len(values) - first - 1)
    return len(values) - first - 1


@pytest.mark.usefixtures("sending")
def test_a_tap_that_waits_ships_soon_after_its_network_is_made_and_ends_in_good_order(
    server: Serving, net: Spaces, witness: Witness, tmp_path: Path
) -> None:
    source = f"live:{net.interface}"  # type: ignore[attr-defined]
    with tapping(server, tmp_path, "soon", source) as child:
        said(child, "the tap is ready to begin")
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
    assert same_as_seen(server, witness, "soon", "web", "10.20.1.10") >= 3


@pytest.mark.usefixtures("sending")
def test_another_spec_is_followed_from_an_intervals_border_with_nothing_lost_or_doubled(
    server: Serving, net: Spaces, witness: Witness, tmp_path: Path
) -> None:
    source = f"live:{net.interface}"  # type: ignore[attr-defined]
    networks.create(server.workspace, SPEC.format(name="renewed", more=""), "spec", time.time_ns())
    with tapping(server, tmp_path, "renewed", source) as child:
        stored_by(server, "renewed", 2)
        networks.update(server.workspace, SPEC.format(name="renewed", more=MORE).replace(*WIDER), "spec", time.time_ns())
        stored_by(server, "renewed", 4, "db")
        stored_by(server, "renewed", 7, "db")
        (record,) = server.workspace.state.sources.of("renewed")
        taps.stop(server.workspace, "renewed", record.id, time.time_ns())
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, out + err
        assert "isn't to be observed any more" in err
    assert same_as_seen(server, witness, "renewed", "web", "10.20.1.10") > 4
    assert same_as_seen(server, witness, "renewed", "db", "10.20.1.20", all_along=False) > 1
    assert same_as_seen(server, witness, "renewed", "far", "10.30.0.1", all_along=False) > 1
    assert server.workspace.state.shipments.overlaps("renewed") == ()


@pytest.mark.usefixtures("sending")
def test_a_second_tap_of_a_live_interface_is_noticed(server: Serving, net: Spaces, tmp_path: Path) -> None:
    source = f"live:{net.interface}"  # type: ignore[attr-defined]
    networks.create(server.workspace, SPEC.format(name="twice", more=""), "spec", time.time_ns())
    with (
        tapping(server, tmp_path / "one", "twice", source, "--for", "120s") as one,
        tapping(server, tmp_path / "two", "twice", source, "--layer", "innermost", "--for", "120s") as two,
    ):
        while one.poll() is None and two.poll() is None:
            time.sleep(0.05)
        for child in (one, two):
            if child.poll() is None:
                child.terminate()  # the one that has it
        outs = [child.communicate(timeout=90) for child in (one, two)]
    assert sorted([one.returncode, two.returncode]) == [0, 2], outs  # a host's source has one tap
    assert any("is observed for twice already" in err for _, err in outs)
