"""IPFIX: what it has beyond NetFlow v9. Messages in, exact rows and accounts out."""

from __future__ import annotations

import struct

import pytest
from tests.captures import ethernet, ip, tcp
from tests.decode.exports import (
    EXPORT_NS,
    EXPORT_S,
    Row,
    Spec,
    balanced,
    datagrams,
    ipfix,
    options_ipfix,
    record,
    rows,
    set_of,
    templates,
)

from adumbra.decode.flow_exports import FlowDecoder
from adumbra.decode.templates import MAX_FIELDS, VARIABLE
from adumbra.schema.records import UNTOLD

SYN, ACK = 0x02, 0x10
ENDS: tuple[Spec, ...] = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1))
PLAIN: tuple[Spec, ...] = (*ENDS, (1, 8), (2, 8), (152, 8), (153, 8))
A, B = "10.0.0.1", "10.0.0.2"
UDP, TCP = (A, B, 40000, 53, 17), (A, B, 40000, 80, 6)
NOW_MS = EXPORT_S * 1000
REVERSE = 29305
NTP_S = EXPORT_S + 2_208_988_800


def plain(bytes_: int = 1000, packets: int = 10) -> bytes:
    return record(PLAIN, *UDP, bytes_, packets, NOW_MS - 5000, NOW_MS - 1000)


def define(fields: tuple[Spec, ...], number: int = 256) -> bytes:
    return templates({number: fields}, 2)


def decoded(*payloads: bytes, received_ns: int = EXPORT_NS) -> tuple[list[Row], dict[str, int]]:
    decoder = FlowDecoder()
    got = rows(decoder.decode(datagrams(payloads, received_ns)))
    assert balanced(decoder.accounts(), len(got))
    return got, {name: count for name, count in decoder.accounts().items() if count}


def one(fields: tuple[Spec, ...], *values: int | str | bytes, received_ns: int = EXPORT_NS) -> list[Row]:
    return decoded(ipfix(define(fields), set_of(256, record(fields, *values), pad=1)), received_ns=received_ns)[0]


def test_a_record_becomes_a_row() -> None:
    got, accounts = decoded(ipfix(define(PLAIN), set_of(256, plain() + plain(5, 1))))
    assert got[0] == Row(A, B, (40000, 53), 17, 1000, 10, 1, -5000, -1000, (0, 0, 0), -1)
    assert (got[1].bytes, got[1].packets) == (5, 1)
    assert accounts == {
        "datagrams": 1, "datagrams_read": 1, "sets": 2, "sets_read": 1, "sets_templates": 1, "records": 2, "records_given": 2,
        "templates": 1,
    }  # fmt: skip


def test_fields_that_arent_known_are_passed_over() -> None:
    fields = (
        (82, VARIABLE), (8, 4), (1, 4, 9999), (12, 4), (371, VARIABLE), (210, 3), (1, 4), (2, 2), (82, VARIABLE, 12), (4, 1),
        (55, 0),
    )  # fmt: skip
    short = record(fields, b"eth0", A, 77, B, b"", 0, 500, 5, b"x" * 254, 17, 0)
    long = record(fields, b"y" * 300, A, 77, B, b"z" * 255, 0, 600, 6, b"", 6, 0)
    got, accounts = decoded(ipfix(define(fields), set_of(256, short + long + short)))
    assert [(row.src, row.dst, row.protocol, row.bytes, row.packets) for row in got] == [
        (A, B, 17, 500, 5), (A, B, 6, 600, 6), (A, B, 17, 500, 5),
    ]  # fmt: skip
    assert "records_cut_off" not in accounts


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_record_of_variable_length_that_is_cut_off_is_counted(cut: int) -> None:
    fields = ((8, 4), (12, 4), (1, 4), (82, VARIABLE), (2, 2))
    whole = record(fields, A, B, 5, b"abc", 1)
    body = whole + record(fields, A, B, 6, b"d" * 10, 2)[:-cut]
    got, accounts = decoded(ipfix(define(fields), set_of(256, body, pad=1)))
    assert [row.bytes for row in got] == [5]
    assert accounts["records_cut_off"] == 1


