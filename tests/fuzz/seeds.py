"""Inputs to begin from: what our own builders write, of every format, with made-up values. python -m tests.fuzz.seeds FOLDER"""

from __future__ import annotations

import gzip
import json
import struct
import sys
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path

import zstandard
from tests.captures import (
    ACK,
    BRIDGED,
    CHECKSUM,
    FIN,
    IPV4,
    IPV6,
    KEY,
    PSH,
    RST,
    SEQUENCE,
    SYN,
    Frame,
    block,
    enhanced,
    erspan,
    ethernet,
    geneve,
    gre,
    interface,
    ip,
    obsolete,
    pcap,
    pcapng,
    section,
    simple,
    statistics,
    tcp,
    udp,
    vxlan,
)  # fmt: skip
from tests.decode.exports import (
    FLOW,
    flow,
    flow_sample,
    ipfix,
    options_ipfix,
    options_v9,
    raw_header,
    record,
    set_of,
    sflow,
    templates,
    v5,
    v5_record,
    v9,
    xdr,
)
from tests.decode.flow_log_lines import ZEEK_FIELDS, connection, document, gcp, nsg, vnet, zeek
from tests.fuzz.targets import LINKS, joined
from tests.meter.stories import CLIENT, CLIENT6, DB, SIX, WEB, Talk, datagram, segment

from adumbra.decode.templates import VARIABLE
from adumbra.schema.records import Link

_V2 = "2 123456789010 eni-1 198.18.0.1 10.20.1.10 40000 443 6 20 4249 1700000010 1700000070 ACCEPT OK"
_T0 = 1_700_000_000_000


# ---- frames --------------------------------------------------------------------------------------------------------------


def stories() -> dict[str, list[Frame]]:
    """What a meter tells apart: handshakes, order, timestamps, scans, datagrams, both versions of IP."""
    told: dict[str, list[Frame]] = {name: [] for name in ("whole", "order", "scan", "listed", "six", "ends", "again")}
    Talk(told["whole"]).opens(0).asks(0.1, 30).replies(0.2, 60).asks(1.1, 20).replies(1.3, 9).closes(2)
    talk = Talk(told["order"]).opens(0).asks(0.1, 20).replies(0.2, 40)
    talk.repeats(0.3, 40, 40, by_client=False).repeats(0.31, 10, -30, by_client=False).repeats(0.312, 30, 0, by_client=False)
    talk.ack(0.4).ack(0.41).ack(0.42).repeats(0.5, 1, 1, by_client=True)
    for k in range(12):
        Talk(told["scan"], client="203.0.113.66", service=k + 1, port=50_000, isn=k).syn(k / 50)
        Talk(told["listed"], client="203.0.113.66", server=DB, service=k + 1, port=50_000, isn=k).syn(k / 50)
    for k in range(4):
        Talk(told["listed"], client="203.0.113.66", server=DB, service=90 + k).opens(1 + k).asks(1.1 + k, 8)
    Talk(told["six"], CLIENT6, SIX).opens(0).asks(0.1, 20).replies(0.2, 20).fin(0.3).rst(0.4)
    Talk(told["ends"]).syn(0).rst(0.01, by_client=False)
    Talk(told["ends"], port=40001).opens(0.1).rst(0.2)
    Talk(told["ends"], port=40002, service=9999).syn(0.3).syn_again(1.3).syn_again(3.3)
    Talk(told["again"]).opens(0).asks(0.1, 4).closes(1)
    Talk(told["again"], isn=77).opens(2).asks(2.1, 4).replies(2.2, 4)
    told["stamps"] = stamped()
    told["datagrams"] = [
        datagram(0, CLIENT, WEB), datagram(0.1, WEB, CLIENT, 53, 5000, 60), datagram(0.2, DB, WEB, 7000, 53),
        datagram(0.3, "203.0.113.66", WEB, 9000, 161), datagram(9, CLIENT, "10.20.99.1"), datagram(90, CLIENT, WEB),
    ]  # fmt: skip
    return told


