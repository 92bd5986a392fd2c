"""Frames in, exact columns out: every link type, the headers between, and what each cut or broken frame is counted as."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from tests.captures import ACK, IPV4, IPV6, PSH, SYN, Frame, batch, ethernet, geneve, gre, ip, tcp, udp, vxlan

from adumbra.decode.packets import LINK_TYPES, Decoder
from adumbra.schema.records import Link, Outcome, Packets

PARSED, NOT_IP, UNKNOWN, LINK_CUT, IP_CUT, BROKEN, ELSEWHERE = Outcome
A4, B4, A6, B6 = "10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::ffff:2"
SEGMENT = tcp(40000, 80, PSH | ACK, 1000, 2000, b"hello")
DATAGRAM = udp(53, 40000, b"answer")
TCP4, TCP6 = ip(A4, B4, 6, SEGMENT), ip(A6, B6, 6, SEGMENT)
UDP4 = ip(A4, B4, 17, DATAGRAM)

Row = dict[str, Any]


def decoded(*frames: Frame) -> list[Row]:
    """The columns of each frame; the same whatever bytes lie around the frames."""
    decoder = Decoder()
    tables = []
    for filler in (0x00, 0xFF, 0x45):
        packets = decoder.decode(batch(frames, filler))
        names = [f.name for f in fields(Packets) if f.name not in {"src_vm", "dst_vm"}]
        tables.append([{name: int(getattr(packets, name)[i]) for name in names} for i in range(len(packets))])
    assert tables[0] == tables[1] == tables[2]
    return tables[0]


def one(data: bytes, link: int = 1, length: int | None = None) -> Row:
    return decoded(Frame(77, data, length, link))[0]


def blank(outcome: Outcome) -> Row:
    none = {"time_ns": 77, "payload_bytes": -1, "inner_at": -1}
    columns = [f.name for f in fields(Packets) if f.name not in {"src_vm", "dst_vm"}]
    return dict.fromkeys(columns, 0) | none | {"outcome": outcome}


def packet(src: str, dst: str, protocol: int, ip_bytes: int, **transport: int) -> Row:
    source, target = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    low = (1 << 64) - 1
    ends = {"src_hi": int(source) >> 64, "src_lo": int(source) & low, "dst_hi": int(target) >> 64, "dst_lo": int(target) & low}
    return blank(PARSED) | {"version": source.version, "protocol": protocol, "ip_bytes": ip_bytes} | ends | transport


SEGMENT_COLUMNS = {"src_port": 40000, "dst_port": 80, "flags": PSH | ACK, "seq": 1000, "ack": 2000, "window": 65535}
SEGMENT_COLUMNS["payload_bytes"] = 5
WANT_TCP4 = packet(A4, B4, 6, 45, **SEGMENT_COLUMNS)
WANT_TCP6 = packet(A6, B6, 6, 65, **SEGMENT_COLUMNS)
WANT_UDP4 = packet(A4, B4, 17, 34, src_port=53, dst_port=40000, payload_bytes=6)


def tag(kind: int, inner: bytes, of: int = 0x8100) -> bytes:
    """What follows an Ethernet header's ethertype `of`: a VLAN tag and what it holds."""
    return struct.pack(">HH", 0x0064, kind) + inner


def snap(kind: int, inner: bytes) -> bytes:
    return bytes.fromhex("aaaa03000000") + struct.pack(">H", kind) + inner


def pppoe(protocol: int, inner: bytes) -> bytes:
    return struct.pack(">BBHHH", 0x11, 0, 1, len(inner) + 2, protocol) + inner


def labels(count: int, inner: bytes) -> bytes:
    stack = [struct.pack(">I", (16 + k) << 12 | (0x100 if k == count - 1 else 0) | 64) for k in range(count)]
    return b"".join(stack) + inner


def sll(kind: int, inner: bytes) -> bytes:
    return struct.pack(">HHH8sH", 0, 1, 6, b"\2" * 8, kind) + inner


def sll2(kind: int, inner: bytes) -> bytes:
    return struct.pack(">HHIHBB8s", kind, 0, 3, 1, 0, 6, b"\2" * 8) + inner


