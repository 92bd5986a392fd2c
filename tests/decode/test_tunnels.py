"""Packets within packets: where the inner one lies, which layer is decoded, and what is no tunnel at all."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import (
    BRIDGED,
    CHECKSUM,
    IPV4,
    IPV6,
    KEY,
    SEQUENCE,
    SYN,
    Frame,
    batch,
    erspan,
    ethernet,
    geneve,
    gre,
    ip,
    tcp,
    udp,
    vxlan,
)  # fmt: skip

from adumbra.decode.packets import MAX_DEPTH, Decoder
from adumbra.schema.records import Link, Outcome, Packets
from adumbra.schema.sources import Layer

A4, B4, C4, D4, A6, B6 = "10.0.0.1", "10.0.0.2", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
COLUMNS = [f.name for f in fields(Packets) if f.name not in {"src_vm", "dst_vm"}]
SEGMENT = tcp(40000, 80, SYN, 5, 6, b"hello", bytes.fromhex("0101080a0000000700000008"))
INNER4, INNER6 = ip(A4, B4, 6, SEGMENT), ip(A6, B6, 17, udp(53, 99, b"answer"))

Row = dict[str, Any]
Ends = dict[int, int]


def rows(frames: Sequence[Frame], layer: Layer, vms: Ends | None = None) -> list[Row]:
    """The rows of a layer, the network's addresses given; the same whatever bytes lie around the frames."""
    tables = []
    for filler in (0x00, 0xFF, 0x45):
        decoder, given_frames = Decoder(), batch(frames, filler)
        packets = decoder.decode(given_frames)
        assign(packets, vms or {})
        rounds = 0
        while decoder.unwrap(given_frames, packets, layer):
            assign(packets, vms or {})
            rounds += 1
            assert rounds <= MAX_DEPTH
        assert not decoder.unwrap(given_frames, packets, layer)
        tables.append([{name: int(getattr(packets, name)[i]) for name in COLUMNS} for i in range(len(packets))])
    assert tables[0] == tables[1] == tables[2]
    return tables[0]


def assign(packets: Packets, vms: Ends) -> None:
    for low, vm in ((packets.src_lo, packets.src_vm), (packets.dst_lo, packets.dst_vm)):
        vm[:] = [vms.get(int(address), -1) if o == 0 else -1 for address, o in zip(low, packets.outcome, strict=True)]


def one(data: bytes, layer: Layer = Layer.INNERMOST, vms: Ends | None = None, link: int = 1, length: int | None = None) -> Row:
    return rows([Frame(77, data, length, link)], layer, vms)[0]


def alone(packet: bytes, link: int = 101, length: int | None = None) -> Row:
    return rows([Frame(77, packet, length, link)], Layer.OUTERMOST)[0]


def outer(payload: bytes, protocol: int = 47) -> bytes:
    return ethernet(ip(C4, D4, protocol, payload))


def to_port(port: int, payload: bytes) -> bytes:
    return outer(udp(50000, port, payload), 17)


