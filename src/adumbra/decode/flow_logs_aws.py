"""Reads AWS VPC flow log records, versions 2 to 5, as text or as JSON objects, into rows. No files, no attribution."""

from __future__ import annotations

from collections.abc import Mapping

from adumbra.decode.flow_logs_rows import (
    DUPLICATE,
    HEADER,
    MALFORMED,
    NO_CONNECTIONS,
    NODATA,
    PARSED,
    SKIPDATA,
    TCP,
    UNKNOWN_PROTOCOL,
    UNSUPPORTED,
    Connections,
    Ends,
    MalformedError,
    Reporters,
    Rows,
    Tally,
    UnsupportedError,
    address,
    epoch_ns,
    is_iso,
    port,
    whole,
)  # fmt: skip
from adumbra.schema.records import UNTOLD

VERSION_2 = (
    "version", "account-id", "interface-id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes",
    "start", "end", "action", "log-status",
)  # fmt: skip
ALL_FIELDS = (
    *VERSION_2,
    "vpc-id", "subnet-id", "instance-id", "tcp-flags", "type", "pkt-srcaddr", "pkt-dstaddr",
    "region", "az-id", "sublocation-type", "sublocation-id",
    "pkt-src-aws-service", "pkt-dst-aws-service", "flow-direction", "traffic-path",
)  # fmt: skip
"""The fields in the order of their documentation, which a log without a header is taken to have."""

_UNTITLED = (14, 21, 25, 29)  # how many fields versions 2, 3, 4 and 5 have
_STATUSES = {"OK", NODATA.upper(), SKIPDATA.upper(), "-"}
_KNOWN = frozenset(ALL_FIELDS)
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


class AwsRecords:
    """AWS VPC flow logs (Amazon VPC User Guide, "Flow log records").

    The header line names the fields, in any order; without one, 14 fields are version 2's, and 21, 25 or 29 all those up to
    version 3, 4 or 5. `pkt-srcaddr` and `pkt-dstaddr` stand before `srcaddr` and `dstaddr` where they are logged: the latter
    name the interface that the flow passed, by its primary address, which is another one behind a NAT gateway, for an EKS
    pod, or for an interface's secondary address.

    A flow within the VPC is recorded at both ends' interfaces: the first interface that tells of it counts, whatever
    others tell within 20 minutes is a duplicate.

    `tcp-flags` are or-ed over the aggregation interval. SYN alone is the client's: an attempt. SYN with ACK (18) is the
    server's: a connection established, counted there. REJECT is a failed attempt where the row holds a SYN. Whether an
    accepted attempt was answered isn't told by its row. Without flags (version 2) nothing is told of connections. A SYN that
    is sent again in a later interval counts again. The times are whole seconds, of the first and the last packet.
    """

    def __init__(self, rows: Rows, tally: Tally) -> None:
        self._rows, self._tally = rows, tally
        self._fields: tuple[str, ...] = ()
        self._place: dict[str, int] = {}
        self._reporters = Reporters()

    def read_line(self, text: str, line: int) -> bool:
        """Reads a line and counts what became of it. Whether it looks like AWS's at all."""
        values = text.split()
        if ("srcaddr" in text or "dstaddr" in text) and len(_KNOWN.intersection(values)) >= 2:
            self._name_fields(values)
            self._tally.count(HEADER)
            return True
        wanted = len(self._fields)
        if len(values) == (wanted or 14) + 1 and is_iso(values[0]):
            values = values[1:]  # CloudWatch's export puts the time of ingestion before each record
        if not wanted and len(values) in _UNTITLED and values[13] in _STATUSES:
            self._name_fields(ALL_FIELDS[: len(values)])
            wanted = len(values)
        if not wanted:
            self._tally.drop(MALFORMED, line, f"{len(values)} fields, and no header names them")
        elif len(values) != wanted:
            self._tally.drop(MALFORMED, line, f"{len(values)} fields, where there should be {wanted}")
        else:
            place = self._place
            self.read({name: values[at] for name, at in place.items() if values[at] != "-"}, line)
        return wanted > 0

    def read(self, values: Mapping[str, object], line: int) -> None:
        """Reads a record by its fields' names, absent ones left out, and counts what became of it."""
        status = values.get("log-status")
        if status in {"NODATA", "SKIPDATA"}:
            self._tally.count(NODATA if status == "NODATA" else SKIPDATA)
            return
        try:
            duplicate = self._read(values)
        except MalformedError as error:
            self._tally.drop(MALFORMED, line, error)
        except UnsupportedError as error:
            self._tally.drop(UNSUPPORTED, line, error)
        else:
            self._tally.count(DUPLICATE if duplicate else PARSED)

    def _name_fields(self, names: list[str] | tuple[str, ...]) -> None:
        self._fields = tuple(names)
        self._place = {name: at for at, name in enumerate(names) if name in _NEEDED}

    def _read(self, values: Mapping[str, object]) -> bool:
        src = values.get("pkt-srcaddr") or values.get("srcaddr")
        dst = values.get("pkt-dstaddr") or values.get("dstaddr")
        start, end = values.get("start"), values.get("end")
        missing = [n for n, v in zip(("srcaddr", "dstaddr", "start"), (src, dst, start or end), strict=True) if v is None]
        if missing:
            raise UnsupportedError(f"a record without {' and '.join(missing)} can't be placed")
        protocol = values.get("protocol")
        ends = Ends(
            address(str(src)), address(str(dst)), port(values.get("srcport", 0)), port(values.get("dstport", 0)),
            UNKNOWN_PROTOCOL if protocol is None else whole(protocol, "protocol", 255),
        )  # fmt: skip
        start_ns = epoch_ns(start if start is not None else end)
        end_ns = epoch_ns(end if end is not None else start)
        if end_ns < start_ns:
            raise MalformedError("it ends before it starts")
        counts = _count(values, "bytes"), _count(values, "packets")
        connections = _connections(values, ends.protocol)
        reporter = values.get("interface-id")
        if reporter is not None and self._reporters.is_duplicate(ends, reporter, end_ns):
            return True
        self._rows.add(ends, (start_ns, end_ns), counts, connections)
        return False


_NEEDED = frozenset(
    {
        "interface-id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes", "start", "end", "action",
        "log-status", "tcp-flags", "pkt-srcaddr", "pkt-dstaddr",
    }
)  # fmt: skip


def _count(values: Mapping[str, object], name: str) -> int:
    return UNTOLD if name not in values else whole(values[name], name)


def _connections(values: Mapping[str, object], protocol: int) -> Connections:
    flags = whole(values["tcp-flags"], "tcp-flags", 255) if "tcp-flags" in values else None
    if protocol != TCP:
        return NO_CONNECTIONS if protocol != UNKNOWN_PROTOCOL else Connections()
    if flags is None:
        return Connections()
    rejected = values.get("action") == "REJECT"
    if flags & _SYN and not flags & _ACK:
        return Connections(1, 0, 1 if rejected else UNTOLD, 1)
    if flags & _SYN:
        return Connections(0, 0 if rejected else 1, 0, 0)
    return Connections(0, 0, UNTOLD if flags & _RST else 0)