LINKS = {
    "Ethernet, IPv4": (1, ethernet(TCP4), WANT_TCP4),
    "Ethernet, IPv6": (1, ethernet(TCP6), WANT_TCP6),
    "VLAN": (1, ethernet(tag(IPV4, TCP4), 0x8100), WANT_TCP4),
    "QinQ": (1, ethernet(tag(0x8100, tag(IPV6, TCP6)), 0x88A8), WANT_TCP6),
    "the tags of old QinQ": (1, ethernet(tag(0x9200, tag(IPV4, TCP4)), 0x9100), WANT_TCP4),
    "seven tags": (1, ethernet(tag(0x8100, b"") * 6 + tag(IPV4, TCP4), 0x8100), WANT_TCP4),
    "tags without end": (1, ethernet(tag(0x8100, b"") * 9 + tag(IPV4, TCP4), 0x8100), blank(NOT_IP)),
    "a VLAN tag alone": (1, ethernet(b"\0\1", 0x8100), blank(LINK_CUT)),
    "MPLS": (1, ethernet(labels(1, TCP4), 0x8847), WANT_TCP4),
    "three labels, IPv6": (1, ethernet(labels(3, TCP6), 0x8848), WANT_TCP6),
    "MPLS in a VLAN": (1, ethernet(tag(0x8847, labels(2, UDP4)), 0x8100), WANT_UDP4),
    "MPLS with Ethernet inside": (1, ethernet(labels(1, b"\0\0\0\0" + ethernet(TCP4)), 0x8847), blank(NOT_IP)),
    "labels without end": (1, ethernet(struct.pack(">I", 0x10040) * 9 + TCP4, 0x8847), blank(NOT_IP)),
    "a cut label": (1, ethernet(b"\0\0\1", 0x8847), blank(LINK_CUT)),
    "a label and nothing": (1, ethernet(labels(1, b""), 0x8847), blank(LINK_CUT)),
    "PPPoE, IPv4": (1, ethernet(pppoe(0x21, TCP4), 0x8864), WANT_TCP4),
    "PPPoE, IPv6": (1, ethernet(pppoe(0x57, TCP6), 0x8864), WANT_TCP6),
    "PPPoE, LCP": (1, ethernet(pppoe(0xC021, TCP4), 0x8864), blank(NOT_IP)),
    "PPPoE discovery": (1, ethernet(pppoe(0x21, TCP4), 0x8863), blank(NOT_IP)),
    "PPPoE cut": (1, ethernet(pppoe(0x21, b"")[:7], 0x8864), blank(LINK_CUT)),
    "SNAP": (1, ethernet(snap(IPV4, TCP4), 53), WANT_TCP4),
    "SNAP in a VLAN": (1, ethernet(tag(73, snap(IPV6, TCP6)), 0x8100), WANT_TCP6),
    "SNAP of another protocol": (1, ethernet(snap(0x809B, b"appletalk"), 17), blank(NOT_IP)),
    "SNAP with a length again": (1, ethernet(snap(8, TCP4), 17), blank(NOT_IP)),
    "SNAP cut": (1, ethernet(snap(IPV4, b"")[:7], 53), blank(LINK_CUT)),
    "LLC of spanning trees": (1, ethernet(bytes.fromhex("424203") + bytes(35), 38), blank(NOT_IP)),
    "LLC of spanning trees, cut": (1, ethernet(bytes.fromhex("4242"), 38), blank(NOT_IP)),
    "ARP": (1, ethernet(bytes(28), 0x0806), blank(NOT_IP)),
    "Ethernet cut": (1, ethernet(b"")[:13], blank(LINK_CUT)),
    "nothing at all": (1, b"", blank(LINK_CUT)),
    "Ethernet alone": (1, ethernet(b"", IPV4), blank(IP_CUT)),
    "IPv4 where IPv6 was said": (1, ethernet(TCP4, IPV6), blank(BROKEN)),
    "IPv6 where IPv4 was said": (1, ethernet(TCP6, IPV4), blank(BROKEN)),
    "RAW, IPv4": (101, TCP4, WANT_TCP4),
    "RAW, IPv6": (101, TCP6, WANT_TCP6),
    "RAW of BSD": (12, TCP4, WANT_TCP4),
    "RAW of OpenBSD": (14, TCP6, WANT_TCP6),
    "RAW, version 5": (101, b"\x55" + TCP4[1:], blank(BROKEN)),
    "RAW, empty": (101, b"", blank(LINK_CUT)),
    "IPV4": (228, TCP4, WANT_TCP4),
    "IPV4 with IPv6": (228, TCP6, blank(BROKEN)),
    "IPV6": (229, TCP6, WANT_TCP6),
    "IPV6 with IPv4": (229, TCP4, blank(BROKEN)),
    "NULL, little-endian, IPv4": (0, struct.pack("<I", 2) + TCP4, WANT_TCP4),
    "NULL, big-endian, IPv4": (0, struct.pack(">I", 2) + TCP4, WANT_TCP4),
    **{f"NULL, IPv6 as {family}": (0, struct.pack("<I", family) + TCP6, WANT_TCP6) for family in (10, 23, 24, 28, 30)},
    "NULL, another family": (0, struct.pack("<I", 7) + TCP4, blank(NOT_IP)),
    "NULL cut": (0, b"\2\0\0", blank(LINK_CUT)),
    "NULL alone": (0, struct.pack("<I", 2), blank(IP_CUT)),
    "LOOP": (108, struct.pack(">I", 2) + TCP4, WANT_TCP4),
    "LOOP, IPv6": (108, struct.pack(">I", 24) + TCP6, WANT_TCP6),
    "SLL": (113, sll(IPV4, TCP4), WANT_TCP4),
    "SLL with a VLAN tag": (113, sll(0x8100, tag(IPV6, TCP6)), WANT_TCP6),
    "SLL, ARP": (113, sll(0x0806, bytes(28)), blank(NOT_IP)),
    "SLL cut": (113, sll(IPV4, b"")[:15], blank(LINK_CUT)),
    "SLL2": (276, sll2(IPV6, TCP6), WANT_TCP6),
    "SLL2 cut": (276, sll2(IPV4, b"")[:19], blank(LINK_CUT)),
    "VXLAN's endpoint": (Link.VXLAN, vxlan(ethernet(TCP4)), WANT_TCP4),
    "Geneve's endpoint": (Link.GENEVE, geneve(TCP6, IPV6), WANT_TCP6),
    "GRE's endpoint": (Link.GRE, gre(TCP4, IPV4), WANT_TCP4),
    "a link type that isn't decoded": (105, ethernet(TCP4), blank(UNKNOWN)),
}