def test_a_length_of_a_string_may_lead_anywhere() -> None:
    fields = ((8, 4), (12, 4), (1, 4), (82, VARIABLE))
    for length in (b"\xff", b"\xff\xff", b"\xff\xff\xff", b"\xfe"):
        body = packed_ends() + struct.pack(">I", 1) + length
        got, accounts = decoded(ipfix(define(fields), set_of(256, body, pad=1)))
        assert (got, accounts["records_cut_off"]) == ([], 1)


def packed_ends() -> bytes:
    return bytes([10, 0, 0, 1, 10, 0, 0, 2])


@pytest.mark.parametrize(
    ("fields", "values", "start", "end"),
    [
        (((150, 4), (151, 4)), (EXPORT_S - 5, EXPORT_S - 1), -5000, -1000),
        (((152, 8), (153, 8)), (NOW_MS - 5001, NOW_MS - 1001), -5001, -1001),
        (((154, 8), (155, 8)), ((NTP_S - 5) << 32, (NTP_S - 2) << 32 | 1 << 31), -5000, -1500),
        (((156, 8), (157, 8)), ((NTP_S - 5) << 32 | 1 << 30, (NTP_S - 1) << 32), -4750, -1000),
        (((150, 4), (151, 4), (152, 8), (153, 8)), (EXPORT_S - 9, EXPORT_S - 9, NOW_MS - 2, NOW_MS - 1), -2, -1),  # the finer
        (((158, 4), (159, 4)), (5_000_000, 1_000_000), -5000, -1000),  # microseconds before export
        (((160, 8), (22, 4), (21, 4)), (NOW_MS - 100_000, 95_000, 99_000), -5000, -1000),
        (((160, 8), (22, 4), (21, 4)), (NOW_MS - 2**32 - 100_000, 95_000, 99_000), -5000, -1000),  # up for 50 days
        (((160, 8), (22, 4), (21, 4)), (NOW_MS + 400, 2**32 - 5400, 2**32 - 1400), -5000, -1000),  # up since the next second
        (((22, 4), (21, 4)), (95_000, 99_000), -4000, 0),  # whose clock isn't told: it ended with its export
        (((152, 8),), (NOW_MS - 5000,), -5000, 0),
        (((153, 8),), (NOW_MS - 5000,), -5000, -5000),
        (((152, 8), (161, 4)), (NOW_MS - 5000, 700), -5000, -4300),
        (((153, 8), (162, 4)), (NOW_MS - 5000, 700_000), -5700, -5000),
        (((161, 4),), (700,), -700, 0),
        (((322, 4),), (EXPORT_S - 3,), -3000, -3000),
        (((323, 8),), (NOW_MS - 3,), -3, -3),
        ((), (), 0, 0),
        (((152, 8), (153, 8)), (0, 0), 0, 0),
        (((152, 8), (153, 8)), (NOW_MS - 1000, NOW_MS - 5000), -5000, -5000),
        (((152, 8), (153, 8)), (1000, 5000), -4000, 0),  # in 1970
        (((152, 8), (153, 8)), (2**64 - 1, 2**64 - 1), 0, 0),
        (((152, 8), (153, 8)), (1, NOW_MS), 0, 0),  # lasted 50 years
    ],
)  # fmt: skip
def test_times(fields: tuple[Spec, ...], values: tuple[int, ...], start: float, end: float) -> None:
    (row,) = one((*ENDS, (1, 4), *fields), *UDP, 9, *values)
    assert (row.start, row.end) == pytest.approx((start, end), abs=1e-3)


def test_absolute_times_move_with_a_clock_that_isnt_believed() -> None:
    year = 365 * 86_400
    (row,) = one(PLAIN, *UDP, 1, 1, NOW_MS - 5000, NOW_MS - 1000, received_ns=EXPORT_NS + year * 10**9)
    assert (row.start, row.end) == (year * 1000 - 5000, year * 1000 - 1000)


def test_uptime_times_by_the_systems_initialisation_that_options_tell() -> None:
    fields = (*ENDS, (1, 4), (22, 4), (21, 4))
    told = options_ipfix(300, ((149, 4),), ((160, 8),))
    got, _ = decoded(
        ipfix(told, set_of(300, struct.pack(">IQ", 7, NOW_MS - 100_000))),
        ipfix(define(fields), set_of(256, record(fields, *UDP, 1, 95_000, 99_000)), sequence=1),
    )
    assert (got[0].start, got[0].end) == (-5000, -1000)
    late = set_of(300, struct.pack(">IQ", 7, NOW_MS + 400))  # export times are in whole seconds
    got, _ = decoded(ipfix(told, late, define(fields), set_of(256, record(fields, *UDP, 1, 2**32 - 5400, 2**32 - 1400))))
    assert (got[0].start, got[0].end) == (-5000, -1000)