def stamped() -> list[Frame]:
    """A connection with timestamps, zero windows, and probes of them."""
    to, back = (CLIENT, 40000, WEB, 80), (WEB, 80, CLIENT, 40000)
    return [
        segment(0, to, SYN, 10, 0, stamps=(1, 0)), segment(0.01, back, SYN | ACK, 90, 11, stamps=(7, 1)),
        segment(0.02, to, ACK, 11, 91, stamps=(2, 7)), segment(0.03, to, PSH | ACK, 11, 91, 20, stamps=(3, 7)),
        segment(0.05, back, ACK, 91, 31, stamps=(8, 3), window=0), segment(0.06, back, PSH | ACK, 91, 31, 20, stamps=(9, 3)),
        segment(0.08, to, ACK, 31, 111, stamps=(4, 9)), segment(0.3, to, ACK, 31, 111, 1, window=0, stamps=(5, 9)),
        segment(1.4, back, ACK, 111, 32, stamps=(12, 5)), segment(1.5, back, FIN | ACK, 111, 32, stamps=(13, 5)),
        segment(1.6, to, FIN | ACK, 32, 112, stamps=(14, 13)), segment(1.7, to, RST, 33, 0),
    ]  # fmt: skip


def tunnelled() -> dict[str, list[bytes]]:
    """Frames of every tunnel and encapsulation that is read."""
    inner = ip(CLIENT, WEB, 6, tcp(40000, 80, SYN, 7))
    six = ip(CLIENT6, SIX, 17, udp(5000, 53, b"question"))
    frame, foreign = ethernet(inner), ("203.0.113.9", "203.0.113.8")
    extended = bytes([60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 1]) + udp(53, 9, b"answer")
    wraps = [
        (17, udp(9, 4789, vxlan(frame))), (17, udp(9, 8472, vxlan(six, flags=12, named=2))),
        (17, udp(9, 6081, geneve(inner, IPV4, bytes(12)))), (47, gre(inner, IPV4, KEY)), (4, inner), (41, six),
        (17, udp(9, 6081, geneve(ip(*foreign, 17, udp(9, 4789, vxlan(frame))), IPV4))), (47, erspan(frame, 1)),
        (47, gre(frame, BRIDGED, CHECKSUM | SEQUENCE)), (47, erspan(frame, 2)), (47, erspan(frame, 3, optional=True)),
    ]  # fmt: skip
    deep = inner
    for _ in range(5):
        deep = ip(*foreign, 4, deep)
    snap = bytes.fromhex("aaaa030000000800")
    return {
        "tunnels": [ethernet(ip(*foreign, protocol, payload)) for protocol, payload in wraps],
        "headers": [
            ethernet(deep), ethernet(bytes.fromhex("00640800") + inner, 0x8100), ethernet(b"\0\1\1\x40" + inner, 0x8847),
            ethernet(b"\x11\0\0\1\0\x40\0\x21" + inner, 0x8864), ethernet(snap + inner, 60),
            ethernet(ip(CLIENT6, SIX, 0, extended)),
            ethernet(ip(SIX, CLIENT6, 51, bytes([6, 4]) + bytes(22) + tcp(80, 40000, SYN | ACK, 3, 8))),
            ethernet(six), ethernet(ip(CLIENT, WEB, 132, bytes(12))), ethernet(ip(CLIENT, WEB, 1, bytes(8))),
            ethernet(b"arp", 0x0806),
        ],
    }  # fmt: skip


