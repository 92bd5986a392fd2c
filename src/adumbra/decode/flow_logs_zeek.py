"""Reads Zeek's conn.log, tab-separated or as JSON objects, into two rows a connection. No files, no attribution."""

from __future__ import annotations

from collections.abc import Mapping

from adumbra.decode.flow_logs_rows import (
    HEADER,
    MALFORMED,
    NO_CONNECTIONS,
    PARSED,
    TCP,
    UDP,
    UNKNOWN_PROTOCOL,
    UNSUPPORTED,
    Connections,
    Ends,
    MalformedError,
    Rows,
    Tally,
    UnsupportedError,
    address,
    decimal_ns,
    iso_ns,
    port,
    shortened,
    whole,
)  # fmt: skip
from adumbra.schema.records import UNTOLD

_REQUIRED = ("ts", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto")
_NEEDED = (
    *_REQUIRED, "duration", "orig_pkts", "resp_pkts", "orig_ip_bytes", "resp_ip_bytes", "conn_state", "history",
    "missed_bytes", "ip_proto",
)  # fmt: skip
_PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": 1}
_ICMP, _ICMP6 = 1, 58

_ATTEMPTED = frozenset({"S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "SH"})
_FAILED = frozenset({"S0", "REJ", "RSTOS0", "SH"})
_RESET = frozenset({"RSTO", "RSTR"})
_OUT_OF_SIGHT = frozenset({"RSTRH", "SHR", "OTH"})  # no SYN was seen


class ZeekConnections:
    """Zeek's conn.log ("base/protocols/conn/main.zeek" in the Book of Zeek): the client's packets a row, the server's another.

    Bytes are `orig_ip_bytes` and `resp_ip_bytes`, from the packets' IP headers. Where they aren't logged bytes are untold:
    `orig_bytes` and `resp_bytes` are payload, by sequence numbers. `conn_state` tells what became of a TCP connection:
    attempted where its SYN was seen (not RSTRH, SHR, OTH); failed for S0, REJ, RSTOS0 and SH; else established. A reset
    (RSTO, RSTR) whose `history` has no packet of the client after the server's SYN-ACK, as of a half-open scan, has failed. Of
    connections that began out of sight none of these is told as seen. A missing duration (one packet) is an instant.
    """

    def __init__(self, rows: Rows, tally: Tally) -> None:
        self._rows, self._tally = rows, tally
        self.missed_bytes = 0
        self.read_any = False
        self._separator, self._unset, self._empty = "\t", "-", "(empty)"
        self._count = 0
        self._place: dict[str, int] = {}
        self._refused = ""

    @property
    def begun(self) -> bool:
        """Whether a header has named the fields of the lines that follow."""
        return self._count > 0

    def read_header(self, text: str) -> None:
        """Learns from a line that begins with `#`; one that is no directive of Zeek's is a comment."""
        self._tally.count(HEADER)
        if text.startswith("#separator "):
            try:
                separator = text[11:].strip().encode("ascii").decode("unicode_escape")
            except (UnicodeError, ValueError):
                separator = ""
            self._separator = separator or "\t"
            return
        name, _, rest = text.partition(self._separator)
        if name == "#unset_field":
            self._unset = rest
        elif name == "#empty_field":
            self._empty = rest
        elif name == "#path":
            self._refused = "" if rest.startswith("conn") else f"this is Zeek's log of {shortened(rest)}, not conn"
        elif name == "#fields":
            names = rest.split(self._separator)
            self._count = len(names)
            self._place = {field: names.index(field) for field in _NEEDED if field in names}

    def read_line(self, text: str, line: int) -> None:
        """Reads a connection's line and counts what became of it."""
        values = text.split(self._separator)
        if self._refused:
            self._tally.drop(UNSUPPORTED, line, self._refused)
        elif len(values) != self._count:
            self._tally.drop(MALFORMED, line, f"{len(values)} fields, where there should be {self._count}")
        else:
            absent = (self._unset, self._empty)
            self.read({name: values[at] for name, at in self._place.items() if values[at] not in absent}, line)

    def read(self, values: Mapping[str, object], line: int) -> None:
        """Reads a connection by its fields' names, unset ones left out, and counts what became of it."""
        try:
            self._read(values)
        except MalformedError as error:
            self._tally.drop(MALFORMED, line, error)
        except UnsupportedError as error:
            self._tally.drop(UNSUPPORTED, line, error)
        else:
            self._tally.count(PARSED, 2)

    def _read(self, values: Mapping[str, object]) -> None:
        missing = [name for name in _REQUIRED if name not in values]
        if missing:
            raise UnsupportedError(f"a connection without {', '.join(missing)} can't be placed")
        protocol = _protocol(values)
        client, server = address(str(values["id.orig_h"])), address(str(values["id.resp_h"]))
        if protocol == _ICMP and client[0] == 6:
            protocol = _ICMP6
        ports = port(values["id.orig_p"]), port(values["id.resp_p"])
        if protocol in {_ICMP, _ICMP6}:
            ports = 0, 0  # Zeek puts ICMP's type and code there
        ends = Ends(client, server, *ports, protocol)
        start = values["ts"]
        start_ns = iso_ns(start) if isinstance(start, str) and "-" in start else decimal_ns(start, "ts")
        end_ns = start_ns + (decimal_ns(values["duration"], "duration") if "duration" in values else 0)
        if end_ns >= 1 << 62:
            raise MalformedError("it ends beyond the year 2116")
        counts = [_count(values, name) for name in ("orig_ip_bytes", "orig_pkts", "resp_ip_bytes", "resp_pkts")]
        missed_bytes = max(0, _count(values, "missed_bytes"))
        connections = _connections(values) if protocol == TCP else NO_CONNECTIONS._replace(from_client=1)
        self._rows.add(ends, (start_ns, end_ns), (counts[0], counts[1]), connections)
        self._rows.add(ends.back(), (start_ns, end_ns), (counts[2], counts[3]), connections.of_answers())
        self.missed_bytes += missed_bytes
        self.read_any = True


def _count(values: Mapping[str, object], name: str) -> int:
    return UNTOLD if name not in values else whole(values[name], name)


def _protocol(values: Mapping[str, object]) -> int:
    if "ip_proto" in values:
        return whole(values["ip_proto"], "ip_proto", 255)
    name = values["proto"]
    return _PROTOCOLS.get(name, UNKNOWN_PROTOCOL) if isinstance(name, str) else UNKNOWN_PROTOCOL


def _connections(values: Mapping[str, object]) -> Connections:
    """What a TCP connection's state says of it; nothing is told where Zeek gave none."""
    state, history = values.get("conn_state"), values.get("history")
    if state in _OUT_OF_SIGHT:
        return Connections(0, 0, 0, 1)
    if not isinstance(state, str) or state not in _ATTEMPTED:
        return Connections(from_client=1)
    failed = state in _FAILED or (state in _RESET and isinstance(history, str) and not _completed(history))
    return Connections(1, int(not failed), int(failed), 1)


def _completed(history: str) -> bool:
    """Whether the client's ACK or data followed the server's SYN-ACK (`h`). Upper case is the client's, `^` a flipped side."""
    _, answered, after = history.partition("h")
    return bool(answered) and any(letter in "AD" for letter in after)
