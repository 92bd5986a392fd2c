"""Tunnels in captures from elsewhere, and as scapy builds them: the innermost packet is the one that others find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from tests.captures import SHARED, Frame, batch, corpus, needs_shared, replayed
from tests.decode.tunnel_oracle import innermost
from tests.tshark import needs_tshark

from adumbra.decode.packets import Decoder
from adumbra.schema.records import Frames, Outcome, Packets
from adumbra.schema.sources import Layer
from adumbra.tap.replay import PcapReplay

NAMES = ("geneve", "vxlan", "gre", "erspan", "pptp")
DIFFERENCES = {
    "bigtcp-ipv4-geneve-ipv4.pcap": "tshark 4.0 ends at a UDP length of 0, which offload leaves; we use the wire's",
    "bigtcp-ipv6-geneve-ipv4.pcap": "the same, and it takes an IPv6 payload length of 0 for none",
    "wccp_redirect_gre.pcap": "WCCP's redirected packets are in GRE of protocol 0x883E, which we don't unwrap",
    "gre-over-udp-4754.pcap": "GRE in UDP (RFC 8086) is not unwrapped",
    "gre-pptp.pcap": "PPTP's GRE, of version 1, is not unwrapped",
    "geneve-truncated.pcapng": "the capture ends behind Geneve's header: the outer packet stays, tshark names an empty frame",
    "mpls-6in6-6in6-invalid-version-6.pcap": "the inner header is of no IP version: malformed here; tshark tells of the outer",
}
DIFFERENCES |= {
    name.replace("geneve", tunnel).replace("ipv4.pcap", f"{inner}.pcap"): DIFFERENCES[name]
    for name in ("bigtcp-ipv4-geneve-ipv4.pcap", "bigtcp-ipv6-geneve-ipv4.pcap")
    for tunnel in ("geneve", "vxlan")
    for inner in ("ipv4", "ipv6")
}


def unwrapped(decoder: Decoder, frames: Frames, layer: Layer = Layer.INNERMOST) -> Packets:
    packets = decoder.decode(frames)
    while decoder.unwrap(frames, packets, layer):
        pass
    return packets


def found(frames: list[Frame]) -> dict[int, tuple[Any, ...]]:
    """Of each frame whose innermost packet was read, by number from 0: what Innermost has, but for the layers."""
    p, told = unwrapped(Decoder(), batch(frames)), {}
    for i in range(len(p)):
        if p.outcome[i] == Outcome.PARSED:
            ends = [int(hi[i]) << 64 | int(lo[i]) for hi, lo in ((p.src_hi, p.src_lo), (p.dst_hi, p.dst_lo))]
            told[i] = (*ends, int(p.version[i]), int(p.ip_bytes[i]), (int(p.src_port[i]), int(p.dst_port[i])))
    return told


def tunnelled() -> list[Path]:
    return [
        path
        for path in corpus()
        if path.parent.name == "zeek-tunnels" or (path.parent.name != "pcap" and any(name in path.name for name in NAMES))
    ]


@needs_shared
@needs_tshark
def test_tshark_reads_the_same_innermost_packets(tmp_path: Path) -> None:
    frames, names = [], []
    for capture in tunnelled():
        some, _ = replayed(capture)
        frames += some
        names += [capture.name] * len(some)
    want, got = innermost(frames, tmp_path), found(frames)
    asked = {number: (p.src, p.dst, p.version, p.ip_bytes, p.ports) for number, p in want.items()}
    differing = {names[number] for number in range(len(frames)) if asked.get(number) != got.get(number)}
    assert differing == set(DIFFERENCES)
    assert len(asked.items() & got.items()) > 3500
    for tunnel in ("vxlan:eth", "geneve:eth", "gre:ip", "erspan:eth", "ip:ip", "ip:ipv6", "ipv6:ip", "ipv6:ipv6:ipv6"):
        assert any(tunnel in p.layers for number, p in want.items() if asked[number] == got.get(number)), tunnel


@needs_shared
@pytest.mark.parametrize("tunnel", ["geneve", "vxlan"])
@pytest.mark.parametrize("outside", ["ipv4", "ipv6"])
def test_offloaded_packets_beyond_64_kib(outside: str, tunnel: str) -> None:
    """Against the frame's length: Ethernet, outer IP, UDP and the tunnel's header take the rest."""
    heads = 14 + (20 if outside == "ipv4" else 40) + 8 + 8 + 14
    for inside in ("ipv4", "ipv6"):
        capture = SHARED / "tcpdump-tests" / f"bigtcp-{outside}-{tunnel}-{inside}.pcap"
        with PcapReplay(capture) as source:
            for frames in source:
                packets = unwrapped(Decoder(), frames)
                assert packets.version.tolist() == [int(inside[-1])] * len(packets)
                assert packets.ip_bytes.tolist() == (frames.length - heads).tolist()
                assert (packets.ip_bytes > 65535).all()


INNER = {
    "TCP": IP(src="10.0.0.1", dst="10.0.0.2")
    / TCP(sport=1234, dport=80, seq=7, options=[("Timestamp", (5, 6))])
    / Raw(b"hello"),
    "UDP over IPv6": IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=53, dport=99) / Raw(b"x"),
}
MAC = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
OUTER = Ether(**MAC) / IP(src="192.0.2.1", dst="192.0.2.2")
BY_SCAPY = {
    "VXLAN": OUTER / UDP(dport=4789) / VXLAN(vni=5, flags=8) / Ether(**MAC),
    "VXLAN of a tagged frame": OUTER / UDP(dport=4789) / VXLAN(vni=5, flags=8) / Ether(**MAC) / Dot1Q(vlan=4),
    "VXLAN in VXLAN": OUTER / UDP(dport=4789) / VXLAN(flags=8) / OUTER / UDP(dport=8472) / VXLAN(flags=8) / Ether(**MAC),
    "Geneve": OUTER / UDP(dport=6081) / GENEVE(vni=5) / Ether(**MAC),
    "Geneve of IP": OUTER / UDP(dport=6081) / GENEVE(vni=5),
    "VXLAN in Geneve": OUTER / UDP(dport=6081) / GENEVE() / OUTER / UDP(dport=4789) / VXLAN(flags=8) / Ether(**MAC),
    "GRE": OUTER / GRE(),
    "GRE with key and sequence": OUTER / GRE(key_present=1, seqnum_present=1, key=9, sequence_number=3),
    "ERSPAN II": OUTER / GRE(proto=0x88BE, seqnum_present=1) / ERSPAN_II() / Ether(**MAC),
    "ERSPAN III": OUTER / GRE(proto=0x22EB, seqnum_present=1) / ERSPAN_III() / Ether(**MAC),
    "IP in IP": OUTER,
}


@pytest.mark.parametrize("inside", INNER)
@pytest.mark.parametrize("around", BY_SCAPY)
def test_what_scapy_wraps(around: str, inside: str) -> None:
    packet: Packet = BY_SCAPY[around] / INNER[inside]
    frames, alone = batch([Frame(1, bytes(packet))]), batch([Frame(1, bytes(INNER[inside]), link=101)])
    got, want = unwrapped(Decoder(), frames), Decoder().decode(alone)
    for name in Packets.__slots__:
        assert getattr(got, name).tolist() == getattr(want, name).tolist(), name
