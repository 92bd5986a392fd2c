"""NetFlow v5 and v9: datagrams in, exact rows and accounts out."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from tests.decode.exports import (
    EXPORT_NS,
    EXPORT_S,
    FLOW,
    SECOND,
    UPTIME_MS,
    Row,
    balanced,
    datagrams,
    flow,
    options_v9,
    record,
    rows,
    set_of,
    templates,
    v5,
    v5_record,
    v9,
)

from adumbra.decode.flow_exports import ACCOUNTS, FlowDecoder
from adumbra.schema.records import UNTOLD

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
NOTHING = (UNTOLD, UNTOLD, UNTOLD)
FLOW_TEMPLATE = templates({256: FLOW})


def decoded(*payloads: bytes, received_ns: int = EXPORT_NS) -> tuple[list[Row], dict[str, int]]:
    """The rows and the accounts that aren't 0; the same whether the datagrams come at once or one by one."""
    decoder, slow = FlowDecoder(), FlowDecoder()
    together = rows(decoder.decode(datagrams(payloads, received_ns)))
    singly = [row for payload in payloads for row in rows(slow.decode(datagrams([payload], received_ns)))]
    assert together == singly
    assert decoder.accounts() == slow.accounts()
    assert tuple(decoder.accounts()) == ACCOUNTS
    assert balanced(decoder.accounts(), len(together))
    return together, {name: count for name, count in decoder.accounts().items() if count}


def test_a_v5_record_becomes_a_row() -> None:
    answer = v5_record("10.0.0.2", "10.0.0.1", (53, 999), 17, counts=(70, 1))
    got, accounts = decoded(v5(v5_record(), answer, rest_ns=500_000_000))
    assert got == [
        Row("10.0.0.1", "10.0.0.2", (40000, 80), 6, 1000, 10, 1, -4500, -500, NOTHING, -1),
        Row("10.0.0.2", "10.0.0.1", (53, 999), 17, 70, 1, 1, -4500, -500, (0, 0, 0), -1),
    ]
    assert accounts == {"datagrams": 1, "datagrams_read": 1, "records": 2, "records_given": 2}


def test_v5_is_sampled_by_its_header() -> None:
    got, _ = decoded(v5(v5_record(), sampling=1 << 14 | 1000), v5(v5_record(), sequence=1, sampling=1 << 14))
    assert [(row.rate, row.bytes) for row in got] == [(1000, 1000), (1, 1000)]


@pytest.mark.parametrize(
    ("uptime_ms", "first", "last", "start", "end"),
    [
        (UPTIME_MS, UPTIME_MS - 5000, UPTIME_MS - 1000, -5000, -1000),
        (1000, 2**32 - 4000, 500, -5000, -500),  # the uptime wrapped while the flow lasted
        (500, 2**32 - 4000, 2**32 - 1000, -4500, -1500),
        (UPTIME_MS, UPTIME_MS - 10, UPTIME_MS + 20, -10, 20),  # ended as the header was written
        (UPTIME_MS, UPTIME_MS - 10, UPTIME_MS - 20, -20, -20),  # ends before it begins: an instant
        (UPTIME_MS, 0, 0, 0, 0),  # not told: the time of export
        (UPTIME_MS, 5000, 1, -999_999, -999_999),
        (2**31, 1, 2, -1, 0),  # more than a day before: taken to have ended with its export
        (2**32 - 1, 86_400_000, 2**32 - 1, 0, 0),  # 49 days long: an instant
    ],
)
def test_times_on_the_uptime_clock(uptime_ms: int, first: int, last: int, start: float, end: float) -> None:
    old, _ = decoded(v5(v5_record(times=(first, last)), uptime_ms=uptime_ms))
    new, _ = decoded(v9(FLOW_TEMPLATE, set_of(256, flow(first=first, last=last)), uptime_ms=uptime_ms))
    assert (old[0].start, old[0].end) == (new[0].start, new[0].end) == (start, end)


