"""sFlow v5: sampled headers go through the packet decoder, all else is read or counted."""

from __future__ import annotations

import struct

import pytest
from tests.captures import ethernet, ip, tcp, udp
from tests.decode.exports import (
    EXPORT_NS,
    Row,
    balanced,
    datagrams,
    flow_sample,
    packed,
    raw_header,
    rows,
    sflow,
    xdr,
)

from adumbra.decode.flow_exports import FlowDecoder
from adumbra.schema.records import UNTOLD

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
A, B, A6, B6 = "10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"
FRAME = ethernet(ip(A, B, 17, udp(40000, 53, b"question")))
FRAME6 = ethernet(ip(A6, B6, 6, tcp(443, 40000, SYN | ACK)))
COUNTERS = struct.pack(">III", 1, 1, 0)


def decoded(*payloads: bytes) -> tuple[list[Row], dict[str, int]]:
    decoder, slow = FlowDecoder(), FlowDecoder()
    got = rows(decoder.decode(datagrams(payloads)))
    assert got == [row for payload in payloads for row in rows(slow.decode(datagrams([payload])))]
    assert decoder.accounts() == slow.accounts()
    assert balanced(decoder.accounts(), len(got))
    return got, {name: count for name, count in decoder.accounts().items() if count}


def told4(length: int, protocol: int, flags: int) -> bytes:
    return xdr(3, struct.pack(">II", length, protocol) + packed(A) + packed(B) + struct.pack(">IIII", 40000, 80, flags, 0))


def told6(length: int, protocol: int) -> bytes:
    return xdr(4, struct.pack(">II", length, protocol) + packed(A6) + packed(B6) + struct.pack(">IIII", 1, 2, 0, 0))


TOLD_ETHERNET = xdr(2, struct.pack(">I6sxx6sxxI", 64, b"\2" * 6, b"\4" * 6, 0x0800))


@pytest.mark.parametrize("expanded", [False, True])
def test_sampled_headers_become_rows(expanded: bool) -> None:
    cut = ethernet(ip(A, B, 6, tcp(40000, 80, ACK, payload=b"x" * 1400)))
    got, accounts = decoded(
        sflow(
            flow_sample(raw_header(FRAME), expanded=expanded),
            xdr(2, COUNTERS),
            flow_sample(raw_header(cut[:128], length=len(cut) + 4), rate=2048, expanded=expanded),
            xdr(4, COUNTERS),
        ),
        sflow(flow_sample(raw_header(FRAME6), rate=0), sequence=1),
    )
    assert got == [
        Row(A, B, (40000, 53), 17, 36, 1, 100, 0, 0, (0, 0, 0), -1),
        Row(A, B, (40000, 80), 6, 1440, 1, 2048, 0, 0, (0, UNTOLD, UNTOLD), -1),
        Row(A6, B6, (443, 40000), 6, 60, 1, 1, 0, 0, (0, UNTOLD, UNTOLD), 0),
    ]
    assert accounts == {
        "datagrams": 2, "datagrams_read": 2, "records": 5, "records_given": 3, "records_counter_samples": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "attempted", "from_client"),
    [(SYN, 1, 1), (SYN | ACK, 0, 0), (ACK, 0, -1), (ACK | PSH, 0, -1), (RST, 0, -1), (FIN | ACK, 0, -1)],
)
def test_a_sampled_syn_is_an_attempt(flags: int, attempted: int, from_client: int) -> None:
    header = raw_header(ethernet(ip(A, B, 6, tcp(40000, 80, flags))))
    for sample in (flow_sample(header), flow_sample(told4(40, 6, flags))):
        got, _ = decoded(sflow(sample))
        assert (got[0].connections, got[0].from_client) == ((attempted, UNTOLD, UNTOLD), from_client)


def test_a_header_too_short_for_its_flags_tells_no_attempt() -> None:
    got, _ = decoded(sflow(flow_sample(raw_header(ethernet(ip(A, B, 6, tcp(40000, 80, SYN)))[:40], length=64))))
    assert (got[0].bytes, got[0].connections) == (40, (UNTOLD, UNTOLD, UNTOLD))


@pytest.mark.parametrize(
    ("protocol", "data", "given"), [(11, FRAME[14:], 1), (12, FRAME6[14:], 1), (1, FRAME, 1), (7, FRAME, 0), (13, FRAME, 0)]
)
def test_header_protocols(protocol: int, data: bytes, given: int) -> None:
    got, accounts = decoded(sflow(flow_sample(raw_header(data, protocol))))
    assert len(got) == given
    assert accounts.get("records_unsupported", 0) == 1 - given


def test_the_length_on_the_wire_stands_in_for_one_that_offload_left_out() -> None:
    packet = bytearray(FRAME)
    packet[16:18] = b"\0\0"
    got, _ = decoded(sflow(flow_sample(raw_header(bytes(packet), length=9018, stripped=4))))
    assert got[0].bytes == 9000