FRAME4, FRAME6 = ethernet(INNER4), ethernet(INNER6)
TUNNELS = {
    "VXLAN": (to_port(4789, vxlan(FRAME4)), 50, 1),
    "VXLAN on Linux' old port": (to_port(8472, vxlan(FRAME4)), 50, 1),
    "VXLAN with a group policy": (to_port(4789, vxlan(FRAME4, flags=0x88)), 50, 1),
    "VXLAN-GPE of a frame": (to_port(4789, vxlan(FRAME4, flags=0x0C, named=3)), 50, 1),
    "VXLAN-GPE of IPv4": (to_port(4789, vxlan(INNER4, flags=0x0C, named=1)), 50, 228),
    "VXLAN over IPv6": (ethernet(ip(A6, B6, 17, udp(1, 4789, vxlan(FRAME4)))), 70, 1),
    "VXLAN of a tagged frame": (to_port(4789, vxlan(ethernet(struct.pack(">HH", 5, IPV4) + INNER4, 0x8100))), 50, 1),
    "Geneve": (to_port(6081, geneve(FRAME4)), 50, 1),
    "Geneve with options": (to_port(6081, geneve(FRAME4, options=bytes(252))), 50 + 252, 1),
    "Geneve of IPv4": (to_port(6081, geneve(INNER4, IPV4)), 50, 228),
    "GRE": (outer(gre(INNER4, IPV4)), 38, 228),
    "GRE with all fields": (outer(gre(INNER4, IPV4, CHECKSUM | KEY | SEQUENCE)), 50, 228),
    "GRE with a key": (outer(gre(INNER4, IPV4, KEY)), 42, 228),
    "GRE of frames": (outer(gre(FRAME4, BRIDGED)), 38, 1),
    "GRE over IPv6": (ethernet(ip(A6, B6, 47, gre(INNER4, IPV4))), 58, 228),
    "GRE behind IPv6's options": (ethernet(ip(A6, B6, 60, bytes([47, 0, 1, 4]) + bytes(4) + gre(INNER4, IPV4))), 66, 228),
    "ERSPAN I": (outer(erspan(FRAME4, 1)), 38, 1),
    "ERSPAN II": (outer(erspan(FRAME4, 2)), 50, 1),
    "ERSPAN III": (outer(erspan(FRAME4, 3)), 54, 1),
    "ERSPAN III with a subheader": (outer(erspan(FRAME4, 3, optional=True)), 62, 1),
    "IP in IP": (outer(INNER4, 4), 34, 228),
    "IPv4 in IPv6": (ethernet(ip(A6, B6, 4, INNER4)), 54, 228),
}  # fmt: skip
TUNNELS6 = {
    "VXLAN": (to_port(4789, vxlan(FRAME6)), 50, 1),
    "VXLAN-GPE of IPv6": (to_port(4789, vxlan(INNER6, flags=0x0C, named=2)), 50, 229),
    "Geneve of IPv6": (to_port(6081, geneve(INNER6, IPV6)), 50, 229),
    "GRE": (outer(gre(INNER6, IPV6)), 38, 229),
    "IPv6 in IP": (outer(INNER6, 41), 34, 229),
    "IPv6 in IPv6": (ethernet(ip(A6, B6, 41, INNER6)), 54, 229),
}


@pytest.mark.parametrize(("data", "at", "link"), TUNNELS.values(), ids=TUNNELS)
def test_ipv4_within(data: bytes, at: int, link: int) -> None:
    told = one(data, Layer.OUTERMOST)
    assert (told["inner_at"], told["inner_link"]) == (at, link)
    assert one(data) == alone(INNER4) | {"inner_at": -1}
    assert one(data, Layer.AUTO) == one(data)


@pytest.mark.parametrize(("data", "at", "link"), TUNNELS6.values(), ids=TUNNELS6)
def test_ipv6_within(data: bytes, at: int, link: int) -> None:
    told = one(data, Layer.OUTERMOST)
    assert (told["inner_at"], told["inner_link"]) == (at, link)
    assert one(data) == alone(INNER6)


