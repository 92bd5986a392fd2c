"""Tunnels from elsewhere, in namespaces: what the kernel's own VXLAN device wraps, and GRE, ERSPAN, Geneve across a cable."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest
from tests.captures import IPV4, ethernet, ip, replayed, udp
from tests.netns.spaces import Spaces, needs
from tests.tap.sockets import Stop
from tests.tap.test_tunnel import contents, geneve, gre

from adumbra.schema.errors import SourceError
from adumbra.schema.records import Link, Losses
from adumbra.schema.sources import RawTunnelSource, Tunnel, UdpTunnelSource, parse_source
from adumbra.tap.tunnel import HEADERS_ROOM, TunnelTap

pytestmark = [pytest.mark.root, needs("tcpdump", "ping")]
NEAR, FAR = "10.9.0.1", "10.9.0.2"


def cable() -> Spaces:
    """Two namespaces, `near` and `far`, not entered yet."""
    return Spaces("near", "far")


def lay(net: Spaces) -> None:
    net.veth(("near", "n0"), ("far", "f0"), [f"{NEAR}/24"], [f"{FAR}/24"])


def add_vxlan(net: Spaces, space: str, device: str, vni: int, remote: str, address: str) -> None:
    """A VXLAN device with one neighbour, x.x.x.10, whose link address it knows, so that it asks for nobody's."""
    kind = ["type", "vxlan", "id", str(vni), "remote", remote, "dstport", "4789"]
    made = subprocess.run(["ip", "-n", net.real(space), "link", "add", device, *kind], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("this kernel has no VXLAN devices")
    net.run(space, "ip", "address", "add", f"{address}/24", "dev", device)
    net.run(space, "ip", "link", "set", device, "up")
    behind = address.rsplit(".", 1)[0] + ".10"
    net.run(space, "ip", "neigh", "add", behind, "lladdr", "02:00:00:00:00:10", "dev", device)


def ask(net: Spaces, behind: str) -> None:
    """Pings and connections to an address that nobody answers."""
    net.run("near", "ping", "-c", "3", "-i", "0.1", "-W", "0.1", behind, check=False)
    net.run("near", "ping", "-c", "1", "-s", "1300", "-W", "0.1", behind, check=False)
    with net.inside("near"):
        for port in range(80, 90):
            with socket.socket() as client:
                client.setblocking(False)
                client.connect_ex((behind, port))


def test_what_the_kernels_vxlan_device_sends_arrives_byte_for_byte(tmp_path: Path) -> None:
    capture, stop = tmp_path / "vxlan0.pcap", Stop()
    with cable() as net:
        lay(net)
        add_vxlan(net, "near", "vxlan0", 42, FAR, "10.20.0.1")
        add_vxlan(net, "near", "vxlan1", 43, FAR, "10.21.0.1")
        dump = net.start("near", "tcpdump", "-i", "vxlan0", "-U", "-w", str(capture), "-Z", "root", stderr=subprocess.PIPE)
        assert dump.stderr is not None
        assert b"listening" in dump.stderr.readline()
        spec = parse_source("vxlan:4789,vni=42")
        assert isinstance(spec, UdpTunnelSource)
        with net.inside("far"):
            tap = TunnelTap(spec, time.time_ns, stop).__enter__()
        began_ns = time.time_ns()
        ask(net, "10.20.0.10")
        ask(net, "10.21.0.10")
        time.sleep(0.2)
        dump.terminate()
        dump.wait(5)
        dump.stderr.close()
        stop.press()
        given: list[tuple[bytes, int]] = []
        times: list[int] = []
        for frames in tap:
            assert (frames.link == Link.VXLAN).all()
            given += contents(frames)
            times += frames.time_ns.tolist()
        losses = tap.losses()
        tap.__exit__(None, None, None)
    sent = [frame.data for frame in replayed(capture)[0]]
    assert len(sent) == 14
    assert [(data[8 : 8 + len(want)], length) for (data, length), want in zip(given, sent, strict=True)] == [
        (want[: HEADERS_ROOM.each_bytes - 8], len(want) + 8) for want in sent
    ]
    assert {data[:8] for data, _ in given} == {bytes([8, 0, 0, 0, 0, 0, 42, 0])}
    assert losses == Losses(filtered=14), "those of the other network"
    assert began_ns <= times[0]
    assert times == sorted(times)
    assert times[-1] <= time.time_ns()


def test_a_port_that_a_device_of_the_kernel_holds_is_said_to_be_taken() -> None:
    with cable() as net:
        lay(net)
        add_vxlan(net, "far", "vxlan0", 42, NEAR, "10.20.0.2")
        with net.inside("far"), pytest.raises(SourceError) as caught:
            TunnelTap(UdpTunnelSource(Tunnel.VXLAN, "", 4789), time.time_ns).__enter__()
    assert "UDP port 4789 is taken, by another program or by a tunnel device of the kernel" in str(caught.value)
    assert "observe a tunnel device by live:IFACE" in str(caught.value)


SMALL = ethernet(ip("10.0.0.1", "10.20.1.10", 17, udp(1000, 53, b"question")))
OPTION = bytes.fromhex("0102800161626364")
FULL = ethernet(ip("10.0.0.1", "10.20.1.10", 17, udp(1000, 53, bytes(n % 251 for n in range(1472)))))


def erspan_2(inner: bytes) -> bytes:
    return gre(0x88BE, bytes(4) + bytes.fromhex("1001000000000000") + inner, flags=0x1000)


def erspan_3(inner: bytes) -> bytes:
    return gre(0x22EB, bytes(4) + bytes.fromhex("200100000000000000000000") + inner, flags=0x1000)


@pytest.mark.parametrize(
    ("spec", "payloads"),
    [
        (RawTunnelSource(Tunnel.ERSPAN), [gre(0x88BE, SMALL), erspan_2(SMALL), erspan_2(FULL), erspan_3(FULL)]),
        (RawTunnelSource(Tunnel.GRE, FAR), [gre(IPV4, SMALL[14:]), gre(0x6558, FULL), gre(0x6558, bytes(4) + FULL, 0x2000)]),
        (UdpTunnelSource(Tunnel.GENEVE, FAR, 6081, (7,)), [geneve(7, SMALL), geneve(7, FULL, OPTION)]),
    ],
)  # fmt: skip
def test_what_outgrows_the_cable_is_put_together_by_the_kernel(
    spec: RawTunnelSource | UdpTunnelSource, payloads: list[bytes]
) -> None:
    """A full frame and its tunnel's headers don't fit an MTU of 1500: the outer packet travels in two fragments."""
    stop = Stop()
    given: list[tuple[bytes, int]] = []
    with cable() as net:
        lay(net)
        with net.inside("far"):
            tap = TunnelTap(spec, time.time_ns, stop).__enter__()
        udp_port = spec.port if isinstance(spec, UdpTunnelSource) else 0
        kind = (socket.SOCK_DGRAM, 0) if udp_port else (socket.SOCK_RAW, 47)
        with net.inside("near"), socket.socket(socket.AF_INET, *kind) as out:
            for payload in payloads:
                out.sendto(payload, (FAR, udp_port))
        for frames in tap:
            given += contents(frames)
            if len(given) == len(payloads):
                stop.press()
        tap.__exit__(None, None, None)
        refused = net.run("near", "cat", "/proc/net/snmp")
    assert given == [(payload[: HEADERS_ROOM.each_bytes], len(payload)) for payload in payloads]
    assert _icmp_unreachables(refused) == 0, "the kernel tells no sender that its tunnel is refused"


def _icmp_unreachables(snmp: str) -> int:
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Icmp:"))
    return int(dict(zip(names, values, strict=True))["InDestUnreachs"])


def test_packets_that_another_stack_builds() -> None:
    """Geneve with options, and GRE with key, checksum and sequence, as scapy lays them out, on the cable itself."""
    scapy_all = pytest.importorskip("scapy.all")
    from scapy.contrib.geneve import GENEVE, GeneveOptions  # type: ignore[import-untyped]

    stop = Stop()
    inner = scapy_all.Ether(SMALL)
    option = GeneveOptions(classid=0x102, type=0x80, data=b"abcd")
    outer = scapy_all.IP(src=NEAR, dst=FAR)
    wrapped = [
        outer
        / scapy_all.GRE(key_present=1, seqnum_present=1, chksum_present=1, proto=0x6558, key=5, sequence_number=9)
        / inner,
        outer / scapy_all.UDP(sport=1234, dport=6081) / GENEVE(vni=9, proto=0x6558, options=[option]) / inner,
    ]
    given: list[bytes] = []
    with cable() as net:
        lay(net)
        mac = net.run("far", "cat", "/sys/class/net/f0/address").strip()
        with net.inside("far"):
            gre_tap = TunnelTap(RawTunnelSource(Tunnel.GRE), time.time_ns, stop).__enter__()
            geneve_tap = TunnelTap(UdpTunnelSource(Tunnel.GENEVE, "", 6081), time.time_ns, stop).__enter__()
        with net.inside("near"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
            out.bind(("n0", 0))
            for packet in wrapped:
                out.send(bytes(scapy_all.Ether(dst=mac, type=0x0800) / packet))
        time.sleep(0.1)
        stop.press()
        for tap in (gre_tap, geneve_tap):
            given += [data for frames in tap for data, _ in contents(frames)]
            tap.__exit__(None, None, None)
    assert given == [bytes(wrapped[0])[20:], bytes(wrapped[1])[28:]]