def test_a_clock_that_is_more_than_a_day_off_is_not_believed() -> None:
    got, accounts = decoded(v5(v5_record(), seconds=1000), received_ns=EXPORT_NS)
    assert (got[0].start, got[0].end) == (-5000, -1000)
    assert accounts["clocks_replaced"] == 1
    got, accounts = decoded(v5(v5_record(), seconds=EXPORT_S - 3600), received_ns=EXPORT_NS)
    assert (got[0].start, got[0].end) == (-3_605_000, -3_601_000)
    assert "clocks_replaced" not in accounts


@pytest.mark.parametrize(
    ("payload", "fate", "given"),
    [
        (b"", "truncated", 0),
        (b"\0\5", "truncated", 0),
        (v5(v5_record())[:23], "truncated", 0),
        (v5(v5_record(), v5_record())[:-1], "truncated", 1),
        (v5(v5_record(), count=31), "malformed", 0),
        (v5(v5_record(), count=30), "truncated", 1),
        (v5(*[v5_record()] * 40), "read", 40),
        (v5(), "read", 0),
        (v5(v5_record()) + v5(v5_record(), sequence=1), "read", 2),  # one message behind the other
        (v5(v5_record()) + b"\0" * 40, "read", 1),
        (b"\0\x08" + bytes(40), "bad_version", 0),
        (b"\0\0\0\4" + bytes(40), "bad_version", 0),  # sFlow v4
        (b"\0\7" + bytes(70), "bad_version", 0),
        (v9()[:19], "truncated", 0),
        (v9(), "read", 0),
        (v9(FLOW_TEMPLATE, set_of(256, flow()), b"\0\0\0\0\0\0\0\0"), "read", 1),  # padded with zeros
        (v9(FLOW_TEMPLATE, set_of(256, flow()), struct.pack(">HH", 256, 3)), "malformed", 1),
        (v9(FLOW_TEMPLATE, set_of(256, flow()), struct.pack(">HH", 256, 5)), "truncated", 1),
    ],
)
def test_a_datagram_has_one_fate(payload: bytes, fate: str, given: int) -> None:
    got, accounts = decoded(payload)
    assert accounts[f"datagrams_{fate}"] == 1
    assert len(got) == given


def test_v9_templates_belong_to_an_exporter_and_a_source() -> None:
    decoder = FlowDecoder()
    lengths = [
        len(decoder.decode(datagrams([payload], exporter=exporter)))
        for payload, exporter in (
            (v9(FLOW_TEMPLATE), "a"),
            (v9(set_of(256, flow()), sequence=1), "a"),
            (v9(set_of(256, flow()), source=8), "a"),
            (v9(set_of(256, flow())), "b"),
            (v9(FLOW_TEMPLATE, source=8, sequence=1), "a"),
        )
    ]
    assert lengths == [0, 1, 0, 0, 1]
    assert decoder.accounts()["sets_waiting"] == 1


def test_data_wait_for_their_template_and_keep_their_time() -> None:
    late = v9(FLOW_TEMPLATE, sequence=2, seconds=EXPORT_S + 60, uptime_ms=UPTIME_MS + 60_000)
    got, accounts = decoded(
        v9(set_of(256, flow(bytes=1)), seconds=EXPORT_S - 30, uptime_ms=UPTIME_MS - 30_000),
        v9(set_of(256, flow(bytes=2) + flow(bytes=3)), sequence=1),
        late,
    )
    assert [(row.bytes, row.start) for row in got] == [(1, -5000), (2, -5000), (3, -5000)]
    assert accounts["sets_read"] == 2
    assert "sets_waiting" not in accounts


def test_a_template_that_is_redefined_holds_from_there_on() -> None:
    other = ((12, 4), (8, 4), (2, 8), (1, 8), (99, 3))
    got, _ = decoded(
        v9(FLOW_TEMPLATE, set_of(256, flow())),
        v9(templates({256: other}), set_of(256, record(other, "10.0.0.9", "10.0.0.8", 5, 500, 0)), sequence=1),
    )
    assert [(row.src, row.dst, row.bytes, row.packets, row.end) for row in got] == [
        ("10.0.0.1", "10.0.0.2", 1000, 10, -1000),
        ("10.0.0.8", "10.0.0.9", 500, 5, 0),
    ]


