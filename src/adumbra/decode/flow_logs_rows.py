"""What the flow log formats share: rows of flows, strict readers of their values, and the tally of lines. Knows no format."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.records import NANOSECONDS, UNTOLD, ConnectionRecords, FlowRecords

MAX_COUNT = 1 << 48
"""No flow is believed to hold more bytes, packets or connections than this (281 TB)."""
MAX_TIME_NS = 1 << 62  # in the year 2116
TCP, UDP = 6, 17
UNKNOWN_PROTOCOL = 255  # reserved by IANA: the source doesn't say which
PARSED, HEADER, NODATA, SKIPDATA, MALFORMED, UNSUPPORTED, DUPLICATE = (
    "parsed", "header", "nodata", "skipdata", "malformed", "unsupported", "duplicate",
)  # fmt: skip
KINDS = (PARSED, HEADER, NODATA, SKIPDATA, MALFORMED, UNSUPPORTED, DUPLICATE)

_KEPT_PROBLEMS = 5
_PIECE_ROWS = 1 << 14
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:?\d\d)", re.ASCII)
_DECIMAL = re.compile(r"(\d{1,12})(?:\.(\d{1,9})\d*)?", re.ASCII)


class MalformedError(ValueError):
    """A value can't be what its field should hold. Its text says which and why, in a few words."""


class UnsupportedError(ValueError):
    """The entry is well-formed, but it isn't, or doesn't hold, what a flow needs."""


class Ends(NamedTuple):
    """Who a flow is between. Addresses are (version, upper half, lower half)."""

    src: tuple[int, int, int]
    dst: tuple[int, int, int]
    src_port: int
    dst_port: int
    protocol: int

    def back(self) -> Ends:
        return Ends(self.dst, self.src, self.dst_port, self.src_port, self.protocol)


class Connections(NamedTuple):
    """Connections that a row begins, completes and fails (UNTOLD: not told), and whether its source is the client."""

    attempted: int = UNTOLD
    established: int = UNTOLD
    failed: int = UNTOLD
    from_client: int = -1

    def of_answers(self) -> Connections:
        """What the server's row tells where the client's tells this: no connection again, and nothing that is untold."""
        return Connections(min(0, self.attempted), min(0, self.established), min(0, self.failed), 0)


NO_CONNECTIONS = Connections(0, 0, 0)
"""What a row that begins no connection tells: one of another protocol than TCP, or in the middle of a connection."""

_COLUMNS = {
    "start_ns": np.int64, "end_ns": np.int64, "version": np.uint8, "protocol": np.uint8, "src_hi": np.uint64,
    "src_lo": np.uint64, "dst_hi": np.uint64, "dst_lo": np.uint64, "src_port": np.uint16, "dst_port": np.uint16,
    "bytes": np.int64, "packets": np.int64, "attempted": np.int64, "established": np.int64, "failed": np.int64,
    "from_client": np.int8,
}  # fmt: skip