@pytest.mark.parametrize("name", LINKS)
def test_links(name: str) -> None:
    link, data, want = LINKS[name]
    assert one(data, link) == want


def test_the_table_has_every_link_type_that_is_said_to_be_decoded() -> None:
    assert {link for link, _, want in LINKS.values() if want["outcome"] == PARSED} == set(LINK_TYPES)


def v4(header: bytes, payload: bytes) -> bytes:
    return ethernet(header + payload, IPV4)


def head4(ihl: int = 5, total: int = 45, fragment: int = 0, protocol: int = 6, options: bytes = b"") -> bytes:
    ends = ipaddress.ip_address(A4).packed + ipaddress.ip_address(B4).packed
    return struct.pack(">BBHHHBBH", 4 << 4 | ihl, 0, total, 9, fragment, 64, protocol, 0) + ends + options


BARE, BARE_COLUMNS = tcp(1, 2, ACK), {"src_port": 1, "dst_port": 2, "flags": ACK, "window": 65535, "payload_bytes": 0}
CHUNK = struct.pack(">HHII", 36412, 2905, 0, 0) + bytes(8)
IPV4_CASES = {
    "options": (v4(head4(15, 85, options=b"\1" * 40), SEGMENT), WANT_TCP4 | {"ip_bytes": 85}),
    "padding of short frames": (v4(head4(total=40), BARE) + bytes(6), packet(A4, B4, 6, 40, **BARE_COLUMNS)),
    "the first fragment": (v4(head4(fragment=0x2000), SEGMENT), WANT_TCP4),
    "don't fragment": (v4(head4(fragment=0x4000), SEGMENT), WANT_TCP4),
    "a later fragment": (v4(head4(fragment=0x2000 | 185), SEGMENT), packet(A4, B4, 6, 45)),
    "the last fragment": (v4(head4(fragment=1, protocol=17), SEGMENT), packet(A4, B4, 17, 45)),
    "a total length of 0 (offload)": (v4(head4(total=0), SEGMENT), WANT_TCP4),
    "a total length above the frame": (v4(head4(total=1500), SEGMENT), WANT_TCP4 | {"ip_bytes": 1500, "payload_bytes": 1460}),
    "a header length of 16": (v4(head4(ihl=4), SEGMENT), blank(BROKEN)),
    "a total length below the header": (v4(head4(total=19), SEGMENT), blank(BROKEN)),
    "a total length below its options": (v4(head4(ihl=6, total=20, options=b"\1" * 4), SEGMENT), blank(BROKEN)),
    "options beyond the capture": (v4(head4(ihl=15, total=85), b"\1" * 8), packet(A4, B4, 6, 85)),
    "ICMP": (v4(head4(total=28, protocol=1), bytes(8)), packet(A4, B4, 1, 28)),
    "UDP": (ethernet(UDP4), WANT_UDP4),
    "UDP cut short by its IP length": (v4(head4(total=27, protocol=17), DATAGRAM), packet(A4, B4, 17, 27)),
    "SCTP": (v4(head4(total=40, protocol=132), CHUNK), packet(A4, B4, 132, 40, src_port=36412, dst_port=2905, payload_bytes=8)),
    "TCP with a data offset of 4": (v4(head4(), SEGMENT[:12] + b"\x40" + SEGMENT[13:]), packet(A4, B4, 6, 45)),
    "TCP with a header beyond its packet": (v4(head4(), SEGMENT[:12] + b"\xf0" + SEGMENT[13:]), packet(A4, B4, 6, 45)),
    "TCP of which the IP length leaves 19 bytes": (v4(head4(total=39), SEGMENT), packet(A4, B4, 6, 39)),
    "an IP header and nothing": (v4(head4(total=20), b""), packet(A4, B4, 6, 20)),
}  # fmt: skip


