"""Writes what flow exporters send, from its fields up: NetFlow v5 and v9, IPFIX, sFlow. And reads FlowRecords as rows."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from adumbra.schema.records import Datagrams, FlowRecords

SECOND = 10**9
EXPORT_S = 1_700_000_000
EXPORT_NS = EXPORT_S * SECOND
UPTIME_MS = 1_000_000

Spec = tuple[int, ...]
"""A field: element, size, and its enterprise's number where it has one."""

FLOW: tuple[Spec, ...] = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (6, 1), (1, 4), (2, 4), (22, 4), (21, 4))
"""Addresses, ports, protocol, TCP flags, bytes, packets, first and last on the uptime clock."""


class Row(NamedTuple):
    """A row of FlowRecords in words; times in ms before EXPORT_NS."""

    src: str
    dst: str
    ports: tuple[int, int]
    protocol: int
    bytes: int
    packets: int
    rate: int
    start: float
    end: float
    connections: tuple[int, int, int]
    from_client: int


def rows(flows: FlowRecords) -> list[Row]:
    """FlowRecords as rows. Fails where columns don't fit together."""
    assert len({len(getattr(flows, name)) for name in flows.__slots__ if hasattr(getattr(flows, name), "__len__")}) == 1
    assert np.all(flows.start_ns <= flows.end_ns)
    assert np.all(flows.rate >= 1)
    assert np.all(np.isin(flows.version, (4, 6)))
    return [
        Row(
            address(flows.version[i], flows.src_hi[i], flows.src_lo[i]),
            address(flows.version[i], flows.dst_hi[i], flows.dst_lo[i]),
            (int(flows.src_port[i]), int(flows.dst_port[i])),
            int(flows.protocol[i]),
            int(flows.bytes[i]),
            int(flows.packets[i]),
            int(flows.rate[i]),
            (int(flows.start_ns[i]) - EXPORT_NS) / 1e6,
            (int(flows.end_ns[i]) - EXPORT_NS) / 1e6,
            (int(flows.attempted[i]), int(flows.established[i]), int(flows.failed[i])),
            int(flows.from_client[i]),
        )
        for i in range(len(flows))
    ]


def address(version: int, hi: int, lo: int) -> str:
    number = int(hi) << 64 | int(lo)
    return str(ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number))


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def datagrams(
    payloads: Sequence[bytes], received_ns: Sequence[int] | int = EXPORT_NS, exporter: str = "192.0.2.1"
) -> Datagrams:
    """Payloads as a collector received them, with other bytes between them."""
    parts, offsets, at = [], [], 0
    for payload in payloads:
        offsets.append(at + 3)
        parts.append(b"\xee\xee\xee" + payload)
        at += 3 + len(payload)
    times = [received_ns] * len(payloads) if isinstance(received_ns, int) else list(received_ns)
    return Datagrams(
        data=np.frombuffer(bytearray().join([*parts, b"\xee"]), np.uint8),
        offset=np.array(offsets, np.int64),
        size=np.array([len(payload) for payload in payloads], np.int64),
        time_ns=np.array(times, np.int64),
        exporter=(exporter,) * len(payloads),
    )


# ---- NetFlow v5 ----------------------------------------------------------------------------------------------------------


def v5_record(
    src: str = "10.0.0.1",
    dst: str = "10.0.0.2",
    ports: tuple[int, int] = (40000, 80),
    protocol: int = 6,
    flags: int = 0,
    counts: tuple[int, int] = (1000, 10),
    times: tuple[int, int] = (UPTIME_MS - 5000, UPTIME_MS - 1000),
) -> bytes:
    head = packed(src) + packed(dst) + packed("0.0.0.0") + struct.pack(">HHIIII", 1, 2, counts[1], counts[0], *times)
    return head + struct.pack(">HHBBBBHHBBH", *ports, 0, flags, protocol, 0, 0, 0, 24, 24, 0)


def v5(
    *records: bytes, sequence: int = 0, sampling: int = 0, uptime_ms: int = UPTIME_MS, seconds: int = EXPORT_S, **other: int
) -> bytes:
    head = struct.pack(">HHIII", 5, other.get("count", len(records)), uptime_ms, seconds, other.get("rest_ns", 0))
    return head + struct.pack(">IHH", sequence, other.get("engine", 0), sampling) + b"".join(records)


# ---- NetFlow v9 and IPFIX ------------------------------------------------------------------------------------------------


def v9(*sets: bytes, sequence: int = 0, source: int = 7, uptime_ms: int = UPTIME_MS, seconds: int = EXPORT_S) -> bytes:
    return struct.pack(">HHIIII", 9, len(sets), uptime_ms, seconds, sequence, source) + b"".join(sets)


def ipfix(*sets: bytes, sequence: int = 0, domain: int = 7, seconds: int = EXPORT_S, length: int | None = None) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body) if length is None else length, seconds, sequence, domain) + body


