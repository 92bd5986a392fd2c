"""Tunnels that end here: each frame as it was wrapped, its length as sent; the networks that are asked for, and no other."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.captures import IPV4, SYN, ethernet, ip, tcp
from tests.tap.sockets import Stop, free_port, sender

from adumbra.schema.records import Frames, Link, Losses
from adumbra.schema.sources import RawTunnelSource, Tunnel, UdpTunnelSource, parse_source
from adumbra.tap.datagrams import Room
from adumbra.tap.tunnel import TunnelTap

INNER = ethernet(ip("10.0.0.1", "10.20.1.10", 6, tcp(40_000, 80, SYN)))


def vxlan(vni: int, inner: bytes = INNER, flags: int = 0x08) -> bytes:
    return struct.pack(">BxxxI", flags, vni << 8) + inner


def geneve(vni: int, inner: bytes = INNER, options: bytes = b"") -> bytes:
    return struct.pack(">BBHI", len(options) // 4, 0, 0x6558, vni << 8) + options + inner


def gre(protocol: int, rest: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HH", flags, protocol) + rest


def follow(tap: TunnelTap, stop: Stop, send: list[bytes], to: tuple[str, int], want: int) -> list[tuple[bytes, int]]:
    """What the tap gives, (bytes, length on the wire), of datagrams sent while it listens, until `want` have come."""
    given: list[tuple[bytes, int]] = []
    waiting = iter(send)
    for frames in tap:
        send_all(tap, list(itertools.islice(waiting, 100)), to)  # no more at a time than the smallest receive buffer holds
        given += contents(frames)
        assert set(frames.link.tolist()) <= {int(LINKS[tap.spec.tunnel])}
        if len(given) + tap.losses().filtered >= want:
            stop.press()
    return given


LINKS = {Tunnel.VXLAN: Link.VXLAN, Tunnel.GENEVE: Link.GENEVE, Tunnel.GRE: Link.GRE, Tunnel.ERSPAN: Link.GRE}


def send_all(tap: TunnelTap, send: list[bytes], to: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    raw = isinstance(tap.spec, RawTunnelSource)
    with socket.socket(family, socket.SOCK_RAW, 47) if raw else sender(family) as out:
        for payload in send:
            out.sendto(payload, to)


def contents(frames: Frames) -> list[tuple[bytes, int]]:
    rows = zip(frames.offset.tolist(), frames.captured.tolist(), frames.length.tolist(), strict=True)
    return [(frames.data[at : at + size].tobytes(), length) for at, size, length in rows]


def whole(payloads: list[bytes]) -> list[tuple[bytes, int]]:
    return [(payload, len(payload)) for payload in payloads]


MANY = [vxlan(n % 5) for n in range(2500)]
SHORT = [b"", b"\x08", vxlan(7)[:6]]


@pytest.mark.parametrize(
    ("kind", "options", "sent", "kept"),
    [
        ("vxlan", "", MANY, MANY),
        ("vxlan", ",vni=3", MANY, MANY[3::5]),
        ("vxlan", ",vni=3,vni=16777215", [vxlan(3), vxlan(4), vxlan(16777215)], [vxlan(3), vxlan(16777215)]),
        ("vxlan", ",vni=3", [*SHORT, vxlan(4), vxlan(3)], [*SHORT, vxlan(3)]),  # too short to tell: the decoder counts them
        ("geneve", "", [geneve(1), geneve(2, options=b"\x01\x02\x80\x01abcd")], None),
        ("geneve", ",vni=2", [geneve(1), geneve(2, options=bytes(252))], [geneve(2, options=bytes(252))]),
    ],
)  # fmt: skip
def test_frames_come_as_they_were_wrapped(kind: str, options: str, sent: list[bytes], kept: list[bytes] | None) -> None:
    stop, port = Stop(), free_port()
    spec = parse_source(f"{kind}:127.0.0.1:{port}{options}")
    assert isinstance(spec, UdpTunnelSource)
    with TunnelTap(spec, time.time_ns, stop) as tap:
        given = follow(tap, stop, sent, ("127.0.0.1", port), len(sent))
    assert given == whole(sent if kept is None else kept)
    assert tap.losses() == Losses(filtered=len(sent) - len(given))
    assert tap.progress() is None


def test_an_ipv6_endpoint() -> None:
    stop = Stop()
    try:
        port = free_port(socket.AF_INET6)
    except OSError:
        pytest.skip("this host has no IPv6 loopback")
    with TunnelTap(UdpTunnelSource(Tunnel.VXLAN, "::1", port), time.time_ns, stop) as tap:
        assert follow(tap, stop, [vxlan(1)], ("::1", port), 1) == whole([vxlan(1)])


def test_payloads_are_not_copied_but_their_lengths_are_told() -> None:
    stop, port = Stop(), free_port()
    long = vxlan(1, INNER + bytes(1400))
    with TunnelTap(UdpTunnelSource(Tunnel.VXLAN, "127.0.0.1", port), time.time_ns, stop, Room(64, 200)) as tap:
        assert follow(tap, stop, [long], ("127.0.0.1", port), 1) == [(long[:200], len(long))]


def test_a_mirror_that_cuts_packets_short_gives_frames_that_end_before_their_ip_length() -> None:
    """As AWS Traffic Mirroring does at the session's packet length: the datagram itself is whole, the packet in it isn't."""
    stop, port = Stop(), free_port()
    packet = ethernet(ip("10.0.0.1", "10.20.1.10", 6, tcp(40_000, 80, SYN, payload=bytes(1000))))
    cut = vxlan(0x123456, packet[:100])
    with TunnelTap(UdpTunnelSource(Tunnel.VXLAN, "127.0.0.1", port), time.time_ns, stop) as tap:
        given = follow(tap, stop, [cut], ("127.0.0.1", port), 1)
    (frame, length), told = given[0], int.from_bytes(packet[16:18], "big")
    assert (frame, length) == (cut, 108)
    assert len(frame) - 8 - 14 < told == 1040


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.one_of(st.binary(max_size=700), st.binary(max_size=60).map(lambda rest: vxlan(3, rest))), max_size=8),
    st.booleans(),
)
def test_whatever_is_sent_is_given_or_counted(payloads: list[bytes], filtering: bool) -> None:
    stop, port = Stop(), free_port()
    with TunnelTap(UdpTunnelSource(Tunnel.VXLAN, "127.0.0.1", port, (3,) * filtering), time.time_ns, stop, Room(4, 64)) as tap:
        send_all(tap, payloads, ("127.0.0.1", port))
        stop.press()
        told = [row for frames in tap for row in contents(frames)]
    kept = [p for p in payloads if not filtering or len(p) < 7 or p[4:7] == b"\0\0\3"]
    assert told == [(payload[:64], len(payload)) for payload in kept]
    assert tap.losses() == Losses(filtered=len(payloads) - len(kept))


def test_it_can_be_stopped_from_outside() -> None:
    with TunnelTap(UdpTunnelSource(Tunnel.VXLAN, "127.0.0.1", free_port()), time.time_ns) as tap:
        batches = iter(tap)
        assert len(next(batches)) == 0
        tap.stop()
        assert list(batches) == []


ERSPAN_I = gre(0x88BE, INNER)
ERSPAN_II = gre(0x88BE, bytes(4) + struct.pack(">II", 0x10010000, 0) + INNER, flags=0x1000)
ERSPAN_III = gre(0x22EB, bytes(4) + struct.pack(">III", 0x20010000, 0, 0) + INNER, flags=0x1000)
PLAIN = gre(IPV4, INNER[14:])
KEYED = gre(0x6558, bytes(4) + INNER, flags=0x2000)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need root")
@pytest.mark.parametrize("address", ["127.83.7.1", "::1"])
@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (Tunnel.GRE, [ERSPAN_I, ERSPAN_II, ERSPAN_III, PLAIN, KEYED, b"\0\0"]),
        (Tunnel.ERSPAN, [ERSPAN_I, ERSPAN_II, ERSPAN_III, b"\0\0"]),
    ],
)
def test_gre_and_erspan_by_raw_sockets(address: str, kind: Tunnel, kept: list[bytes]) -> None:
    """Of IPv4 the kernel gives the IP header too, of IPv6 not: what is given begins with GRE's, either way."""
    stop, sent = Stop(), [ERSPAN_I, ERSPAN_II, ERSPAN_III, PLAIN, KEYED, b"\0\0"]
    try:
        with TunnelTap(RawTunnelSource(kind, address), time.time_ns, stop) as tap:
            given = follow(tap, stop, sent, (address, 0), len(sent))
    except OSError:
        pytest.skip(f"this host can't send to {address}")
    assert given == whole(kept)
    assert tap.losses() == Losses(filtered=len(sent) - len(kept))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need root")
def test_ipv4_options_before_gre_are_passed_over() -> None:
    stop, given = Stop(), []
    with (
        TunnelTap(RawTunnelSource(Tunnel.GRE, "127.83.7.2"), time.time_ns, stop) as tap,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, 47) as out,
    ):
        out.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * 40)
        out.sendto(PLAIN, ("127.83.7.2", 0))
        for frames in tap:
            given += contents(frames)
            if given:
                stop.press()
    assert given == whole([PLAIN])