@pytest.mark.parametrize("name", IPV4_CASES)
def test_ipv4(name: str) -> None:
    data, want = IPV4_CASES[name]
    assert one(data) == want


def test_the_length_on_the_wire_stands_in_for_a_length_of_0() -> None:
    big = v4(head4(total=0), SEGMENT)
    assert one(big, length=70_014) == WANT_TCP4 | {"ip_bytes": 70_000, "payload_bytes": 69_960}
    big6 = ethernet(ip(A6, B6, 6, SEGMENT, length=0))
    assert one(big6, length=180_014) == WANT_TCP6 | {"ip_bytes": 180_000, "payload_bytes": 179_940}
    assert one(v4(head4(total=0), b"")[:33], length=60)["outcome"] == IP_CUT


def extension(following: int, units: int = 0) -> bytes:
    return bytes([following, units]) + b"\1\4" + bytes(4 + 8 * units)


def authentication(following: int) -> bytes:
    return bytes([following, 4]) + bytes(22)


def fragment(following: int, offset: int, more: bool) -> bytes:
    return struct.pack(">BBHI", following, 0, offset << 3 | more, 9)


def v6(kind: int, payload: bytes, length: int | None = None) -> bytes:
    return ethernet(ip(A6, B6, kind, payload, length))


IPV6_CASES = {
    "hop-by-hop": (v6(0, extension(6) + SEGMENT), WANT_TCP6 | {"ip_bytes": 73}),
    "routing": (v6(43, extension(6, 2) + SEGMENT), WANT_TCP6 | {"ip_bytes": 89}),
    "destination options": (v6(60, extension(6) + SEGMENT), WANT_TCP6 | {"ip_bytes": 73}),
    "mobility": (v6(135, extension(6) + SEGMENT), WANT_TCP6 | {"ip_bytes": 73}),
    "host identity": (v6(139, extension(6) + SEGMENT), WANT_TCP6 | {"ip_bytes": 73}),
    "shim6": (v6(140, extension(6) + SEGMENT), WANT_TCP6 | {"ip_bytes": 73}),
    "authentication": (v6(51, authentication(6) + SEGMENT), WANT_TCP6 | {"ip_bytes": 89}),
    "all of them": (
        v6(0, extension(60) + extension(43) + extension(51, 1) + authentication(44) + fragment(6, 0, False) + SEGMENT),
        WANT_TCP6 | {"ip_bytes": 65 + 8 + 8 + 16 + 24 + 8},
    ),
    "the first fragment": (v6(44, fragment(6, 0, True) + SEGMENT), WANT_TCP6 | {"ip_bytes": 73}),
    "a later fragment": (v6(44, fragment(6, 185, True) + SEGMENT), packet(A6, B6, 6, 73)),
    "no next header": (v6(59, b""), packet(A6, B6, 59, 40)),
    "no next header, in a padded frame": (v6(59, b"") + bytes(6), packet(A6, B6, 59, 40)),
    "encrypted": (v6(50, bytes(40)), packet(A6, B6, 50, 80)),
    "ICMPv6": (v6(58, bytes(8)), packet(A6, B6, 58, 48)),
    "an extension beyond the capture": (v6(0, extension(6, 9)[:8]), packet(A6, B6, 6, 48)),
    "an extension's first byte": (v6(0, b"\6"), packet(A6, B6, 0, 41)),
    "a fragment header cut": (v6(44, fragment(6, 0, True)[:7]), packet(A6, B6, 44, 47)),
    "15 extensions": (v6(60, extension(60) * 14 + extension(6) + SEGMENT), WANT_TCP6 | {"ip_bytes": 65 + 8 * 15}),
    "16 extensions": (v6(60, extension(60) * 15 + extension(6) + SEGMENT), blank(BROKEN)),
    "UDP": (v6(17, DATAGRAM), packet(A6, B6, 17, 54, src_port=53, dst_port=40000, payload_bytes=6)),
    "padding": (v6(17, DATAGRAM) + bytes(9), packet(A6, B6, 17, 54, src_port=53, dst_port=40000, payload_bytes=6)),
    "a payload length that ends in the transport header": (v6(6, SEGMENT, length=19), packet(A6, B6, 6, 59)),
}