def linked() -> dict[int, list[bytes]]:
    """The same few packets by each link type that isn't Ethernet."""
    syn, answer = ip(CLIENT, WEB, 6, tcp(40000, 80, SYN, 7)), ip(WEB, CLIENT, 6, tcp(80, 40000, SYN | ACK, 9, 8))
    six = ip(CLIENT6, SIX, 17, udp(5000, 53, b"question"))
    return {
        101: [syn, answer, six],
        113: [bytes(14) + struct.pack(">H", kind) + packet for kind, packet in ((IPV4, syn), (IPV4, answer), (IPV6, six))],
        276: [struct.pack(">H", kind) + bytes(18) + packet for kind, packet in ((IPV4, syn), (IPV4, answer), (IPV6, six))],
        0: [b"\2\0\0\0" + syn, b"\0\0\0\2" + answer, b"\x1e\0\0\0" + six],
        int(Link.VXLAN): [vxlan(ethernet(syn)), vxlan(ethernet(answer)), vxlan(six, flags=12, named=2)],
        int(Link.GENEVE): [geneve(ethernet(syn)), geneve(answer, IPV4, bytes(8)), geneve(six, IPV6)],
        int(Link.GRE): [gre(ethernet(syn), BRIDGED), erspan(ethernet(answer), 2), erspan(ethernet(six), 3)],
    }


def step_code(step: int) -> int:
    """The code of a step in time that is about as long: see targets.step_ns."""
    size = min(63, round((abs(step) / 100_000) ** (1 / 3)))
    return size | (0x80 if step < 0 else 0)


def timed(first: int, given: Iterable[Frame]) -> bytes:
    rows = sorted(given, key=lambda frame: frame.time_ns)
    before = [rows[0].time_ns, *(row.time_ns for row in rows)]
    parts = [bytes([step_code(row.time_ns - last)]) + row.data for row, last in zip(rows, before, strict=False)]
    return joined("frames", first, parts)


def frames() -> list[bytes]:
    bounds = (0, 1, 2, 6, 7)  # from 6 on, two workers share it
    made = [timed(24 * each + (8 if name == "whole" else 0), told) for name, told in stories().items() for each in bounds]
    for data in tunnelled().values():
        made += [joined("frames", 8 * layer, [b"\x0a" + each for each in data]) for layer in (0, 1, 2, 18, 19)]
    for link, data in linked().items():
        made.append(joined("frames", LINKS.index(link) + 24, [b"\x0a" + each for each in data]))
    packet = ethernet(ip(CLIENT, WEB, 17, udp(5000, 53)))
    return [*made, joined("frames", 0, [bytes([step]) + packet for step in (0, 0x55, 0xFF, 0x3F, 0xC4)])]


# ---- captures and rings --------------------------------------------------------------------------------------------------


def captures() -> list[bytes]:
    whole, odd = stories()["whole"], stories()["datagrams"]
    made = [pcap(whole[:6], kind, order) for kind in ("us", "ns", "modified") for order in "<>"]
    made += [pcapng(whole[:6], order) for order in "<>"]
    syn = whole[0].data
    made += [
        section() + interface(resolution=9, offset_s=5) + interface(113, 68) + enhanced(1 << 40, syn, dropped=7)
        + simple(syn, 99) + obsolete(5, syn, dropped=2) + statistics(0, 5, 6) + block(0x0BAD, b"opaque") + section(">")
        + interface(order=">"),
        pcap([frame.cut(40) for frame in odd], "ns"), pcap(odd, "us", link=101), pcap(odd[:2], "us", version=(2, 3)),
        gzip.compress(pcap(whole[:4], "ns"), mtime=0), zstandard.compress(pcapng(whole[:4])), pcap(whole[:3])[:-9],
        exported(2055, [*netflow()[0], *netflow()[1]]), exported(6343, sampled()),
        netflow()[0][0] * 2, netflow()[2][0] * 2, netflow()[1][0], sampled()[0],
    ]  # fmt: skip
    return made


def exported(port: int, payloads: Iterable[bytes]) -> bytes:
    """A capture of an exporter's datagrams."""
    return pcap([Frame(9, ethernet(ip("192.0.2.1", "192.0.2.9", 17, udp(9, port, payload)))) for payload in payloads])