NO_TUNNELS = {
    "VXLAN without the I flag": to_port(4789, vxlan(FRAME4, flags=0)),
    "VXLAN-GPE of no protocol": to_port(4789, vxlan(FRAME4, flags=0x0C)),
    "VXLAN-GPE of a service header": to_port(4789, vxlan(FRAME4, flags=0x0C, named=4)),
    "VXLAN with a reserved flag": to_port(4789, vxlan(FRAME4, flags=0x48)),
    "VXLAN of a later version": to_port(4789, vxlan(FRAME4, flags=0x18)),
    "VXLAN to another port": to_port(4790, vxlan(FRAME4)),
    "VXLAN from its port": outer(udp(4789, 50000, vxlan(FRAME4)), 17),
    "VXLAN's header alone": to_port(4789, vxlan(b"")),
    "VXLAN's header cut": to_port(4789, vxlan(b"")[:7]),
    "Geneve of a later version": to_port(6081, b"\x40" + geneve(FRAME4)[1:]),
    "Geneve of another protocol": to_port(6081, geneve(FRAME4, 0x8847)),
    "Geneve's options beyond the packet": to_port(6081, geneve(b"", options=bytes(12))[:12]),
    "PPTP": outer(gre(INNER4, 0x880B, 1 | KEY)),
    "GRE of version 1": outer(gre(INNER4, IPV4, 1)),
    "GRE with a source route": outer(gre(INNER4, IPV4, 0x4000)),
    "GRE of MPLS": outer(gre(INNER4, 0x8847)),
    "Aruba's GRE": outer(gre(FRAME4, 0x8200)),
    "GRE cut": outer(gre(b"", IPV4)[:3]),
    "GRE cut in its key": outer(gre(b"", IPV4, KEY)[:6]),
    "ERSPAN II of another version": outer(gre(struct.pack(">HHI", 2 << 12, 0, 0) + FRAME4, 0x88BE, SEQUENCE)),
    "ERSPAN III of neither frames nor packets": outer(gre(struct.pack(">HHIHH", 2 << 12, 0, 0, 0, 7 << 10) + FRAME4, 0x22EB)),
    "ERSPAN II cut": outer(erspan(b"", 2)[:12]),
    "a later fragment": ethernet(ip(C4, D4, 47, gre(INNER4, IPV4))[:6] + b"\0\1" + ip(C4, D4, 47, gre(INNER4, IPV4))[8:]),
    "IP in IP, empty": outer(b"", 4),
    "ESP": outer(INNER4, 50),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_TUNNELS)
def test_what_is_no_tunnel_stays_as_it_is(name: str) -> None:
    for layer in Layer:
        told = one(NO_TUNNELS[name], layer)
        assert (told["outcome"], told["src_lo"], told["inner_at"], told["inner_link"]) == (Outcome.PARSED, 0xC0000201, -1, 0)


ENDPOINTS = {
    "VXLAN": (Link.VXLAN, vxlan(FRAME4)),
    "Geneve": (Link.GENEVE, geneve(FRAME4, options=bytes(8))),
    "Geneve of IPv4": (Link.GENEVE, geneve(INNER4, IPV4)),
    "GRE": (Link.GRE, gre(INNER4, IPV4, KEY)),
    "ERSPAN": (Link.GRE, erspan(FRAME4, 2)),
    "ERSPAN in VXLAN": (Link.VXLAN, vxlan(outer(erspan(FRAME4, 3)))),
    "VXLAN in Geneve, by a gateway load balancer": (Link.GENEVE, geneve(ip(C4, D4, 17, udp(1, 4789, vxlan(FRAME4))), IPV4)),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDPOINTS)
def test_at_the_end_of_a_tunnel_frames_begin_with_its_header(name: str) -> None:
    link, data = ENDPOINTS[name]
    assert one(data, link=link) == alone(INNER4)
    assert one(data, Layer.AUTO, link=link) == alone(INNER4)


@pytest.mark.parametrize(
    ("link", "data", "want"),
    [
        (Link.VXLAN, vxlan(FRAME4, flags=0), Outcome.NOT_IP),
        (Link.VXLAN, vxlan(b"")[:7], Outcome.LINK_TRUNCATED),
        (Link.VXLAN, vxlan(b""), Outcome.LINK_TRUNCATED),
        (Link.GENEVE, geneve(FRAME4, 0x8847), Outcome.NOT_IP),
        (Link.GENEVE, geneve(b"", options=bytes(8))[:12], Outcome.LINK_TRUNCATED),
        (Link.GRE, gre(INNER4, 0x880B, 1), Outcome.NOT_IP),
        (Link.GRE, b"\0\0", Outcome.LINK_TRUNCATED),
        (Link.GRE, erspan(FRAME4, 3)[:14], Outcome.LINK_TRUNCATED),
        (Link.GRE, gre(ethernet(bytes(28), 0x0806), BRIDGED), Outcome.NOT_IP),
    ],
)
def test_what_an_endpoint_cannot_decode(link: Link, data: bytes, want: Outcome) -> None:
    assert one(data, link=link)["outcome"] == want