def test_many_sets_and_templates_in_one_datagram() -> None:
    six = ((27, 16), (28, 16), (4, 1), (1, 3), (2, 3))
    got, accounts = decoded(
        v9(
            templates({256: FLOW, 300: six}),
            set_of(300, record(six, "2001:db8::1", "2001:db8::2", 17, 90000, 60)),
            set_of(256, flow(bytes=1) + flow(bytes=2)),
            set_of(17, b"\0\0\0\0"),
            set_of(300, record(six, "2001:db8::3", "2001:db8::4", 58, 64, 1)),
        )
    )
    assert [(row.src, row.bytes) for row in got] == [
        ("2001:db8::1", 90000), ("10.0.0.1", 1), ("10.0.0.1", 2), ("2001:db8::3", 64),
    ]  # fmt: skip
    assert accounts["sets_unknown"] == 1


@pytest.mark.parametrize(
    ("fields", "values", "fate"),
    [
        (((8, 4), (1, 4)), ("10.0.0.1", 5), "no_addresses"),
        (((8, 4), (12, 4), (1, 4)), ("0.0.0.0", "0.0.0.0", 5), "no_addresses"),
        (((8, 4), (12, 3), (1, 4)), ("10.0.0.1", 7, 5), "no_addresses"),
        (((8, 4), (12, 4), (7, 2)), ("10.0.0.1", "10.0.0.2", 5), "no_counts"),
        (((8, 4), (12, 4), (1, 9)), ("10.0.0.1", "10.0.0.2", 5), "no_counts"),
        (((8, 4), (12, 4), (1, 8)), ("10.0.0.1", "10.0.0.2", 2**64 - 1), "unbelievable"),
        (((8, 4), (12, 4), (2, 4), (34, 4)), ("10.0.0.1", "10.0.0.2", 2**32 - 1, 2**32 - 1), "unbelievable"),
        (((8, 4), (12, 4), (1, 8)), ("10.0.0.1", "0.0.0.0", 0), "given"),
    ],
)
def test_what_isnt_a_flow_is_counted(fields: tuple[tuple[int, int], ...], values: tuple[int | str, ...], fate: str) -> None:
    _, accounts = decoded(v9(templates({256: fields}), set_of(256, record(fields, *values), pad=1)))
    assert accounts["records_" + fate] == accounts["records"] == 1


def test_counts_may_be_untold_each() -> None:
    only_packets = ((8, 4), (12, 4), (4, 1), (2, 4))
    got, _ = decoded(v9(templates({256: only_packets}), set_of(256, record(only_packets, "10.0.0.1", "10.0.0.2", 17, 9))))
    assert (got[0].bytes, got[0].packets) == (UNTOLD, 9)


def test_counts_in_else_out_and_totals_only_without_those() -> None:
    fields = ((8, 4), (12, 4), (1, 4), (23, 4), (2, 4), (24, 4), (85, 4))
    both = record(fields, "10.0.0.1", "10.0.0.2", 10, 20, 1, 2, 99)
    out = record(fields, "10.0.0.1", "10.0.0.2", 0, 20, 0, 2, 99)
    nothing_since = record(fields, "10.0.0.1", "10.0.0.2", 0, 0, 0, 0, 99)
    got, _ = decoded(v9(templates({256: fields}), set_of(256, both + out + nothing_since)))
    assert [(row.bytes, row.packets) for row in got] == [(10, 1), (20, 2), (0, 0)]


SAMPLERS = options_v9(400, ((1, 4),), ((48, 1), (49, 1), (50, 4)))
SAMPLED = (*FLOW, (48, 1))


def sampler(number: int, rate: int) -> bytes:
    return set_of(400, struct.pack(">IBBI", 1, number, 2, rate), pad=1)


