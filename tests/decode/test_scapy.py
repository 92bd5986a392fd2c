"""Packets that scapy builds: each column is what scapy itself reads in them."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN
from scapy.layers.l2 import ARP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw
from tests.captures import Frame, batch

from adumbra.decode.packets import Decoder
from adumbra.schema.records import Outcome

MAC = "02:00:00:00:00:02"
ports, numbers = st.integers(0, 65535), st.integers(0, 2**32 - 1)
addresses4 = st.integers(0, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n)))
addresses6 = st.integers(0, 2**128 - 1).map(lambda n: str(ipaddress.IPv6Address(n)))
tcp_options = st.sampled_from(
    [[], [("MSS", 1460)], [("Timestamp", (1, 2)), ("NOP", None)], [("SAck", (1, 2))], [("WScale", 7)]]
)
transports = st.one_of(
    st.builds(TCP, sport=ports, dport=ports, seq=numbers, ack=numbers, flags=st.integers(0, 255), options=tcp_options),
    st.builds(UDP, sport=ports, dport=ports),
    st.builds(ICMP),
)
payloads = st.binary(max_size=60).map(Raw)
extensions = st.lists(
    st.sampled_from([
        IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]), IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)]),
        IPv6ExtHdrRouting(addresses=["2001:db8::9"]), IPv6ExtHdrFragment(offset=0, m=1, id=5),
    ]),
    max_size=4,
)  # fmt: skip


@st.composite
def packets(draw: st.DrawFn) -> tuple[Packet, Packet, int]:
    """A link frame by scapy, the IP packet in it, and its link type."""
    if draw(st.booleans()):
        options = draw(st.sampled_from([[], [IPOption(b"\x94\x04\0\0")], [IPOption(b"\x01")] * 7]))
        offset = draw(st.sampled_from([0, 0, 0, 1, 185, 8191]))
        network = IP(src=draw(addresses4), dst=draw(addresses4), options=options, frag=offset, flags=draw(st.integers(0, 3)))
    else:
        network = IPv6(src=draw(addresses6), dst=draw(addresses6))
        for extension in draw(extensions):
            network /= extension.copy()
    network = network / draw(transports) / draw(payloads)
    link = draw(st.sampled_from([1, 101, 113, 276]))
    if link == 101:
        return network, network, link
    inner, kind = network, 0x0800 if network.version == 4 else 0x86DD
    for tag in draw(st.lists(st.sampled_from([Dot1Q, Dot1AD]), max_size=3)):
        inner, kind = tag(vlan=draw(st.integers(0, 4095)), type=kind) / inner, 0x8100 if tag is Dot1Q else 0x88A8
    if link == 1:
        return Ether(dst=MAC, src="02:00:00:00:00:01", type=kind) / inner, network, link
    return (CookedLinux if link == 113 else CookedLinuxV2)(proto=kind) / inner, network, link


def read_by_scapy(network: Packet) -> dict[str, Any]:
    source, target = (int(ipaddress.ip_address(address)) for address in (network.src, network.dst))
    row: dict[str, Any] = {"version": network.version, "src": source, "dst": target}
    row["ip_bytes"] = network.len if network.version == 4 else network.plen + 40
    none = {"src_port": 0, "dst_port": 0, "flags": 0, "seq": 0, "ack": 0, "payload_bytes": -1}
    segment, datagram = network.getlayer(TCP), network.getlayer(UDP)
    if segment is not None:
        rest = len(segment.payload)
        seen = {"src_port": segment.sport, "dst_port": segment.dport, "flags": int(segment.flags) & 0xFF}
        return row | seen | {"seq": segment.seq, "ack": segment.ack, "payload_bytes": rest}
    if datagram is not None:
        return row | none | {"src_port": datagram.sport, "dst_port": datagram.dport, "payload_bytes": len(datagram.payload)}
    return row | none


@settings(max_examples=400, deadline=None)
@given(st.lists(packets(), min_size=1, max_size=4))
def test_columns_are_what_scapy_reads(built: list[tuple[Packet, Packet, int]]) -> None:
    frames = [Frame(k, bytes(frame), link=link) for k, (frame, _, link) in enumerate(built)]
    columns = Decoder().decode(batch(frames))
    for i, (frame, network, _) in enumerate(built):
        assert columns.outcome[i] == Outcome.PARSED
        want = read_by_scapy(type(network)(bytes(network)))
        got = {
            "version": columns.version[i],
            "src": int(columns.src_hi[i]) << 64 | int(columns.src_lo[i]),
            "dst": int(columns.dst_hi[i]) << 64 | int(columns.dst_lo[i]),
            **{name: int(getattr(columns, name)[i]) for name in want if name not in {"version", "src", "dst"}},
        }
        assert got == want, repr(frame)


def test_other_protocols_are_not_ip() -> None:
    frames = [Frame(0, bytes(Ether(dst=MAC) / ARP())), Frame(0, bytes(Ether(dst=MAC) / Dot1Q(vlan=3) / ARP()))]
    assert Decoder().decode(batch(frames)).outcome.tolist() == [Outcome.NOT_IP, Outcome.NOT_IP]
