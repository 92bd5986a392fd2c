"""A prefix that nobody has is asked, and a mirror brings it to the shadow; then a donor answers. By the commands, on a wire."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests import forked
from tests.netns.spaces import Spaces, needs
from tests.tshark import cells

pytestmark = [pytest.mark.root, needs("tc", "tcpdump", "tshark")]

SPEC = """
name: shop
cidrs: [10.20.0.0/16]
subnets: [{name: web, cidr: 10.20.1.0/24}]
vms: [{name: web, subnet: web, addresses: [10.20.1.10], role: nginx, ports: [80]}]
donors: [{from: 192.168.7.0/24, to: 10.20.1.0/24}]
"""
NEW, OLD = "10.20.1.10", "192.168.7.10"
ATTEMPTS = 25
PAGES = 12


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spaces]:
    """A client, a router that forwards and knows nobody behind the prefix, and a donor behind it."""
    monkeypatch.setenv("ADUMBRA_HOME", str(tmp_path / "home"))
    with Spaces("client", "router", "donor") as spaces:
        spaces.veth(("client", "c0"), ("router", "r0"), ["10.9.0.1/24"], ["10.9.0.254/24"])
        spaces.veth(("donor", "d0"), ("router", "r1"), [f"{OLD}/24"], ["192.168.7.254/24"])
        spaces.run("router", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        spaces.run("router", "ip", "route", "add", "blackhole", "10.20.0.0/16")
        spaces.run("client", "ip", "route", "add", "default", "via", "10.9.0.254")
        spaces.run("donor", "ip", "route", "add", "default", "via", "192.168.7.254")
        (tmp_path / "shop.yaml").write_text(textwrap.dedent(SPEC))
        adumbra(spaces, "network", "create", str(tmp_path / "shop.yaml"))
        yield spaces


def adumbra(net: Spaces, *arguments: str) -> Any:
    """Runs a command on the router; gives what it printed, parsed where it is JSON."""
    run = forked.run("adumbra", *arguments, namespace=net.real("router"), timeout=240)
    assert run.returncode == 0, run.stderr
    told = run.stdout
    with suppress(json.JSONDecodeError):
        return json.loads(told)
    return told


@contextmanager
def observing(net: Spaces, interface: str, *options: str) -> Iterator[dict[str, Any]]:
    """Lets the shadow watch an interface while the body runs; the dictionary holds the observation afterwards."""
    command = [sys.executable, "-m", "adumbra", "observe", "shop", f"live:{interface}", "--output", "json", *options]
    told: dict[str, Any] = {}
    with net.start("router", *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        said = b""
        while b"observing" not in said:  # it says so once nothing more is missed
            line = child.stderr.readline()
            assert line, said
            said += line
        yield told
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, (said + err).decode()
        told |= json.loads(out)


def totals(rows: list[dict[str, Any]], *names: str) -> dict[str, int]:
    return {name: sum(row[name] or 0 for row in rows) for name in names}


def test_a_prefix_that_nobody_answers_then_a_donor_that_does(net: Spaces, tmp_path: Path) -> None:
    installed = adumbra(net, "mirror", "install", "shop", "--from", "r0", "--output", "json")
    sink = installed["observe"].partition("live:")[2] if isinstance(installed, dict) else _sink(str(installed))

    with observing(net, sink) as told, net.inside("client"):
        knock(NEW, ATTEMPTS)
        knock("10.20.1.99", 5)  # the network's own, but no VM's
    rows = adumbra(net, "metrics", "shop", "--output", "json")["rows"]
    counted = totals(rows, "connections_attempted", "connections_established", "tx_packets", "missed_packets", "requests")
    assert counted == {
        "connections_attempted": ATTEMPTS, "connections_established": 0, "tx_packets": 0, "missed_packets": 0, "requests": 0,
    }  # fmt: skip
    assert told["one_sided"] == ["web"]
    assert told["accounts"]["unclaimed"] >= 5
    assert all(row["rtt_ms_p50"] is not None for row in rows if row["rx_packets"])  # simulated, and said so
    before = {row["time"] for row in rows}

    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "page").write_bytes(b"x" * 30_000)
    capture = tmp_path / "seen.pcap"
    net.start("donor", sys.executable, "-c", _SERVER, str(tmp_path / "www"), stderr=subprocess.DEVNULL)
    tcpdump = net.start("router", "tcpdump", "-i", "r0", "-n", "-U", "-s", "128", "-w", str(capture), stderr=subprocess.PIPE)
    assert b"listening" in tcpdump.stderr.readline()  # type: ignore[union-attr]
    with observing(net, sink) as told, net.inside("client"):
        _until_open(OLD)
        browse(OLD)
        time.sleep(1)
        assert adumbra(net, "metrics", "shop", "--output", "json")["rows"], "what is stored can be read meanwhile"
    tcpdump.send_signal(signal.SIGINT)
    tcpdump.communicate(timeout=10)
    rows = [row for row in adumbra(net, "metrics", "shop", "--output", "json")["rows"] if row["time"] not in before]

    want = cells(capture, {OLD: "web"})
    names = (
        "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "connections_established",
    )  # fmt: skip
    assert totals(rows, *names) == {name: sum(getattr(cell, name) for cell in want.values()) for name in names}
    assert totals(rows, "requests", "missed_packets") == {"requests": PAGES, "missed_packets": 0}
    round_trips = sorted(value for cell in want.values() for value in cell.rtt_ms)
    seen = [row["rtt_ms_p50"] for row in rows if row["rtt_ms_p50"] is not None]
    assert seen
    assert min(round_trips) - 1 < min(seen) <= max(seen) < max(round_trips) + 1  # two clocks on one wire, ms
    assert told["one_sided"] == []
    assert told["accounts"]["losses"]["dropped"] == 0

    adumbra(net, "network", "delete", "shop")
    assert "mirred" not in net.run("router", "tc", "filter", "show", "dev", "r0", "ingress")
    assert sink not in net.run("router", "ip", "link")


_SERVER = """
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
handler.func.protocol_version = "HTTP/1.1"
http.server.ThreadingHTTPServer(("0.0.0.0", 80), handler).serve_forever()
"""


def _sink(told: str) -> str:
    return told.partition("live:")[2].split()[0]


def knock(address: str, times: int) -> None:
    """Tries to connect from so many ports at once, for as long as a SYN is sent again twice."""
    tried = [socket.socket() for _ in range(times)]
    try:
        for one in tried:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect((address, 80))
        time.sleep(3.5)
    finally:
        for one in tried:
            one.close()


def browse(address: str) -> None:
    """Asks for some pages: on one connection one after the other, and each on its own."""
    kept = http.client.HTTPConnection(address, timeout=10)
    for _ in range(PAGES // 2):
        kept.request("GET", "/page")
        assert len(kept.getresponse().read()) == 30_000
        time.sleep(0.05)
    kept.close()
    for _ in range(PAGES // 2):
        single = http.client.HTTPConnection(address, timeout=10)
        single.request("GET", "/page")
        assert len(single.getresponse().read()) == 30_000
        single.close()


def _until_open(address: str) -> None:
    for _ in range(100):
        with suppress(OSError), socket.create_connection((address, 80), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens at {address}")