@pytest.mark.parametrize("name", IPV6_CASES)
def test_ipv6(name: str) -> None:
    data, want = IPV6_CASES[name]
    assert one(data) == want


def test_cut_at_every_byte_it_says_what_was_read() -> None:
    whole = ethernet(tag(IPV4, head4(ihl=6, total=49, options=b"\1" * 4) + SEGMENT), 0x8100)
    want_whole = WANT_TCP4 | {"ip_bytes": 49}
    for cut in range(len(whole) + 1):
        got = one(whole[:cut], length=len(whole))
        if cut < 18:
            want = blank(LINK_CUT)
        elif cut < 18 + 20:
            want = blank(IP_CUT)
        elif cut < 18 + 24 + 20:
            want = packet(A4, B4, 6, 49)
        else:
            want = want_whole  # a payload that was cut off still counts by its length
        assert got == want, cut
    whole = v6(0, extension(17) + DATAGRAM)
    for cut in range(len(whole) + 1):
        got = one(whole[:cut], length=len(whole))
        read = 14 + 40
        if cut < 14:
            want = blank(LINK_CUT)
        elif cut < read:
            want = blank(IP_CUT)
        elif cut < read + 8 + 8:
            want = packet(A6, B6, 0 if cut < read + 2 else 17, 62)
        else:
            want = packet(A6, B6, 17, 62, src_port=53, dst_port=40000, payload_bytes=6)
        assert got == want, cut