def set_of(number: int, body: bytes, pad: int = 4) -> bytes:
    body += b"\0" * (-len(body) % pad)
    return struct.pack(">HH", number, 4 + len(body)) + body


def specs(fields: Sequence[Spec]) -> bytes:
    parts = []
    for element, size, *enterprise in fields:
        parts.append(struct.pack(">HH", element | 0x8000 if enterprise else element, size))
        parts += [struct.pack(">I", number) for number in enterprise]
    return b"".join(parts)


def templates(definitions: Mapping[int, Sequence[Spec]], number: int = 0) -> bytes:
    """A template set: number 0 for v9, 2 for IPFIX."""
    body = b"".join(struct.pack(">HH", key, len(fields)) + specs(fields) for key, fields in definitions.items())
    return set_of(number, body)


def options_v9(key: int, scopes: Sequence[Spec], fields: Sequence[Spec]) -> bytes:
    return set_of(1, struct.pack(">HHH", key, 4 * len(scopes), 4 * len(fields)) + specs(scopes) + specs(fields))


def options_ipfix(key: int, scopes: Sequence[Spec], fields: Sequence[Spec]) -> bytes:
    return set_of(3, struct.pack(">HHH", key, len(scopes) + len(fields), len(scopes)) + specs(scopes) + specs(fields))


def record(fields: Sequence[Spec], *values: int | str | bytes) -> bytes:
    """A record: numbers in as many bytes as the field has, addresses, or bytes; of variable length where the size is 65535."""
    parts = []
    for (_, size, *_), value in zip(fields, values, strict=True):
        if isinstance(value, str):
            parts.append(packed(value))
        elif isinstance(value, bytes):
            parts.append((bytes([len(value)]) if len(value) < 255 else b"\xff" + struct.pack(">H", len(value))) + value)
        else:
            parts.append(value.to_bytes(size, "big"))
    return b"".join(parts)


def flow(
    src: str = "10.0.0.1", dst: str = "10.0.0.2", ports: tuple[int, int] = (40000, 80), flags: int = 0, **other: int
) -> bytes:
    """A record of FLOW."""
    first, last = other.get("first", UPTIME_MS - 5000), other.get("last", UPTIME_MS - 1000)
    counts = other.get("bytes", 1000), other.get("packets", 10)
    return record(FLOW, src, dst, *ports, other.get("protocol", 6), flags, *counts, first, last)


# ---- sFlow ---------------------------------------------------------------------------------------------------------------


def xdr(kind: int, body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 4)
    return struct.pack(">II", kind, len(body)) + body


def raw_header(frame: bytes, protocol: int = 1, length: int | None = None, stripped: int = 4) -> bytes:
    wire = len(frame) + stripped if length is None else length
    return xdr(1, struct.pack(">IIII", protocol, wire, stripped, len(frame)) + frame)


def flow_sample(*records: bytes, rate: int = 100, drops: int = 0, source: int = 1, expanded: bool = False) -> bytes:
    if expanded:
        head = struct.pack(">11I", 1, 0, source, rate, 1000, drops, 0, 1, 0, 2, len(records))
    else:
        head = struct.pack(">8I", 1, source, rate, 1000, drops, 1, 2, len(records))
    return xdr(3 if expanded else 1, head + b"".join(records))


def sflow(*samples: bytes, sequence: int = 0, agent: str = "192.0.2.9", count: int | None = None, sub_agent: int = 0) -> bytes:
    name = packed(agent)
    head = struct.pack(">II", 5, 1 if len(name) == 4 else 2) + name
    return head + struct.pack(">IIII", sub_agent, sequence, 1, len(samples) if count is None else count) + b"".join(samples)


# ---- accounts ------------------------------------------------------------------------------------------------------------

DATAGRAM_FATES = ("read", "bad_version", "truncated", "malformed")
SET_FATES = ("read", "templates", "unknown", "malformed", "waiting", "dropped")
RECORD_FATES = (
    "given", "options", "no_addresses", "no_counts", "unbelievable", "cut_off", "counter_samples", "unsupported", "not_ip",
    "unreadable",
)  # fmt: skip


def balanced(accounts: Mapping[str, int], given_rows: int) -> bool:
    """Whether every datagram, set and record is there once, and every row."""
    return (
        accounts["datagrams"] == sum(accounts[f"datagrams_{fate}"] for fate in DATAGRAM_FATES)
        and accounts["sets"] == sum(accounts[f"sets_{fate}"] for fate in SET_FATES)
        and accounts["records"] == sum(accounts[f"records_{fate}"] for fate in RECORD_FATES)
        and given_rows == accounts["records_given"] + accounts["reverse_rows"]
        and all(count >= 0 for count in accounts.values())
    )