def test_what_the_agent_tells_counts_where_it_sent_no_header() -> None:
    got, _ = decoded(
        sflow(
            flow_sample(told4(1500, 17, 0), TOLD_ETHERNET),
            flow_sample(told6(80, 58)),
            flow_sample(told4(1500, 17, 0), raw_header(FRAME)),
            flow_sample(raw_header(FRAME, protocol=99), told4(99, 6, 0)),
        )
    )
    assert [(row.src, row.dst, row.ports, row.protocol, row.bytes) for row in got] == [
        (A, B, (40000, 80), 17, 1500),
        (A6, B6, (1, 2), 58, 80),
        (A, B, (40000, 53), 17, 36),
        (A, B, (40000, 80), 6, 99),
    ]
    assert got[-1].connections == (UNTOLD, UNTOLD, UNTOLD)


@pytest.mark.parametrize(
    ("sample", "fate"),
    [
        (flow_sample(TOLD_ETHERNET), "no_addresses"),
        (flow_sample(), "no_addresses"),
        (flow_sample(xdr(1001, b"\0" * 16)), "no_addresses"),  # extended switch data
        (flow_sample(raw_header(ethernet(b"\0" * 30, 0x0806))), "not_ip"),
        (flow_sample(raw_header(FRAME[:20])), "unreadable"),
        (flow_sample(raw_header(FRAME[:14] + b"\x65" + FRAME[15:])), "unreadable"),
        (flow_sample(raw_header(b"")), "unreadable"),
        (flow_sample(raw_header(FRAME, protocol=2)), "unsupported"),
        (xdr(5, b"\0" * 20), "unsupported"),  # discarded packets
        (xdr(9 << 12 | 1, b"\0" * 20), "unsupported"),  # an enterprise's own
        (xdr(1, b"\0" * 31), "no_addresses"),  # a head of zeros: no records in it
        (xdr(1, b"\0" * 20), "cut_off"),
        (xdr(3, b"\0" * 40), "cut_off"),
        (xdr(1, struct.pack(">8I", 1, 1, 1, 1, 0, 1, 2, 5)), "cut_off"),
        (xdr(1, struct.pack(">8I", 1, 1, 1, 1, 0, 1, 2, 1) + struct.pack(">II", 1, 999)), "cut_off"),
        (flow_sample(xdr(1, b"\0" * 12)), "cut_off"),
        (flow_sample(xdr(1, struct.pack(">IIII", 1, 64, 0, 65))), "cut_off"),
        (flow_sample(xdr(3, b"\0" * 24)), "cut_off"),
    ],
)
def test_every_sample_is_counted_once(sample: bytes, fate: str) -> None:
    got, accounts = decoded(sflow(sample, flow_sample(raw_header(FRAME))))
    assert len(got) == 1
    assert accounts[f"records_{fate}"] == 1
    assert accounts["records"] == 2


@pytest.mark.parametrize(
    ("payload", "fate", "given"),
    [
        (sflow()[:27], "truncated", 0),
        (sflow(), "read", 0),
        (sflow(agent="2001:db8::9"), "read", 0),
        (sflow(agent="2001:db8::9")[:36], "truncated", 0),
        (b"\0\0\0\5\0\0\0\3" + sflow()[8:], "malformed", 0),
        (sflow(flow_sample(raw_header(FRAME)), count=2), "truncated", 1),
        (sflow(flow_sample(raw_header(FRAME)), count=2**32 - 1), "truncated", 1),
        (sflow(flow_sample(raw_header(FRAME)))[:-1], "truncated", 0),
        (sflow(flow_sample(raw_header(FRAME)), count=0), "read", 0),
    ],
)
def test_a_datagram_has_one_fate(payload: bytes, fate: str, given: int) -> None:
    got, accounts = decoded(payload)
    assert accounts[f"datagrams_{fate}"] == 1
    assert len(got) == given


def test_agents_say_what_they_dropped() -> None:
    def drops(*counters: int, source: int = 1) -> int:
        told = [sflow(flow_sample(drops=drop, source=source), sequence=i) for i, drop in enumerate(counters)]
        return decoded(*told)[1].get("samples_dropped", 0)

    assert drops(1000) == 0  # before we listened
    assert drops(1000, 1000, 1007, 1010) == 10
    assert drops(2**32 - 3, 4) == 7
    assert drops(1000, 3, 5) == 2  # the agent began anew


def test_each_sub_agent_has_its_own_numbers() -> None:
    def lost(*numbers: tuple[int, int]) -> int:
        return decoded(*(sflow(sequence=n, sub_agent=a) for n, a in numbers))[1].get("datagrams_lost", 0)

    assert lost((1, 0), (2, 0), (3, 0)) == 0
    assert lost((1, 0), (7, 1), (2, 0), (8, 1)) == 0
    assert lost((1, 0), (4, 0)) == 2


def test_rows_have_the_time_of_receipt() -> None:
    payloads, times = (
        [sflow(flow_sample(raw_header(FRAME)), sequence=i) for i in range(2)],
        [EXPORT_NS + 1000, EXPORT_NS + 5000],
    )
    assert FlowDecoder().decode(datagrams(payloads, times)).start_ns.tolist() == times