@pytest.mark.parametrize("flags", [0, SYN, 0xFF])
def test_columns_at_their_bounds(flags: int) -> None:
    top = (1 << 32) - 1
    data = ethernet(ip("255.255.255.255", "0.0.0.0", 6, tcp(65535, 0, flags, top, top)))
    want = packet("255.255.255.255", "0.0.0.0", 6, 40, src_port=65535, flags=flags, seq=top, ack=top, payload_bytes=0)
    assert one(data) == want | {"window": 65535}
    all_ones = "ffff:" * 7 + "ffff"
    got = one(ethernet(ip(all_ones, "::", 17, udp(1, 2))))
    assert got == packet(all_ones, "::", 17, 48, src_port=1, dst_port=2, payload_bytes=0)


STAMPS = bytes.fromhex("080a0000000a0000000b")
NOP, SACK, MSS, SACK_OK = b"\1", bytes([5, 10]) + bytes(8), bytes([2, 4, 5, 180]), bytes([4, 2])
OPTIONS = {
    "as data segments have it": (NOP * 2 + STAMPS, True),
    "before the padding": (STAMPS + b"\0\0", True),
    "as SYNs have it": (MSS + SACK_OK + STAMPS + NOP + bytes([3, 3, 7]), True),
    "behind selective acknowledgements": (NOP * 2 + SACK + NOP * 2 + STAMPS, True),
    "at the very end": (NOP * 30 + STAMPS, True),
    "none": (MSS, False),
    "behind the end of the options": (b"\0\0" + STAMPS, False),
    "of another length": (NOP * 2 + b"\x08\x06" + bytes(8), False),
    "behind an option of length 0": (bytes([30, 0]) + STAMPS, False),
    "behind an option of length 1": (bytes([30, 1]) + STAMPS, False),
    "behind an option that leads beyond": (bytes([30, 40]) + STAMPS, False),
    "cut by the header's end": (NOP * 2 + STAMPS[:2], False),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_timestamps(name: str) -> None:
    options, there = OPTIONS[name]
    options += b"\0" * (-len(options) % 4)
    stamped = {"ts_value": 10, "ts_echo": 11} if there else {"ts_value": 0, "ts_echo": 0}
    behind = STAMPS + b"\0\0"  # a payload is no option
    segment = tcp(40000, 80, PSH | ACK, 1000, 2000, behind, options)
    got = one(ethernet(ip(A4, B4, 6, segment)))
    assert got == packet(A4, B4, 6, 20 + len(segment), **SEGMENT_COLUMNS | stamped | {"payload_bytes": 12})
    whole = ethernet(ip(A4, B4, 6, segment))
    last = 54 + options.find(STAMPS) + 10 if there else 0
    for cut in range(54, len(whole)):
        got = one(whole[:cut], length=len(whole))
        assert (got["ts_value"], got["ts_echo"]) == ((10, 11) if there and cut >= last else (0, 0)), cut
        assert got["payload_bytes"] == 12


def test_a_batch_leaves_nothing_behind_for_the_next() -> None:
    decoder = Decoder()
    first = decoder.decode(batch([Frame(1, ethernet(TCP6))] * 50))
    assert (first.payload_bytes == 5).all()
    second = decoder.decode(batch([Frame(2, b"", link=1), Frame(3, ethernet(UDP4)), Frame(4, ethernet(TCP6), link=999)]))
    assert len(second) == 3
    rows = [{f.name: int(getattr(second, f.name)[i]) for f in fields(Packets) if "vm" not in f.name} for i in range(3)]
    assert rows == [blank(LINK_CUT) | {"time_ns": 2}, WANT_UDP4 | {"time_ns": 3}, blank(UNKNOWN) | {"time_ns": 4}]
    assert len(decoder.decode(batch([]))) == 0


def test_outcomes_are_numbered_as_the_kernel_numbers_them() -> None:
    from adumbra.decode import kernels

    assert [getattr(kernels, outcome.name) for outcome in Outcome] == list(Outcome)
    assert np.uint8(len(Outcome)) == 7