@pytest.mark.parametrize(
    ("flags", "flags_back", "counts", "connections"),
    [
        (SYN | ACK, SYN | ACK, (900, 9, 400, 4), (1, 1, 0)),
        (SYN, None, (60, 1, 0, 0), (1, 0, 1)),
        (SYN, 0, (60, 1, 0, 0), (1, 0, 1)),
        (SYN | ACK | 4, None, (60, 1, 40, 1), (1, 0, 1)),  # of both together: refused
        (SYN | ACK, None, (900, 9, 400, 4), (1, 1, 0)),
        (SYN, ACK | 4, (60, 1, 40, 1), (1, 0, 1)),  # refused
        (ACK, ACK, (900, 9, 400, 4), (0, 0, 0)),
        (0, 0, (900, 9, 400, 4), (UNTOLD, UNTOLD, UNTOLD)),
    ],
)
def test_a_biflow_gives_two_rows(
    flags: int, flags_back: int | None, counts: tuple[int, int, int, int], connections: tuple[int, int, int]
) -> None:
    back = () if flags_back is None else ((6, 1, REVERSE),)
    fields = (*ENDS, (6, 2), (1, 4), (2, 4), (1, 4, REVERSE), (2, 4, REVERSE), *back)
    got = one(fields, *TCP, flags, *counts, *(() if flags_back is None else (flags_back,)))
    rest = tuple(min(count, 0) for count in connections)
    client = (1, 0) if connections[0] == 1 else (-1, -1)
    want = [(A, (40000, 80), *counts[:2], connections, client[0]), (B, (80, 40000), *counts[2:], rest, client[1])]
    assert [(row.src, row.ports, row.bytes, row.packets, row.connections, row.from_client) for row in got] == [
        row for row in want if row[3]
    ]


def test_a_biflow_may_say_that_its_source_is_the_server() -> None:
    fields = (*ENDS, (239, 1), (6, 1), (6, 1, REVERSE), (1, 4), (1, 4, REVERSE))
    got = one(fields, *TCP, 2, SYN | ACK, SYN | ACK, 900, 400)
    assert [(row.bytes, row.connections, row.from_client) for row in got] == [(900, (0, 0, 0), 0), (400, (1, 1, 0), 1)]


@pytest.mark.parametrize(
    ("ports", "flags", "flags_back", "from_client"),
    [
        ((80, 40000), SYN | ACK, SYN | ACK, 0),  # from the lower port
        ((40000, 80), SYN | ACK, SYN | ACK, 1),
        ((80, 40000), SYN, 0, 1),  # whatever the ports
        ((40000, 80), ACK | 4, SYN, 0),
        ((40000, 80), ACK, ACK, -1),
    ],
)
def test_which_end_of_a_biflow_is_the_client(ports: tuple[int, int], flags: int, flags_back: int, from_client: int) -> None:
    fields = (*ENDS, (6, 1), (6, 1, REVERSE), (1, 4), (1, 4, REVERSE))
    got = one(fields, A, B, *ports, 6, flags, flags_back, 900, 400)
    assert [row.from_client for row in got] == [from_client, -1 if from_client < 0 else 1 - from_client]
    assert sum(row.connections[0] for row in got) == (from_client >= 0)
    assert all(row.connections[0] == (row.from_client == 1) for row in got)


def test_initiators_and_responders_counts_are_a_biflow() -> None:
    fields = (*ENDS, (231, 8), (298, 8), (232, 8), (299, 8))
    got = one(fields, *UDP, 100, 1, 900, 2)
    assert [(row.src, row.bytes, row.packets) for row in got] == [(A, 100, 1), (B, 900, 2)]