HIDDEN = {
    "ARP": (to_port(4789, vxlan(ethernet(bytes(28), 0x0806))), Outcome.NOT_IP),
    "a cut frame": (to_port(4789, vxlan(FRAME4[:13])), Outcome.LINK_TRUNCATED),
    "a cut IP header": (outer(gre(INNER4[:19], IPV4)), Outcome.IP_TRUNCATED),
    "nothing IP": (outer(b"\0" * 40, 4), Outcome.IP_MALFORMED),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_lies_within_cannot_be_read(name: str) -> None:
    """AUTO keeps the outer packet and doesn't look again; INNERMOST tells what became of the inner one."""
    data, outcome = HIDDEN[name]
    told = one(data, Layer.OUTERMOST)
    assert one(data, Layer.AUTO) == told | {"inner_at": -1, "inner_link": 0}
    zero = dict.fromkeys(COLUMNS, 0) | {"time_ns": 77, "payload_bytes": -1, "inner_at": -1}
    assert one(data, Layer.INNERMOST) == zero | {"outcome": outcome}


def test_auto_stops_at_the_outermost_packet_of_the_network() -> None:
    middle = ip("172.16.0.1", "172.16.0.2", 47, gre(INNER4, IPV4))
    data = to_port(4789, vxlan(ethernet(middle)))
    claimed, unclaimed = 3, -2
    for vm in (claimed, unclaimed):
        for address in (0xC0000201, 0xC0000202):
            assert one(data, Layer.AUTO, {address: vm}) == one(data, Layer.OUTERMOST)
        for address in (0xAC100001, 0xAC100002):
            assert one(data, Layer.AUTO, {address: vm}) == alone(middle) | {"inner_at": 50 + 14 + 24}
        for address in (0x0A000001, 0x0A000002):
            assert one(data, Layer.AUTO, {address: vm}) == alone(INNER4)
        assert one(data, Layer.INNERMOST, {0xC0000201: vm, 0xAC100002: vm}) == alone(INNER4)


def test_a_cut_inner_packet_counts_by_its_own_length() -> None:
    whole = to_port(4789, vxlan(ethernet(ip(A4, B4, 6, tcp(1, 2, 16, payload=bytes(1000))))))
    told = one(whole[:110], length=len(whole))
    assert (told["ip_bytes"], told["payload_bytes"]) == (1040, 1000)


def test_an_inner_length_of_0_is_what_the_wire_leaves_behind_it() -> None:
    big = to_port(6081, geneve(ethernet(ip(A4, B4, 6, tcp(1, 2, 16), length=0))))
    told = one(big, length=50 + 14 + 40 + 30_000)
    assert (told["ip_bytes"], told["payload_bytes"]) == (30_040, 30_000)


def nested(depth: int) -> bytes:
    packet = INNER4
    for _ in range(depth):
        packet = ip(C4, D4, 4, packet)
    return packet


def test_nesting_ends() -> None:
    assert one(ethernet(nested(MAX_DEPTH))) == alone(INNER4)
    assert one(ethernet(nested(MAX_DEPTH + 1))) == alone(nested(1)) | {"inner_at": 14 + 20 * (MAX_DEPTH + 1)}
    assert one(ethernet(nested(2000)))["src_lo"] == 0xC0000201


def test_a_row_that_was_ipv6_outside_keeps_nothing_of_it() -> None:
    frames = [Frame(1, ethernet(ip(A6, B6, 4, INNER4))), Frame(1, ethernet(INNER6)), Frame(1, ethernet(INNER4))]
    decoder = Decoder()
    for _ in range(2):
        given_frames = batch(frames)
        packets = decoder.decode(given_frames)
        assert packets.src_hi.astype(bool).tolist() == [True, True, False]
        assert packets.inner_at.tolist() == [54, -1, -1]
        while decoder.unwrap(given_frames, packets, Layer.INNERMOST):
            pass
        assert packets.src_hi.astype(bool).tolist() == [False, True, False]
    plain = decoder.decode(batch([Frame(1, ethernet(INNER4))] * 3))
    assert (plain.src_hi == 0).all()
    assert (plain.inner_at == -1).all()
    assert (plain.inner_link == 0).all()


# ---- properties ----------------------------------------------------------------------------------------------------------

Wrapped = tuple[bytes, int]  # an IP packet or a frame, and its link type
addresses = st.sampled_from([(A4, B4), (C4, D4), (A6, B6)])


def wrapped(inner: Wrapped, ends: tuple[str, str], how: str) -> Wrapped:
    """An IP packet around a packet or frame."""
    data, link = inner
    is_frame = link == 1
    frame = data if is_frame else ethernet(data)
    kind = BRIDGED if is_frame else IPV6 if data[0] >> 4 == 6 else IPV4
    if how == "ip" and not is_frame:
        return ip(*ends, 41 if data[0] >> 4 == 6 else 4, data), 101
    protocol, payload = {
        "vxlan": (17, udp(9, 4789, vxlan(frame))),
        "geneve": (17, udp(9, 6081, geneve(data, kind, bytes(20)))),
        "gre": (47, gre(data, kind, KEY)),
        "ip": (47, gre(data, kind)),
        "erspan1": (47, erspan(frame, 1)),
        "erspan2": (47, erspan(frame, 2)),
        "erspan3": (47, erspan(frame, 3, optional=True)),
    }[how]
    return ip(*ends, protocol, payload), 101


wrappers = st.tuples(
    addresses, st.sampled_from(["vxlan", "geneve", "gre", "ip", "erspan1", "erspan2", "erspan3"]), st.booleans()
)
port_numbers = st.integers(1, 65535)
segments = st.builds(tcp, port_numbers, port_numbers, st.just(16), port_numbers, port_numbers, st.binary(max_size=9))
datagrams = st.builds(udp, port_numbers, st.just(53), st.binary(max_size=9))
inmost = st.one_of(
    st.builds(lambda ends, payload: ip(*ends, 6, payload), addresses, segments),
    st.builds(lambda ends, payload: ip(*ends, 17, payload), addresses, datagrams),
    st.builds(lambda ends: ip(*ends, 1, bytes(8)), addresses),
)


@st.composite
def nests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A packet, and the Ethernet frame that it is wrapped in, up to MAX_DEPTH deep."""
    packet = draw(inmost)
    inner: Wrapped = (packet, 101)
    for ends, how, framed in draw(st.lists(wrappers, max_size=MAX_DEPTH)):
        inner = wrapped(inner, ends, how)
        if framed:
            inner = (ethernet(inner[0]), 1)
    return packet, inner[0] if inner[1] == 1 else ethernet(inner[0])


@settings(max_examples=150, deadline=None)
@given(nests())
def test_innermost_gives_the_packet_however_it_is_wrapped(nest: tuple[bytes, bytes]) -> None:
    packet, data = nest
    assert one(data) == alone(packet)
    assert one(data, Layer.AUTO) == alone(packet)


@settings(max_examples=150, deadline=None)
@given(nests(), st.data())
def test_cut_and_changed_frames_are_read_no_further_and_have_one_outcome(
    nest: tuple[bytes, bytes], chance: st.DataObject
) -> None:
    """`rows` compares what stands around the frames; tests/property runs the like with every index checked."""
    data = bytearray(nest[1])
    for at in chance.draw(st.lists(st.integers(0, len(data) - 1), max_size=4)):
        data[at] = chance.draw(st.integers(0, 255))
    cut = bytes(data[: chance.draw(st.integers(0, len(data)))])
    for layer in Layer:
        told = one(cut, layer, length=len(data))
        assert Outcome(told["outcome"]) != Outcome.ELSEWHERE
        if told["outcome"] != Outcome.PARSED:
            assert told["ip_bytes"] == 0
            assert told["inner_at"] == -1
        assert told["inner_at"] < len(cut)


def test_ordinary_traffic_is_not_looked_at_again() -> None:
    frames = batch([Frame(1, FRAME4), Frame(2, FRAME6), Frame(3, to_port(53, bytes(40)))])
    decoder = Decoder()
    packets = decoder.decode(frames)
    before = [np.copy(getattr(packets, name)) for name in COLUMNS]
    assert not any(decoder.unwrap(frames, packets, layer) for layer in Layer)
    assert all(np.array_equal(a, getattr(packets, name)) for a, name in zip(before, COLUMNS, strict=True))