class Rows:
    """Rows of flows, gathered one by one and given as columns. Turned into columns every few thousand, to keep them small."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, ...]] = []
        self._pieces: list[list[NDArray[Any]]] = []

    def add(self, ends: Ends, time_ns: tuple[int, int], counts: tuple[int, int], connections: Connections) -> None:
        """A row of a flow. time_ns: first and last packet; counts: bytes and packets. Raises MalformedError."""
        src, dst = ends.src, ends.dst
        if src[0] != dst[0]:
            raise MalformedError("an IPv4 and an IPv6 address in one flow")
        self._rows.append((
            *time_ns, src[0], ends.protocol, *src[1:], *dst[1:], ends.src_port, ends.dst_port, *counts, *connections,
        ))  # fmt: skip
        if len(self._rows) >= _PIECE_ROWS:
            self._pack()

    def take(self, *, whole_connections: bool) -> FlowRecords:
        """All rows so far, which are forgotten; as ConnectionRecords where a client's row spans its connection."""
        self._pack()
        pieces, self._pieces = self._pieces, []
        columns: dict[str, Any] = {
            name: np.concatenate(parts) for name, parts in zip(_COLUMNS, zip(*pieces, strict=True), strict=True)
        }
        rows = len(columns["start_ns"])
        kind = ConnectionRecords if whole_connections else FlowRecords
        return kind(
            **columns, rate=np.ones(rows, np.int64), src_vm=np.full(rows, -1, np.int32), dst_vm=np.full(rows, -1, np.int32)
        )

    def _pack(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else ((),) * len(_COLUMNS)
        self._pieces.append([np.array(c, d) for c, d in zip(columns, _COLUMNS.values(), strict=True)])
        self._rows = []


class Tally:
    """What became of the lines, or of the entries in them; of what was dropped, the first few are told."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(KINDS, 0)
        self._problems: dict[str, list[str]] = {}

    def count(self, kind: str, entries: int = 1) -> None:
        self._counts[kind] += entries

    def drop(self, kind: str, line: int, why: object) -> None:
        """Counts an entry that gives no flow. `why` in a few words."""
        self._counts[kind] += 1
        kept = self._problems.setdefault(kind, [])
        if len(kept) < _KEPT_PROBLEMS:
            kept.append(f"line {line}: {why}")

    @property
    def counts(self) -> Mapping[str, int]:
        return dict(self._counts)

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(text for kept in self._problems.values() for text in kept)


class Reporters:
    """Which reporter tells of each flow, where several see it: the first that told of it, as long as it goes on telling.

    At most `most` flows are remembered; the one told of longest ago gives way.
    """

    def __init__(self, most: int = 1 << 18, lapse_s: int = 1200) -> None:
        self._most = most
        self._lapse_ns = lapse_s * NANOSECONDS
        self._of: dict[object, tuple[object, int]] = {}

    def is_duplicate(self, flow: object, reporter: object, end_ns: int) -> bool:
        """Whether another reporter tells of that flow already."""
        owner, last_ns = self._of.pop(flow, (reporter, end_ns))
        if owner != reporter and end_ns <= last_ns + self._lapse_ns:
            self._of[flow] = owner, last_ns
            return True
        if len(self._of) >= self._most:
            del self._of[next(iter(self._of))]
        self._of[flow] = reporter, max(end_ns, last_ns) if owner == reporter else end_ns
        return False


@lru_cache(maxsize=1 << 16)
def address(text: str) -> tuple[int, int, int]:
    """An address as (version, upper half, lower half); IPv4's upper half is 0. Raises MalformedError."""
    try:
        if ":" in text:
            packed = socket.inet_pton(socket.AF_INET6, text)
            return 6, int.from_bytes(packed[:8], "big"), int.from_bytes(packed[8:], "big")
        return 4, 0, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    except (OSError, ValueError):
        raise MalformedError(f"{text[:40]!r} is no address") from None


def whole(value: object, name: str, most: int = MAX_COUNT) -> int:
    """A count, from its digits or as a JSON number. Raises MalformedError for what is none, or for more than `most`."""
    if isinstance(value, str):
        if len(value) < 20 and value.isdigit() and value.isascii() and (number := int(value)) <= most:
            return number
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise MalformedError(f"{name} is {shortened(value)}, not a number from 0 to {most}")
    return value


def port(value: object) -> int:
    return whole(value, "a port", 65_535)


def epoch_ns(value: object) -> int:
    """A time since the epoch in s, ms, us or ns: by its size, as 10^11 s lie in the year 5138. Raises MalformedError."""
    number = whole(value, "a time", MAX_TIME_NS)
    scale = next((scale for scale in (NANOSECONDS, 1_000_000, 1000) if number < 10**11 * (NANOSECONDS // scale)), 1)
    if number * scale > MAX_TIME_NS:
        raise MalformedError(f"a time is {shortened(value)}, beyond the year 2116")
    return number * scale


def decimal_ns(value: object, name: str) -> int:
    """Seconds with a fraction, as text or as a JSON number, in ns. Raises MalformedError."""
    if isinstance(value, str) and (found := _DECIMAL.fullmatch(value)):
        ns = int(found[1]) * NANOSECONDS + int((found[2] or "0").ljust(9, "0"))
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**11:
        ns = round(value * 1e6) * 1000 if isinstance(value, float) else value * NANOSECONDS  # a double holds microseconds
    else:
        raise MalformedError(f"{name} is {shortened(value)}, not seconds")
    if ns > MAX_TIME_NS:
        raise MalformedError(f"{name} is {shortened(value)}, beyond the year 2116")
    return ns


def iso_ns(value: object) -> int:
    """A time in RFC 3339, to the nanosecond. Raises MalformedError."""
    found = _ISO.fullmatch(value) if isinstance(value, str) and len(value) < 64 else None
    if found:
        zone = "+00:00" if found[4] == "Z" else found[4]
        try:
            seconds = round(datetime.fromisoformat(f"{found[1]}T{found[2]}{zone}").timestamp())
        except (ValueError, OverflowError):
            seconds = -1
        if 0 <= seconds < MAX_TIME_NS // NANOSECONDS:
            return seconds * NANOSECONDS + int((found[3] or "0").ljust(9, "0"))
    raise MalformedError(f"{shortened(value)} is no time")


def is_iso(text: str) -> bool:
    return _ISO.fullmatch(text) is not None


def shortened(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1 << 64:
        return "a huge number"  # whose digits may be too many to write
    return (
        repr(value[:40] if isinstance(value, str) else value)[:60] if not isinstance(value, dict | list) else "no plain value"
    )