@pytest.mark.parametrize(
    ("scopes", "fields", "values", "rate"),
    [
        (((144, 4),), ((34, 4),), (1, 512), 512),
        (((149, 4),), ((305, 4), (306, 4)), (7, 1, 999), 1000),  # one packet, then a space of 999
        (((149, 4),), ((305, 2), (306, 4)), (7, 10, 990), 100),
        (((149, 4),), ((309, 4), (310, 4)), (7, 1, 64), 64),  # one of 64
        (((302, 8),), ((305, 4), (306, 4)), (3, 1, 49), 50),
        (((149, 4),), ((305, 4), (306, 4)), (7, 0, 999), 1),
        (((149, 4),), ((34, 4),), (7, 0), 1),
        (((149, 4),), ((34, 4),), (7, 2**32 - 1), 1 << 24),
        (((130, 4),), ((41, 8),), (1, 5), 1),
        (((82, VARIABLE),), ((371, VARIABLE),), (b"eth0", b""), 1),  # records without a fixed part
    ],
)
def test_sampling_told_by_options(
    scopes: tuple[Spec, ...], fields: tuple[Spec, ...], values: tuple[int | bytes, ...], rate: int
) -> None:
    told = set_of(300, record((*scopes, *fields), *values), pad=1)
    got, accounts = decoded(ipfix(options_ipfix(300, scopes, fields), told, define(PLAIN), set_of(256, plain())))
    assert got[0].rate == rate
    assert accounts["records_options"] == 1


def test_records_may_name_their_selector_or_tell_their_rate() -> None:
    told = options_ipfix(300, ((302, 8),), ((305, 4), (306, 4)))
    rates = set_of(300, struct.pack(">QIIQII", 1, 1, 9, 2, 1, 19))
    named, own = (*PLAIN, (302, 8)), (*PLAIN, (34, 2))
    got, accounts = decoded(
        ipfix(told, rates, templates({256: named, 257: own}, 2)),
        ipfix(*(set_of(256, plain() + struct.pack(">Q", n), pad=1) for n in (1, 2, 3)), sequence=2),
        ipfix(set_of(257, plain() + b"\0\x40", pad=1), sequence=5),
    )
    assert [row.rate for row in got] == [10, 20, 1, 64]
    assert accounts["rates_unknown"] == 1
    assert "records_lost" not in accounts


def test_what_domain_0_tells_holds_for_domains_that_tell_nothing() -> None:
    told = ipfix(options_ipfix(300, ((144, 4),), ((34, 4),)), set_of(300, struct.pack(">II", 1, 100)), domain=0)
    got, _ = decoded(told, ipfix(define(PLAIN), set_of(256, plain())))
    assert got[0].rate == 100


FRAME = ethernet(ip(A, B, 6, tcp(40000, 80, SYN, payload=b"x" * 100)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ((315, VARIABLE), FRAME),
        ((315, 64), int.from_bytes(FRAME[:64])),
        ((313, VARIABLE), FRAME[14:]),
        ((104, 60), int.from_bytes(FRAME[:60])),
    ],
)
def test_records_with_a_sampled_packets_header(field: Spec, value: bytes | int) -> None:
    fields = ((10, 4), (82, VARIABLE), (312, 2), field, (152, 8), (302, 8))
    body = record(fields, 1, b"eth0", len(FRAME), value, NOW_MS - 3000, 5)
    told = options_ipfix(300, ((302, 8),), ((305, 4), (306, 4)))
    messages = (
        ipfix(define(fields), told, set_of(300, struct.pack(">QII", 5, 1, 99))),
        ipfix(set_of(256, body + body), sequence=1),
    )
    got, accounts = decoded(*messages)
    assert got == [Row(A, B, (40000, 80), 6, 140, 1, 100, 0, 0, (1, UNTOLD, UNTOLD), 1)] * 2
    assert accounts["records_given"] == 2


def test_sections_without_a_packet_are_counted() -> None:
    fields = ((315, VARIABLE), (323, 8))
    bodies = [record(fields, data, NOW_MS - 7) for data in (b"", FRAME[:20], ethernet(b"\0" * 30, 0x0806), FRAME)]
    got, accounts = decoded(ipfix(define(fields), set_of(256, b"".join(bodies), pad=1)))
    assert [(row.start, row.end) for row in got] == [(-7, -7)]
    assert (accounts["records_unreadable"], accounts["records_not_ip"]) == (2, 1)