def sampled(number: int) -> bytes:
    return set_of(256, flow() + bytes([number]), pad=1)


def test_sampling_rates_are_told_by_options_data() -> None:
    got, accounts = decoded(
        v9(templates({256: SAMPLED}), SAMPLERS, sampled(1)),
        v9(sampler(1, 100), sampler(2, 2000), sampled(1), sampled(2), sampled(0), sequence=1),
        v9(sampler(1, 50), sampled(1), sequence=2),
        v9(sampled(3), sequence=3),
    )
    assert [row.rate for row in got] == [1, 100, 2000, 1, 50, 1]
    assert (accounts["rates_unknown"], accounts["records_options"]) == (2, 3)


def test_flows_that_name_no_sampler_have_the_only_one_or_the_domains() -> None:
    plain, general = set_of(256, flow()), options_v9(401, ((1, 4),), ((34, 4), (35, 1)))
    got, _ = decoded(
        v9(FLOW_TEMPLATE, SAMPLERS, general, plain),
        v9(sampler(1, 100), plain, sequence=1),
        v9(sampler(2, 200), plain, sequence=2),  # two samplers: which one isn't known
        v9(set_of(401, struct.pack(">IIB", 1, 500, 2), pad=1), plain, sequence=3),
    )
    assert [row.rate for row in got] == [1, 100, 1, 500]


def test_one_domains_sampling_is_not_anothers() -> None:
    got, _ = decoded(
        v9(templates({256: SAMPLED}), SAMPLERS, sampler(1, 100), sampled(1)),
        v9(templates({256: SAMPLED}), sampled(1), source=8),
    )
    assert [row.rate for row in got] == [100, 1]


@pytest.mark.parametrize(
    ("ports", "flags", "packets", "sampling", "connections", "from_client"),
    [
        ((40000, 80), SYN | ACK | PSH | FIN, 10, 0, (1, 1, 0), 1),
        ((80, 40000), SYN | ACK | PSH | FIN, 10, 0, (0, 0, 0), 0),
        ((40000, 80), SYN, 3, 0, (1, 0, 1), 1),  # nobody answered
        ((80, 40000), SYN, 3, 0, (1, 0, 1), 1),  # whatever the ports
        ((40000, 80), SYN | RST, 2, 0, (1, 0, 1), 1),  # a scanner's
        ((40000, 80), SYN | ACK, 1, 0, (0, 0, 0), 0),  # one packet: a server's SYN and ACK
        ((80, 40000), RST | ACK, 1, 0, (0, 0, 0), -1),
        ((40000, 80), ACK | PSH, 10, 0, (0, 0, 0), -1),  # a later part of a long flow
        ((40000, 80), 0, 10, 0, NOTHING, -1),  # exporters that don't know flags write 0
        ((40000, 80), SYN, 1, 100, (1, UNTOLD, UNTOLD), 1),  # a sample doesn't tell what became of it
        ((40000, 80), ACK, 1, 100, (0, UNTOLD, UNTOLD), -1),
    ],
)
def test_connections_from_tcp_flags(
    ports: tuple[int, int], flags: int, packets: int, sampling: int, connections: tuple[int, int, int], from_client: int
) -> None:
    got, _ = decoded(v5(v5_record(ports=ports, flags=flags, counts=(100 * packets, packets)), sampling=sampling))
    assert (got[0].connections, got[0].from_client) == (connections, from_client)