def rings() -> list[bytes]:
    made = []
    for first, name in enumerate(("whole", "stamps", "six")):
        given, body = stories()[name][:10], b""
        for i, frame in enumerate(given):
            room = (82 + len(frame.data) + 7) // 8 * 8
            seconds, rest = divmod(frame.time_ns, 10**9)
            ahead = room if i < len(given) - 1 else 0
            head = struct.pack("=6I2H", ahead, seconds, rest, len(frame.data), len(frame.data), 0x51, 82, 96)
            body += (head.ljust(82, b"\0") + frame.data).ljust(room, b"\0")
        head = struct.pack("=6IQ4I", 1, 48, 1, len(given), 48, 48 + len(body), 9, 1, 2, 3, 4)
        made.append(bytes([first + 4 * 9]) + head + body)
    return made


# ---- flow exports --------------------------------------------------------------------------------------------------------


def netflow() -> list[list[bytes]]:
    """NetFlow v5, v9, IPFIX: templates, data, options, what comes before its template, what withdraws one."""
    ends = {"src": CLIENT, "dst": WEB}
    six = ((27, 16), (28, 16), (7, 2), (11, 2), (4, 1), (1, 4), (2, 4))
    strings = ((8, 4), (82, VARIABLE), (12, 4), (1, 4), (2, 4), (1, 4, 29305), (2, 4, 29305), (371, VARIABLE), (4, 1))
    named = record(strings, CLIENT, b"eth0", WEB, 77, 3, 40, 1, b"", 17)
    times = ((8, 4), (12, 4), (4, 1), (1, 8), (2, 8), (152, 8), (153, 8), (6, 2))
    timed_row = record(times, CLIENT, WEB, 6, 900, 9, _T0 - 5000, _T0 - 1000, 0x1B)
    six_row = record(six, CLIENT6, SIX, 5, 53, 17, 99, 1)
    header = ((104, VARIABLE), (305, 4))
    sampled_header = record(header, ethernet(ip(CLIENT, WEB, 6, tcp(40000, 80, SYN))), 10)
    return [
        [v5(v5_record(**ends, flags=SYN), v5_record(WEB, CLIENT, (80, 40000)), sampling=0x400A)],
        [v9(templates({256: FLOW}), set_of(256, flow(**ends, flags=SYN | ACK) * 3)), v9(set_of(256, flow(**ends)), sequence=4)],
        [ipfix(templates({256: strings}, 2), set_of(256, named + named)), ipfix(templates({256: ()}, 2), sequence=2)],
        [v9(set_of(300, flow(**ends) * 2)), b"", v9(templates({300: FLOW}), sequence=1)],
        [v9(options_v9(400, ((1, 4),), ((48, 1), (50, 4))), set_of(400, struct.pack(">IBI", 1, 1, 10)))],
        [ipfix(options_ipfix(300, ((302, 8),), ((305, 4), (306, 4))), set_of(300, struct.pack(">QII", 1, 1, 9)))],
        [ipfix(options_ipfix(301, ((82, VARIABLE),), ((34, 4),)), set_of(301, b"\4eth0\0\0\0\x40"))],
        [ipfix(templates({256: times, 257: six}, 2), set_of(256, timed_row * 2), set_of(257, six_row))],
        [ipfix(templates({260: header}, 2), set_of(260, sampled_header))],
    ]  # fmt: skip