def test_templates_can_be_withdrawn() -> None:
    data, other = set_of(256, plain()), set_of(257, plain())
    both = templates({256: PLAIN, 257: PLAIN}, 2)
    one_gone, all_gone = set_of(2, struct.pack(">HH", 256, 0)), set_of(2, struct.pack(">HH", 2, 0))
    options_gone = set_of(3, struct.pack(">HH", 3, 0))
    for gone, given, waiting in ((one_gone, 1, 1), (all_gone, 0, 2), (options_gone, 2, 0)):
        got, accounts = decoded(ipfix(both), ipfix(gone, data, other))
        assert (len(got), accounts.get("sets_waiting", 0)) == (given, waiting)


@pytest.mark.parametrize(
    ("template", "fate"),
    [
        (templates({255: PLAIN}, 2), "sets_malformed"),
        (set_of(2, struct.pack(">HH", 256, 3) + struct.pack(">HH", 8, 4)), "sets_malformed"),
        (set_of(2, struct.pack(">HHHH", 256, 1, 0x8008, 4)), "sets_malformed"),
        (set_of(3, struct.pack(">HH", 256, 2)), "sets_malformed"),
        (set_of(3, struct.pack(">HHH", 256, 1, 2) + struct.pack(">HH", 8, 4)), "sets_malformed"),
        (set_of(2, struct.pack(">HHHH", 256, 1, 8, 0)), "templates_refused"),  # records of no bytes
        (set_of(2, struct.pack(">HH", 256, MAX_FIELDS + 1) + struct.pack(">HH", 8, 4) * (MAX_FIELDS + 1)), "templates_refused"),
        (set_of(2, struct.pack(">HHHHHH", 256, 2, 8, 65534, 12, 65534)), "templates_refused"),  # larger than a datagram
        (set_of(2, b""), "sets_templates"),
    ],
)
def test_templates_that_arent_any(template: bytes, fate: str) -> None:
    got, accounts = decoded(ipfix(define(PLAIN, 300), template, set_of(256, plain()), set_of(300, plain())))
    assert accounts[fate] >= 1
    assert accounts["sets_waiting"] == 1
    assert len(got) == 1


def test_a_template_that_is_refused_ends_the_one_before_it() -> None:
    got, accounts = decoded(ipfix(define(PLAIN), set_of(2, struct.pack(">HHHH", 256, 1, 8, 0)), set_of(256, plain())))
    assert (got, accounts["sets_waiting"]) == ([], 1)


@pytest.mark.parametrize(
    ("payload", "fate", "given"),
    [
        (ipfix()[:15], "truncated", 0),
        (ipfix(length=15), "malformed", 0),
        (ipfix(length=0), "malformed", 0),
        (ipfix(define(PLAIN), set_of(256, plain()), length=999), "truncated", 1),
        (ipfix(define(PLAIN), set_of(256, plain()))[:-1], "truncated", 0),
        (ipfix(define(PLAIN), set_of(256, plain())) + b"\1\2\3", "read", 1),
        (ipfix(define(PLAIN), set_of(256, plain())) + ipfix(set_of(256, plain()), sequence=1), "read", 2),
        (ipfix() * 100, "read", 0),
    ],
)
def test_a_message_has_one_fate(payload: bytes, fate: str, given: int) -> None:
    got, accounts = decoded(payload)
    assert accounts[f"datagrams_{fate}"] == accounts["datagrams"] == 1
    assert len(got) == given


def lost(*messages: bytes) -> int:
    return decoded(*messages)[1].get("records_lost", 0)


def test_gaps_in_the_numbers_of_records_are_records_lost() -> None:
    first, data = ipfix(define(PLAIN), set_of(256, plain() * 3)), set_of(256, plain())
    assert lost(first, ipfix(data, sequence=3)) == 0
    assert lost(first, ipfix(data, sequence=5), ipfix(data, sequence=6)) == 2
    assert lost(first, ipfix(data, sequence=4), ipfix(data, sequence=3)) == 0  # one came late
    assert lost(first, ipfix(data, sequence=1000, domain=8)) == 0
    # How many records a set has isn't known before its template: then no gap is told until the next message.
    assert lost(ipfix(data), ipfix(define(PLAIN), data, sequence=100), ipfix(data, sequence=102)) == 1
