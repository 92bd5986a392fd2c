"""Reads GCP VPC flow log entries, JSON objects, into rows. No files, no attribution."""

from __future__ import annotations

from collections.abc import Mapping

from adumbra.decode.flow_logs_rows import (
    DUPLICATE,
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
    Reporters,
    Rows,
    Tally,
    UnsupportedError,
    address,
    iso_ns,
    port,
    whole,
)  # fmt: skip
from adumbra.schema.records import UNTOLD

_TRANSPORT_HEADER_BYTES = {TCP: 20, UDP: 8}


class GcpEntries:
    """GCP VPC flow logs ("About VPC Flow Logs records"), as Cloud Logging's entries or as their `jsonPayload` alone.

    A flow between two VMs of the project is reported by both, as SRC and as DEST: the first reporter that tells of it counts,
    what the other tells within 20 minutes is a duplicate. Google samples packets and scales what it logs: the rate is 1 here,
    and what sampling costs in certainty isn't told. `bytes_sent` is documented as users' payload: the IP-layer bytes are
    taken to be that and the least headers of `packets_sent` packets (IPv4 20 or IPv6 40, TCP 20 or UDP 8 bytes: RFC 791, 8200,
    9293, 768), without options. Flags and clients aren't told, nor therefore connections.
    """

    def __init__(self, rows: Rows, tally: Tally) -> None:
        self._rows, self._tally = rows, tally
        self._reporters = Reporters()

    def read(self, entry: Mapping[str, object], line: int) -> None:
        """Reads an entry and counts what became of it."""
        try:
            duplicate = self._read(entry.get("jsonPayload", entry))
        except MalformedError as error:
            self._tally.drop(MALFORMED, line, error)
        except UnsupportedError as error:
            self._tally.drop(UNSUPPORTED, line, error)
        else:
            self._tally.count(DUPLICATE if duplicate else PARSED)

    def _read(self, payload: object) -> bool:
        connection = payload.get("connection") if isinstance(payload, Mapping) else None
        if not isinstance(payload, Mapping) or not isinstance(connection, Mapping):
            raise UnsupportedError("an entry without a connection is no flow")
        src, dst = connection.get("src_ip"), connection.get("dest_ip")
        if not isinstance(src, str) or not isinstance(dst, str):
            raise MalformedError("a connection without its addresses")
        ends = Ends(
            address(src), address(dst), port(connection.get("src_port", 0)), port(connection.get("dest_port", 0)),
            whole(connection.get("protocol", UNKNOWN_PROTOCOL), "protocol", 255),
        )  # fmt: skip
        start_ns, end_ns = iso_ns(payload.get("start_time")), iso_ns(payload.get("end_time"))
        if end_ns < start_ns:
            raise MalformedError("it ends before it starts")
        packets = whole(payload["packets_sent"], "packets_sent") if "packets_sent" in payload else UNTOLD
        size = UNTOLD
        if "bytes_sent" in payload and packets != UNTOLD:
            header = (20 if ends.src[0] == 4 else 40) + _TRANSPORT_HEADER_BYTES.get(ends.protocol, 0)
            size = whole(payload["bytes_sent"], "bytes_sent") + packets * header
        if self._reporters.is_duplicate(ends, payload.get("reporter") == "DEST", end_ns):
            return True
        told = Connections() if ends.protocol in {TCP, UNKNOWN_PROTOCOL} else NO_CONNECTIONS
        self._rows.add(ends, (start_ns, end_ns), (size, packets), told)
        return False