def test_of_two_rows_in_a_datagram_the_client_began_first() -> None:
    flags = SYN | ACK | FIN
    begins, answers = (UPTIME_MS - 500, UPTIME_MS - 10), (UPTIME_MS - 480, UPTIME_MS - 10)
    there = v5_record("10.0.0.1", "10.0.0.2", (1000, 2000), 6, flags, times=begins)
    back = v5_record("10.0.0.2", "10.0.0.1", (2000, 1000), 6, flags, times=answers)
    other = v5_record("10.0.0.2", "10.0.0.3", (2000, 1000), 6, flags, times=answers)
    for payload, want in (
        (v5(there, back), [1, 0]),
        (v5(back, there), [0, 1]),
        (v5(back, other, there, there), [0, 1, 1, 1]),
        (v5(back), [1]),  # alone: it comes from the higher port
        (v5(v5_record("10.0.0.1", "10.0.0.2", (9, 9), 6, flags), v5_record("10.0.0.2", "10.0.0.1", (9, 9), 6, flags)), [0, 1]),
    ):
        got, _ = decoded(payload)
        assert [row.from_client for row in got] == want
        assert [row.connections for row in got] == [(1, 1, 0) if client else (0, 0, 0) for client in want]


def sequences(*numbers: int) -> dict[str, int]:
    _, accounts = decoded(*(v9(sequence=number) for number in numbers))
    return {name: accounts.get(name, 0) for name in ("datagrams_lost", "restarts")}


def test_gaps_in_sequence_numbers_are_exports_lost() -> None:
    assert sequences(5, 6, 7) == {"datagrams_lost": 0, "restarts": 0}
    assert sequences(5, 8, 9) == {"datagrams_lost": 2, "restarts": 0}
    assert sequences(2**32 - 2, 2**32 - 1, 1, 2) == {"datagrams_lost": 1, "restarts": 0}
    assert sequences(5, 8, 6, 7, 9) == {"datagrams_lost": 0, "restarts": 0}  # they came late
    assert sequences(5, 5, 6) == {"datagrams_lost": 0, "restarts": 0}  # one came twice
    assert sequences(90_000, 0, 1, 2) == {"datagrams_lost": 0, "restarts": 1}
    assert sequences(40, *range(60)) == {"datagrams_lost": 0, "restarts": 1}  # so many aren't late
    assert sequences(5, 2**30) == {"datagrams_lost": 0, "restarts": 1}


def test_v5_numbers_its_records_by_engine() -> None:
    two = [v5_record(), v5_record()]
    _, accounts = decoded(v5(*two), v5(*two, sequence=2), v5(*two, sequence=100, engine=1), v5(*two, sequence=14))
    assert accounts["records_lost"] == 10


def test_what_is_known_of_completeness_goes_on() -> None:
    batch = datagrams([v5(v5_record())])
    assert FlowDecoder().decode(batch).complete_to_ns == 0
    assert FlowDecoder().decode(replace(batch, complete_to_ns=5 * SECOND)).complete_to_ns == 5 * SECOND
    assert rows(FlowDecoder().decode(datagrams([]))) == []


@pytest.mark.parametrize(
    ("event", "counts", "want"),
    [
        (1, (0, 0), []),  # created: no counts yet
        (2, (300, 900), [("10.0.0.1", 300, (1, 1, 0)), ("10.0.0.2", 900, (0, 0, 0))]),
        (2, (300, 0), [("10.0.0.1", 300, (1, UNTOLD, UNTOLD))]),
        (3, (0, 0), [("10.0.0.1", 0, (1, 0, 1))]),  # denied
        (5, (300, 900), [("10.0.0.1", 300, NOTHING), ("10.0.0.2", 900, NOTHING)]),  # an update
    ],
)
def test_events_of_a_firewall(event: int, counts: tuple[int, int], want: list[tuple[str, int, tuple[int, int, int]]]) -> None:
    fields = ((148, 4), (8, 4), (7, 2), (12, 4), (11, 2), (4, 1), (40005, 1), (323, 8), (152, 8), (231, 4), (232, 4))
    now_ms = EXPORT_S * 1000
    body = record(fields, 1, "10.0.0.1", 40000, "10.0.0.2", 443, 6, event, now_ms - 100, now_ms - 2100, *counts)
    got, accounts = decoded(v9(templates({263: fields}), set_of(263, body)))
    assert [(row.src, row.bytes, row.connections) for row in got] == want
    assert all((row.start, row.end) == (-2100, -100) for row in got)
    assert accounts.get("records_no_counts", 0) == (not want)
