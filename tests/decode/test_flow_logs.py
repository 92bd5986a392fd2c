"""Flow logs, line by line: what rows each kind of record gives, and what becomes of all other lines."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.decode.flow_log_lines import connection, counted, decoded, document, gcp, nsg, picked, vnet, zeek

from adumbra.decode.flow_logs import LogDecoder
from adumbra.decode.flow_logs_aws import ALL_FIELDS
from adumbra.schema.errors import SourceError
from adumbra.schema.records import ConnectionRecords, LogLines

S = 1_000_000_000
V2 = "2 123456789010 eni-1 198.18.0.1 10.20.1.10 40000 443 6 20 4249 1700000010 1700000070 ACCEPT OK"
TOLD = ("attempted", "established", "failed", "from_client")

# ---- AWS -----------------------------------------------------------------------------------------------------------------


def aws(fields: str, *rows: str) -> list[str]:
    return [fields, *rows]


def test_the_default_format_needs_no_header() -> None:
    rows, decoder = decoded([V2])
    assert rows == [
        {
            "start_ns": 1_700_000_010 * S,
            "end_ns": 1_700_000_070 * S,
            "protocol": 6,
            "src_port": 40000,
            "dst_port": 443,
            "bytes": 4249,
            "packets": 20,
            "rate": 1,
            "attempted": -1,
            "established": -1,
            "failed": -1,
            "from_client": -1,
            "src": "198.18.0.1",
            "dst": "10.20.1.10",
        }
    ]
    assert counted(decoder) == {"parsed": 1}


@pytest.mark.parametrize(
    ("lines", "want", "accounts"),
    [
        (  # the header decides the order
            [
                "bytes packets end start protocol dstport srcport dstaddr srcaddr interface-id version",
                "7 1 20 10 17 53 9 1.1.1.1 2.2.2.2 e 3",
            ],
            [("2.2.2.2", "1.1.1.1", 9, 53, 7, 1, 10 * S)],
            {"header": 1, "parsed": 1},
        ),
        (  # milliseconds
            [V2.replace("1700000010 1700000070", "1700000010123 1700000070456")],
            [("198.18.0.1", "10.20.1.10", 40000, 443, 4249, 20, 1_700_000_010_123_000_000)],
            {"parsed": 1},
        ),
        (  # CloudWatch's export: the time of ingestion before each record
            [f"2023-11-14T22:15:00.000Z {V2}"],
            [("198.18.0.1", "10.20.1.10", 40000, 443, 4249, 20, 1_700_000_010 * S)],
            {"parsed": 1},
        ),
        (  # what the packets' headers said stands before what the interface is called
            [
                "srcaddr dstaddr start end pkt-srcaddr pkt-dstaddr",
                "10.0.0.1 10.0.0.2 5 6 10.9.9.9 8.8.8.8",
                "10.0.0.1 10.0.0.2 5 6 - -",
            ],
            [("10.9.9.9", "8.8.8.8", 0, 0, -1, -1, 5 * S), ("10.0.0.1", "10.0.0.2", 0, 0, -1, -1, 5 * S)],
            {"header": 1, "parsed": 2},
        ),
        (  # a field of tomorrow
            ["srcaddr dstaddr start end ecs-new-field", "::1 2001:db8::2 5 6 whatever"],
            [("::1", "2001:db8::2", 0, 0, -1, -1, 5 * S)],
            {"header": 1, "parsed": 1},
        ),
        (  # logs put behind each other, with other orders
            [V2, "dstaddr srcaddr start end bytes", "1.1.1.1 2.2.2.2 1 2 3"],
            [("198.18.0.1", "10.20.1.10", 40000, 443, 4249, 20, 1_700_000_010 * S), ("2.2.2.2", "1.1.1.1", 0, 0, 3, -1, 1 * S)],
            {"header": 1, "parsed": 2},
        ),
        (["2 1 eni-1 - - - - - - - 1431280876 1431280934 - NODATA"], [], {"nodata": 1}),
        (
            [V2, "2 1 eni-1 - - - - - - - 1431280876 1431280934 - SKIPDATA"],
            [("198.18.0.1", "10.20.1.10", 40000, 443, 4249, 20, 1_700_000_010 * S)],
            {"parsed": 1, "skipdata": 1},
        ),
        (
            [V2, "2 1 eni-1 198.18.0.1"],
            [("198.18.0.1", "10.20.1.10", 40000, 443, 4249, 20, 1_700_000_010 * S)],
            {"parsed": 1, "malformed": 1},
        ),
        (["", V2, "   "], [("198.18.0.1", "10.20.1.10", 40000, 443, 4249, 20, 1_700_000_010 * S)], {"parsed": 1, "header": 2}),
        (["srcaddr dstaddr interface-id", "10.0.0.1 10.0.0.2 eni-1"], [], {"header": 1, "unsupported": 1}),  # no times
    ],
)
def test_aws_records(lines: list[str], want: list[tuple[Any, ...]], accounts: dict[str, int]) -> None:
    rows, decoder = decoded(lines)
    assert [picked(row, "src", "dst", "src_port", "dst_port", "bytes", "packets", "start_ns") for row in rows] == want
    assert counted(decoder) == accounts


@pytest.mark.parametrize(
    ("flags", "action", "protocol", "want"),
    [
        ("2", "ACCEPT", 6, (1, 0, -1, 1)),  # a SYN: whether it was answered stands in another row, or in none
        ("3", "ACCEPT", 6, (1, 0, -1, 1)),  # SYN and FIN, or-ed
        ("2", "REJECT", 6, (1, 0, 1, 1)),
        ("18", "ACCEPT", 6, (0, 1, 0, 0)),  # the server's SYN-ACK
        ("19", "ACCEPT", 6, (0, 1, 0, 0)),
        ("0", "ACCEPT", 6, (0, 0, 0, -1)),  # in the middle of a connection
        ("1", "ACCEPT", 6, (0, 0, 0, -1)),
        ("4", "ACCEPT", 6, (0, 0, -1, -1)),  # a reset, of which connection isn't told
        ("-", "ACCEPT", 6, (-1, -1, -1, -1)),
        ("-", "REJECT", 6, (-1, -1, -1, -1)),
        ("0", "ACCEPT", 17, (0, 0, 0, -1)),
    ],
)
def test_what_aws_flags_say_of_connections(flags: str, action: str, protocol: int, want: tuple[int, ...]) -> None:
    fields = "srcaddr dstaddr protocol start end action tcp-flags"
    rows, _ = decoded([fields, f"198.18.0.1 10.20.1.10 {protocol} 5 6 {action} {flags}"])
    assert picked(rows[0], *TOLD) == want


def test_a_flow_within_a_vpc_that_both_interfaces_record_counts_once() -> None:
    fields = "interface-id srcaddr dstaddr srcport dstport protocol bytes start end"
    row = "{} 10.0.0.1 10.0.0.2 5 80 6 100 {} {}"
    lines = [row.format(*each) for each in (("eni-b", 0, 60), ("eni-a", 1, 59), ("eni-a", 61, 119), ("eni-b", 60, 120))]
    later = row.format("eni-a", 7200, 7260)  # the other has been silent: it speaks for the flow now
    rows, decoder = decoded([fields, *lines, later])
    assert [row["start_ns"] // S for row in rows] == [0, 60, 7200]
    assert counted(decoder) == {"header": 1, "parsed": 3, "duplicate": 2}


def test_aws_records_as_json() -> None:
    plain = {
        "srcaddr": "198.18.0.1",
        "dstaddr": "10.20.1.10",
        "start": 5,
        "end": "6",
        "bytes": 9,
        "tcp_flags": 2,
        "protocol": 6,
    }
    rows, decoder = decoded([json.dumps(plain), json.dumps({"log_status": "NODATA", "srcaddr": "-"})])
    assert [picked(row, "src", "bytes", "attempted") for row in rows] == [("198.18.0.1", 9, 1)]
    assert counted(decoder) == {"parsed": 1, "nodata": 1}


def test_aws_records_in_cloudwatch_events() -> None:
    envelope = {"messageType": "DATA_MESSAGE", "logEvents": [{"id": "1", "timestamp": 1, "message": V2}] * 2}
    listed = {"events": [{"timestamp": 1, "message": V2, "ingestionTime": 2}]}
    rows, decoder = decoded([json.dumps(envelope), *json.dumps(listed, indent=2).split("\n")])
    assert [row["bytes"] for row in rows] == [4249] * 3
    assert counted(decoder) == {"parsed": 3}


# ---- Zeek ----------------------------------------------------------------------------------------------------------------


def test_a_zeek_connection_is_two_rows() -> None:
    rows, decoder = decoded(zeek([connection()]))
    names = ("start_ns", "end_ns", "src", "dst", "src_port", "dst_port", "bytes", "packets", *TOLD)
    begin, end = 1_700_000_000_250_000_000, 1_700_000_002_750_000_000
    assert [picked(row, *names) for row in rows] == [
        (begin, end, "198.18.0.1", "10.20.1.10", 40000, 443, 552, 6, 1, 1, 0, 1),
        (begin, end, "10.20.1.10", "198.18.0.1", 443, 40000, 1160, 5, 0, 0, 0, 0),
    ]
    assert counted(decoder) == {"header": 7, "parsed": 2}


@pytest.mark.parametrize(
    ("state", "history", "want"),
    [
        ("S0", "S", (1, 0, 1)),
        ("S1", "ShADad", (1, 1, 0)),
        ("SF", "ShADadFf", (1, 1, 0)),
        ("REJ", "Sr", (1, 0, 1)),
        ("S2", "ShADadF", (1, 1, 0)),
        ("S3", "ShADadf", (1, 1, 0)),
        ("RSTO", "ShADadR", (1, 1, 0)),
        ("RSTO", "ShR", (1, 0, 1)),
        ("RSTR", "ShADadr", (1, 1, 0)),
        ("RSTR", "Shr", (1, 0, 1)),
        ("RSTO", "-", (1, 1, 0)),
        ("RSTOS0", "SR", (1, 0, 1)),
        ("RSTRH", "^hr", (0, 0, 0)),
        ("SH", "SF", (1, 0, 1)),
        ("SHR", "^hf", (0, 0, 0)),
        ("OTH", "DdA", (0, 0, 0)),
        ("-", "-", (-1, -1, -1)),
    ],
)
def test_what_zeeks_states_say_of_connections(state: str, history: str, want: tuple[int, ...]) -> None:
    rows, _ = decoded(zeek([connection(conn_state=state, history=history)]))
    assert picked(rows[0], *TOLD) == (*want, 1)
    assert picked(rows[1], *TOLD) == (*(min(0, count) for count in want), 0)


def test_zeeks_fields_in_another_order_with_another_separator_and_less_of_them() -> None:
    fields = ("proto", "id.resp_p", "id.resp_h", "id.orig_p", "id.orig_h", "ts")
    row = connection(proto="icmp", ts="5.5")
    row |= {"id.orig_h": "2001:db8::1", "id.resp_h": "2001:db8::2", "id.orig_p": 128, "id.resp_p": 129}
    lines = [line.replace("\t", "|") for line in zeek([row], fields)]
    rows, _ = decoded(["#separator |", *lines[1:]])
    names = ("src", "src_port", "dst_port", "protocol", "bytes", "packets", "start_ns", "end_ns")
    assert picked(rows[0], *names) == ("2001:db8::1", 0, 0, 58, -1, -1, 5_500_000_000, 5_500_000_000)


def test_zeeks_payload_bytes_are_no_ip_bytes() -> None:
    rows, _ = decoded(zeek([connection(orig_ip_bytes="-", resp_ip_bytes="-")]))
    assert [picked(row, "bytes", "packets") for row in rows] == [(-1, 6), (-1, 5)]


def test_zeek_as_json() -> None:
    row = connection(ts=1700000000.25, duration=2.5)
    nested = {name: value for name, value in row.items() if not name.startswith("id.")}
    nested["id"] = {name[3:]: value for name, value in row.items() if name.startswith("id.")}
    spelled = row | {"ts": "2023-11-14T22:13:20.250000Z"}
    plain, _ = decoded(zeek([connection()]))
    for each in (row, nested, spelled):
        assert decoded([json.dumps(each)])[0] == plain


def test_zeek_tells_what_it_missed_and_that_its_rows_are_whole_connections() -> None:
    decoder = LogDecoder()
    records = decoder.decode(LogLines(tuple(line.encode() for line in zeek([connection(missed_bytes=77)])), 1))
    assert decoder.missed_bytes == 77
    assert isinstance(records, ConnectionRecords)


def test_another_of_zeeks_logs_is_not_read() -> None:
    lines = ["#separator \\x09", "#path\tdns", "#fields\tts\tuid", "1.0\tC1"]
    rows, decoder = decoded(lines)
    assert (rows, counted(decoder)) == ([], {"header": 3, "unsupported": 1})
    assert decoder.problems == ("line 4: this is Zeek's log of 'dns', not conn",)


# ---- GCP -----------------------------------------------------------------------------------------------------------------


def test_a_gcp_entry() -> None:
    rows, decoder = decoded([json.dumps(gcp())])
    names = ("start_ns", "end_ns", "src", "dst", "src_port", "dst_port", "protocol", "bytes", "packets", "rate", *TOLD)
    assert picked(rows[0], *names) == (
        1_700_000_000_123_456_789,
        1_700_000_005_500_000_000,
        "10.20.1.10",
        "10.20.2.10",
        443,
        50123,
        6,
        5000 + 10 * 40,
        10,
        1,
        -1,
        -1,
        -1,
        -1,
    )
    assert counted(decoder) == {"parsed": 1}


def test_gcp_entries_of_both_ends_count_once_in_lines_or_in_an_array() -> None:
    other = {"src_ip": "10.20.2.10", "src_port": 50123, "dest_ip": "10.20.1.10", "dest_port": 443, "protocol": 17}
    entries = [
        gcp(),
        gcp(reporter="DEST"),
        gcp(reporter="DEST", connection=other),
        gcp(reporter="SRC", connection=other),
        gcp(),
    ]
    by_line = decoded([json.dumps(entry) for entry in entries])
    pretty = decoded(json.dumps(entries, indent=2).split("\n"))
    packed = decoded([json.dumps(entries)])
    bare = decoded([json.dumps(entry["jsonPayload"]) for entry in entries])
    assert by_line[0] == pretty[0] == packed[0] == bare[0]
    assert [row["bytes"] for row in by_line[0]] == [5400, 5000 + 10 * 28, 5400]
    assert counted(by_line[1]) == counted(pretty[1]) == {"parsed": 3, "duplicate": 2}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"connection": {"src_ip": "10.0.0.1"}}, "malformed"),
        ({"connection": None}, "unsupported"),
        ({"start_time": 5}, "malformed"),
        ({"start_time": "2023-02-30T00:00:00Z"}, "malformed"),
        ({"end_time": "2001-01-01T00:00:00Z"}, "malformed"),
        ({"bytes_sent": "-5"}, "malformed"),
        ({"packets_sent": 1e300}, "malformed"),
        ({"packets_sent": math.inf}, "malformed"),
        ({"packets_sent": 10**400}, "malformed"),
        ({"bytes_sent": [1]}, "malformed"),
    ],
)
def test_gcp_entries_that_are_none(changes: dict[str, Any], kind: str) -> None:
    rows, decoder = decoded([json.dumps(gcp()), json.dumps(gcp(**changes))])
    assert (len(rows), counted(decoder)) == (1, {"parsed": 1, kind: 1})


# ---- Azure ---------------------------------------------------------------------------------------------------------------

T0 = 1_700_000_000_000
FLOW = "198.18.0.1,10.20.1.10,40000,443,6,I"


def test_a_virtual_networks_flow_from_its_beginning_to_its_end() -> None:
    begun = vnet(f"{T0},{FLOW},B,NX,0,0,0,0")
    rest = vnet(f"{T0 + 60_000},{FLOW},C,NX,10,2000,8,9000", f"{T0 + 70_000},{FLOW},E,NX,3,300,2,200")
    rows, decoder = decoded(document([begun, rest]))
    names = ("start_ns", "end_ns", "src", "bytes", "packets", *TOLD)
    assert [picked(row, *names) for row in rows] == [
        (T0 * 10**6, T0 * 10**6, "198.18.0.1", 0, 0, 1, 0, 0, 1),
        (T0 * 10**6, (T0 + 60_000) * 10**6, "198.18.0.1", 2000, 10, 0, 1, 0, 1),
        (T0 * 10**6, (T0 + 60_000) * 10**6, "10.20.1.10", 9000, 8, 0, 0, 0, 0),
        ((T0 + 60_000) * 10**6, (T0 + 70_000) * 10**6, "198.18.0.1", 300, 3, 0, 0, 0, 1),
        ((T0 + 60_000) * 10**6, (T0 + 70_000) * 10**6, "10.20.1.10", 200, 2, 0, 0, 0, 0),
    ]
    assert counted(decoder) == {"parsed": 5}


@pytest.mark.parametrize(
    ("record", "want"),
    [
        (vnet(f"{T0},{FLOW},D,NX,0,0,0,0"), [(0, 0, 1, 0, 1, 1)]),
        (
            vnet(f"{T0},{FLOW},B,NX,,,,", f"{T0 + 9},{FLOW},E,NX,1,60,1,40"),
            [(0, 0, 1, 0, 0, 1), (60, 1, 0, 0, 1, 1), (40, 1, 0, 0, 0, 0)],
        ),
        (vnet(f"{T0},{FLOW},E,NX,5,500,0,0"), [(500, 5, 0, 0, 0, 1), (0, 0, 0, 0, 0, 0)]),  # its beginning was not seen
        (nsg("1700000000,198.18.0.1,10.20.1.10,40000,443,T,I,D,B,,,,"), [(-1, -1, 1, 0, 1, 1)]),
        (nsg("1700000000,198.18.0.1,10.20.1.10,40000,443,T,I,A,B,,,,"), [(0, 0, 1, 0, 0, 1)]),
        (nsg("1700000000,198.18.0.1,10.20.1.10,40000,53,U,I,A,C,4,240,4,400"), [(240, 4, 0, 0, 0, 1), (400, 4, 0, 0, 0, 0)]),
        (nsg("1700000000,198.18.0.1,10.20.1.10,40000,443,T,I,A", version=1), [(-1, -1, 1, -1, -1, 1)]),
        (nsg("1700000000,198.18.0.1,10.20.1.10,40000,443,T,I,D", version=1), [(-1, -1, 1, 0, 1, 1)]),
        (nsg("1700000000,198.18.0.1,10.20.1.10,40000,53,U,I,A", version=1), [(-1, -1, 0, 0, 0, 1)]),
    ],
)
def test_azure_tuples(record: dict[str, Any], want: list[tuple[int, ...]]) -> None:
    rows, _ = decoded(document([record]))
    assert [picked(row, "bytes", "packets", *TOLD) for row in rows] == want


def test_azure_flows_that_both_interfaces_log_count_once() -> None:
    flow = "10.20.1.10,10.20.2.10,40000,5432,6"
    lines = document(
        [
            vnet(f"{T0},{flow},O,E,NX,5,500,4,400", mac="A"),
            vnet(f"{T0 + 5},{flow},I,E,NX,5,500,4,400", mac="B"),
        ]
    )
    rows, decoder = decoded(lines)
    assert sum(row["bytes"] for row in rows) == 900
    assert counted(decoder) == {"parsed": 2, "duplicate": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,2",
        f"{T0},{FLOW},X,NX,0,0,0,0",
        f"x,{FLOW},B,NX,,,,",
        f"{T0},1.2.3,10.0.0.1,1,2,6,I,B,NX,,,,",
        "9" * 5000,
        7,
        None,
    ],
)
def test_azure_tuples_that_are_none(text: Any) -> None:
    rows, decoder = decoded(document([vnet(f"{T0},{FLOW},D,NX,,,,", text)]))
    assert (len(rows), counted(decoder)) == (1, {"parsed": 1, "malformed": 1})


# ---- documents -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 0, 2])
def test_a_document_is_read_in_one_line_or_in_many(indent: int | None) -> None:
    records = [vnet(f"{T0 + k},198.18.0.{k},10.20.1.10,1,2,6,I,D,NX,1,{k},0,0") for k in range(50)]
    rows, decoder = decoded(document(records, indent), batch=7)
    assert [row["bytes"] for row in rows] == list(range(50))
    assert counted(decoder) == {"parsed": 50}


def test_a_document_larger_than_what_is_read_at_once() -> None:
    tuples = [f"{T0},198.18.0.1,10.20.1.10,{k % 60_000},2,6,I,D,NX,1,60,0,0" for k in range(2000)]
    line = json.dumps({"records": [vnet(*tuples) for _ in range(25)], "next": [1, {"a": 2}]})
    assert len(line) > 3 << 20
    rows, decoder = decoded([line])
    assert (len(rows), counted(decoder)) == (50_000, {"parsed": 50_000})


def test_a_json_line_that_is_cut_off_takes_the_next_with_it_at_most() -> None:
    whole = json.dumps(gcp())
    for at in range(1, len(whole) - 1, 17):
        rows, decoder = decoded([whole, whole[:at], whole, whole, whole])
        assert 3 <= len(rows) <= 4
        assert decoder.accounts()["malformed"] >= 1


def test_a_document_that_is_cut_off_gives_what_was_whole() -> None:
    lines = document([vnet(f"{T0},{FLOW},D,NX,,,,")] * 3, indent=1)
    rows, decoder = decoded(lines[:-9])
    assert (len(rows), counted(decoder)) == (2, {"parsed": 2, "malformed": 1})
    assert re.match(r"line 1: .*doesn't end", decoder.problems[0])


# ---- hostile -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe" * 50,
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[{]}",
        b'"unended',
        b"]",
        b"}",
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"message": 5}',
        b'{"properties": {}, "flowRecords": 7}',
        b'{"jsonPayload": {}}',
        b'{"id": {"orig_h": {}}}',
        b'{"id.orig_h": []}',
        b'{"srcaddr": {}, "dstaddr": [], "start": null}',
        b'{"records": [1, null, "x", [[]], {}]}',
        b"{}",
        b"[]",
        b"null",
        b"\0" * 1000,
        b"-" * 70_000,
        b" ".join([b"99999999999999999999"] * 14),
        V2.replace("4249", "9" * 30).encode(),
        V2.replace("198.18.0.1", "198.18.0.256").encode(),
        V2.replace("10.20.1.10", "::1").encode(),
        V2.replace(" 443 ", " 65536 ").encode(),
        V2.replace("4249", "-1").encode(),
        V2.replace("4249", "\u0661\u0662").encode(),
        V2.replace("1700000070", "1600000000").encode(),
        V2.replace("1700000070", "9" * 19).encode(),
        V2.replace("1700000070", "9" * 10).encode(),  # seconds, or milliseconds, that don't fit into ns
        V2.replace("1700000070", "9" * 13).encode(),
        json.dumps(vnet("99999999999,198.18.0.1,10.20.1.10,40000,443,6,I,D,NX,0,0,0,0")).encode(),
        b"#separator \\xZZ",
        b"#separator \\",
        b"#fields",
        b"#" + b"\t" * 1000,
    ],
)
def test_no_line_stops_what_follows(line: bytes) -> None:
    rows, _ = decoded([V2, line])
    assert len(rows) == 1
    rows, decoder = decoded([V2, line, b"]}", V2.encode(), V2.encode()])
    assert len(rows) >= 1
    assert sum(decoder.accounts().values()) >= 3


def test_a_string_of_a_hundred_megabytes_costs_little() -> None:
    for part in (b"a", b'\\"'):
        rows, decoder = decoded([b'{"x": "' + part * (100_000_000 // len(part)) + b'"}', json.dumps(gcp())])
        assert (len(rows), counted(decoder)) == (1, {"parsed": 1, "malformed": 1})


def test_text_that_no_format_explains_is_refused() -> None:
    with pytest.raises(SourceError, match=r"no flow log that is known \(line 1: 3 fields.*header"):
        decoded(["what is this"] * 10)
    with pytest.raises(SourceError, match="no flow log"):
        LogDecoder().decode(LogLines((b"x",) * 1000, 1))


def test_the_first_few_problems_of_a_kind_are_kept() -> None:
    _, decoder = decoded([V2, *["bad line"] * 100])
    assert decoder.accounts()["malformed"] == 100
    assert decoder.problems == tuple(f"line {k}: 2 fields, where there should be 14" for k in range(2, 7))


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2)
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.dictionaries(
                st.sampled_from(["srcaddr", "dstaddr", "start", "end", "bytes", "protocol", "tcp_flags"]), values
            ).map(lambda d: json.dumps(d).encode()),
            st.dictionaries(st.sampled_from(sorted(gcp()["jsonPayload"])), values).map(lambda d: json.dumps(gcp(**d)).encode()),
            st.lists(
                st.sampled_from(["-", "1", "x", "10.0.0.1", "::1", "6", "1700000000", "OK"]), min_size=13, max_size=15
            ).map(lambda v: " ".join(v).encode()),
        ),
        max_size=8,
    ),
    st.integers(1, 5),
)
def test_anything_is_counted_and_batches_change_nothing(lines: list[bytes], batch: int) -> None:
    lines = [V2.encode(), *(line.replace(b"\n", b" ") for line in lines)]
    whole, one = decoded(lines)
    parts, other = decoded(lines, batch=batch)
    assert whole == parts
    assert one.accounts() == other.accounts()
    assert one.problems == other.problems
    assert one.accounts()["parsed"] == len(whole)


@settings(max_examples=60, deadline=None)
@given(st.permutations(ALL_FIELDS), st.integers(0, 2**48), st.integers(0, 2**32 - 1), st.integers(0, 65535))
def test_any_order_of_aws_fields(order: list[str], size: int, host: int, port: int) -> None:
    src = f"{host >> 24}.{host >> 16 & 255}.{host >> 8 & 255}.{host & 255}"
    values = dict.fromkeys(ALL_FIELDS, "-") | {
        "srcaddr": src,
        "dstaddr": "10.0.0.1",
        "srcport": str(port),
        "bytes": str(size),
        "start": "1",
        "end": "2",
        "log-status": "OK",
    }
    rows, _ = decoded([" ".join(order), " ".join(values[name] for name in order)])
    assert picked(rows[0], "src", "src_port", "bytes", "packets") == (src, port, size, -1)