def sampled() -> list[bytes]:
    syn = ethernet(ip(CLIENT, WEB, 6, tcp(40000, 80, SYN)))
    tagged = ethernet(bytes.fromhex("00640800") + ip(WEB, CLIENT, 17, udp(53, 9)), 0x8100)
    bare = struct.pack(">II", 60, 17) + bytes([198, 18, 0, 1, 10, 20, 1, 10]) + struct.pack(">IIII", 5000, 53, 0, 0)
    return [
        sflow(flow_sample(raw_header(syn), raw_header(tagged), rate=10), xdr(2, bytes(12))),
        sflow(flow_sample(raw_header(ip(CLIENT, WEB, 6, tcp(1, 2, SYN)), 11), expanded=True, drops=9), sequence=5),
        sflow(flow_sample(xdr(3, bare), rate=0), sequence=2, agent="2001:db8::9", sub_agent=3),
    ]  # fmt: skip


def exports() -> list[bytes]:
    made = []
    for number, payloads in enumerate([*netflow(), *([each] for each in sampled())]):
        of_one = [each for payload in payloads for each in (payload, b"")]  # every other piece is the second exporter's
        made += [joined("exports", first, of_one) for first in (number % 3, 3 + number % 4)]
    made.append(joined("exports", 8, [payload for payloads in netflow()[:4] for payload in payloads]))
    return made


# ---- logs ----------------------------------------------------------------------------------------------------------------


def logs() -> list[bytes]:
    own = "10.20.1.10"
    pretty = json.dumps(gcp(), indent=1).split("\n")
    flow_, begun = f"198.18.0.1,{own},40000,443,6,I", f"{_T0},198.18.0.1,{own},40000,443,6,I,B,NX,0,0,0,0"
    texts: list[list[str]] = [
        [_V2, _V2.replace("443 6", "53 17"), "2 1 eni-2 - - - - - - - 1700000000 1700000060 - NODATA"],
        ["bytes packets end start protocol dstport srcport dstaddr srcaddr version tcp-flags",
         f"7 1 1700000020 1700000010 6 53 9 {own} 2.2.2.2 3 2"],
        ["interface-id pkt-srcaddr pkt-dstaddr srcaddr dstaddr srcport dstport protocol bytes start end action flow-direction",
         f"eni-b 198.18.0.1 {own} 10.0.0.1 10.0.0.2 5 80 6 100 0 60 REJECT ingress"],
        [json.dumps({"srcaddr": "198.18.0.1", "dstaddr": own, "start": 5, "end": "6", "tcp_flags": 2, "protocol": 6})],
        [json.dumps({"messageType": "DATA_MESSAGE", "logEvents": [{"id": "1", "timestamp": 1, "message": _V2}] * 2})],
        zeek([connection(), connection(conn_state="S0", history="S", resp_bytes="-")]),
        zeek([connection(proto="udp", missed_bytes=7)], ZEEK_FIELDS[:11]),
        [json.dumps(connection(**{"id.orig_h": "2001:db8:ffff::1", "id.resp_h": "2001:db8:20::10"}))],
        [json.dumps({**connection(), "id": {"orig_h": "198.18.0.1", "orig_p": 5, "resp_h": own, "resp_p": 80}})],
        pretty, [json.dumps([gcp(), gcp(reporter="DEST")])], [json.dumps(gcp(bytes_sent=5, rtt_msec=None))],
        document([vnet(begun, f"{_T0 + 60_000},{flow_},C,NX,10,2000,8,9000", f"{_T0 + 70_000},{flow_},E,NX,3,300,2,200")]),
        document([vnet(f"{_T0},{flow_},D,NX,0,0,0,0"), nsg(f"1700000000,198.18.0.1,{own},40000,443,T,I,D,B,,,,")], indent=1),
        [json.dumps(nsg(f"1700000000,198.18.0.1,{own},40000,53,U,I,A", version=1))],
    ]  # fmt: skip
    return [bytes([48 + number % 3]) + "\n".join(lines).encode() for number, lines in enumerate(texts)]


SEEDS = {"capture": captures, "frames": frames, "exports": exports, "logs": logs, "ring": rings}


def write(folder: Path) -> None:
    """Each target's seeds in a folder of its name, by their hashes."""
    for name, made in SEEDS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for data in made():
            (folder / name / sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
