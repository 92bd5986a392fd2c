"""Lines of flow logs for tests, from their documented fields up, with made-up values; and what a decoder makes of lines."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adumbra.decode.flow_logs import LogDecoder
from adumbra.schema.records import FlowRecords, LogLines

DATA = Path(__file__).parents[3] / "shared" / "data" / "flows"
ZEEK_FIELDS = (
    "ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "duration", "orig_bytes", "resp_bytes",
    "conn_state", "missed_bytes", "history", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes",
)  # fmt: skip


def decoded(lines: Iterable[str | bytes], batch: int = 10_000) -> tuple[list[dict[str, Any]], LogDecoder]:
    """The rows of some lines, as dictionaries with readable addresses, and the decoder that gave them."""
    decoder = LogDecoder()
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    rows: list[dict[str, Any]] = []
    for at in range(0, len(raw), batch):
        rows += as_rows(decoder.decode(LogLines(tuple(raw[at : at + batch]), at + 1)))
    return rows + as_rows(decoder.finish()), decoder


def as_rows(records: FlowRecords) -> list[dict[str, Any]]:
    names = (
        "start_ns", "end_ns", "protocol", "src_port", "dst_port", "bytes", "packets", "rate", "attempted", "established",
        "failed", "from_client",
    )  # fmt: skip
    rows = []
    for i in range(len(records)):
        row: dict[str, Any] = {name: int(getattr(records, name)[i]) for name in names}
        for end in ("src", "dst"):
            number = int(getattr(records, f"{end}_hi")[i]) << 64 | int(getattr(records, f"{end}_lo")[i])
            kind = ipaddress.IPv4Address if records.version[i] == 4 else ipaddress.IPv6Address
            row[end] = str(kind(number))
        rows.append(row)
    return rows


def counted(decoder: LogDecoder) -> dict[str, int]:
    """The decoder's accounts, without what didn't happen."""
    return {name: count for name, count in decoder.accounts().items() if count}


def picked(row: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def zeek(rows: Sequence[Mapping[str, object]], fields: Sequence[str] = ZEEK_FIELDS) -> list[str]:
    """A conn.log with these rows; what a row doesn't say is unset."""
    head = ["#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-", "#path\tconn"]
    names = "\t".join(("#fields", *fields))
    return [*head, names, *("\t".join(str(row.get(field, "-")) for field in fields) for row in rows), "#close\t2024-01-01"]


def connection(**changes: object) -> dict[str, object]:
    """A connection as Zeek tells it."""
    return {
        "ts": "1700000000.250000", "uid": "Cmade1up", "id.orig_h": "198.18.0.1", "id.orig_p": 40000, "id.resp_h": "10.20.1.10",
        "id.resp_p": 443, "proto": "tcp", "duration": "2.500000", "orig_bytes": 300, "resp_bytes": 900, "conn_state": "SF",
        "missed_bytes": 0, "history": "ShADadFf", "orig_pkts": 6, "orig_ip_bytes": 552, "resp_pkts": 5, "resp_ip_bytes": 1160,
    } | changes  # fmt: skip


def gcp(**changes: Any) -> dict[str, Any]:
    """An entry of Cloud Logging with a VPC flow, 64-bit numbers being strings as in its JSON."""
    payload = {
        "connection": {"src_ip": "10.20.1.10", "src_port": 443, "dest_ip": "10.20.2.10", "dest_port": 50123, "protocol": 6},
        "bytes_sent": "5000", "packets_sent": "10", "reporter": "SRC", "rtt_msec": "3",
        "start_time": "2023-11-14T22:13:20.123456789Z", "end_time": "2023-11-14T22:13:25.5Z",
    }  # fmt: skip
    name = "projects/made-up/logs/compute.googleapis.com%2Fvpc_flows"
    return {"insertId": "1x", "logName": name, "jsonPayload": payload | changes, "timestamp": "2023-11-14T22:13:30Z"}


def vnet(*tuples: str, mac: str = "0022480A1B2C") -> dict[str, Any]:
    """A record of a virtual network's flow log."""
    group = {"rule": "DefaultRule_AllowInternetOutBound", "flowTuples": list(tuples)}
    return {
        "time": "2023-11-14T22:14:00.0Z", "flowLogVersion": 4, "macAddress": mac, "category": "FlowLogFlowEvent",
        "flowRecords": {"flows": [{"aclID": "00000000-1234", "flowGroups": [group]}]},
    }  # fmt: skip


def nsg(*tuples: str, version: int = 2, mac: str = "000D3AF87856") -> dict[str, Any]:
    """A record of a network security group's flow log."""
    flows = [{"rule": "DefaultRule_DenyAllInBound", "flows": [{"mac": mac, "flowTuples": list(tuples)}]}]
    return {
        "time": "2023-11-14T22:14:00.0Z", "category": "NetworkSecurityGroupFlowEvent",
        "properties": {"Version": version, "flows": flows},
    }  # fmt: skip


def document(records: Sequence[Mapping[str, Any]], indent: int | None = None) -> list[str]:
    """Azure's one document a file, in one line, or in many."""
    return json.dumps({"records": records}, indent=indent).split("\n")
