"""What travels between stages: batches are structs of NumPy columns, results are frozen records. Nouns only, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NANOSECONDS = 1_000_000_000


class Outcome(IntEnum):
    """What became of a frame. Each frame has exactly one outcome: parsed + the others = offered."""

    PARSED = 0
    NOT_IP = 1  # a well-formed frame of another protocol: ARP, STP, LLDP
    UNKNOWN_LINK = 2  # a link type that isn't decoded
    LINK_TRUNCATED = 3  # the capture ends inside the link, VLAN or MPLS header
    IP_TRUNCATED = 4  # the capture ends inside the IP header
    IP_MALFORMED = 5  # wrong version, header length, total length, or an endless chain of extension headers
    ELSEWHERE = 6  # another worker's share of the same traffic: it counts there, and here only its time is heeded


MALFORMED: frozenset[Outcome] = frozenset({Outcome.LINK_TRUNCATED, Outcome.IP_TRUNCATED, Outcome.IP_MALFORMED})
"""Outcomes that may have hidden a packet of the network: counted into `missed_packets`."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Raw frames as a tap gave them. All columns have one length, n; `data` holds the bytes of all of them.

    data: uint8[bytes]; offset: int64[n], where frame i begins in `data`; captured: int64[n], bytes there; length:
    int64[n], bytes on the wire; time_ns: int64[n], since the epoch; link: int64[n], LINKTYPE_ numbers, or Link's.
    complete_to_ns: no frame taken before this time will follow, so that what ended before may be closed though nothing
    comes; 0 where that is not known (files).
    """

    data: Bytes
    offset: Ints
    captured: Ints
    length: Ints
    time_ns: Ints
    link: Ints
    complete_to_ns: int = 0

    def __len__(self) -> int:
        return len(self.offset)


class Link(IntEnum):
    """Link types of ours, beyond LINKTYPE_ numbers: what the payload of a tunnel's endpoint begins with."""

    VXLAN = 0x10001  # RFC 7348
    GENEVE = 0x10002  # RFC 8926
    GRE = 0x10003  # RFC 2784, 2890; ERSPAN within


@dataclass(frozen=True, slots=True)
class Datagrams:
    """UDP payloads of flow exporters, as a collector received them: NetFlow, IPFIX or sFlow.

    data: uint8[bytes]; offset, size: int64[n], where datagram i lies; time_ns: int64[n], when it was received;
    exporter: n names, the sender's address (and port where that tells exporters apart). complete_to_ns: as in Frames.
    """

    data: Bytes
    offset: Ints
    size: Ints
    time_ns: Ints
    exporter: tuple[str, ...]
    complete_to_ns: int = 0

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True, slots=True)
class LogLines:
    """Whole lines of a flow log, in order, without their ends; `first_line` is the number of the first, from 1."""

    lines: tuple[bytes, ...]
    first_line: int

    def __len__(self) -> int:
        return len(self.lines)


UNTOLD = -1
"""In a count of FlowRecords: the source doesn't tell."""


@dataclass(frozen=True, slots=True)
class FlowRecords:
    """Flows that another device metered: one row a flow and direction. All columns have one length, n.

    start_ns, end_ns: int64, first and last packet (an instant where they are equal); version uint8 (4, 6); protocol uint8;
    src_hi, src_lo, dst_hi, dst_lo uint64 and src_port, dst_port uint16 as in Packets; bytes, packets: int64, IP layer, as
    exported, before scaling; rate: int64, one packet in so many was looked at, 1 where all were; attempted, established,
    failed: int64, connections that this row begins, completes, and fails, before scaling, or UNTOLD; a connection told by two
    rows, one a direction, counts in one of them, the client's. from_client: int8, whether the source sent the row's
    packets as the connection's client (1), its server (0), or that isn't told (-1). src_vm, dst_vm int32, set by attribution.
    Bytes or packets may be UNTOLD too; such a row counts for what it does tell.
    complete_to_ns: as in Frames, 0 where not known.
    """

    start_ns: Ints
    end_ns: Ints
    version: NDArray[np.uint8]
    protocol: NDArray[np.uint8]
    src_hi: NDArray[np.uint64]
    src_lo: NDArray[np.uint64]
    dst_hi: NDArray[np.uint64]
    dst_lo: NDArray[np.uint64]
    src_port: NDArray[np.uint16]
    dst_port: NDArray[np.uint16]
    bytes: Ints
    packets: Ints
    rate: Ints
    attempted: Ints
    established: Ints
    failed: Ints
    from_client: NDArray[np.int8]
    src_vm: NDArray[np.int32]
    dst_vm: NDArray[np.int32]
    complete_to_ns: int = 0

    def __len__(self) -> int:
        return len(self.start_ns)


@dataclass(frozen=True, slots=True)
class ConnectionRecords(FlowRecords):
    """Flow records in which a client's row spans the whole connection: it was open from its start to its end (Zeek)."""


@dataclass(frozen=True, slots=True)
class Packets:
    """Decoded packets, one row a frame, also for frames that weren't parsed (their other columns are 0).

    time_ns int64; outcome uint8 (Outcome); version uint8 (4, 6); protocol uint8 (IANA, after extension headers);
    src_hi, src_lo, dst_hi, dst_lo uint64 (IPv4 in `lo`, `hi` 0); src_port, dst_port uint16 (0 where there are
    none, or in a later fragment); flags uint8 (TCP); seq, ack uint32; window uint16 (as it stands, unscaled); ts_value,
    ts_echo uint32 (TCP timestamps, RFC 7323; both 0 where there are none); ip_bytes int64 (IP layer); payload_bytes int64
    (beyond the transport header, -1 where the transport header wasn't read); inner_at int64: how far behind its frame's
    beginning the frame or packet lies that this one carries through a tunnel, -1 where it carries none; inner_link int64:
    that one's link type; src_vm, dst_vm int32: rows of the network's VMs, -1 for none, -2 for an address inside the
    network's CIDRs that no VM has; set by attribution.
    """

    time_ns: Ints
    outcome: NDArray[np.uint8]
    version: NDArray[np.uint8]
    protocol: NDArray[np.uint8]
    src_hi: NDArray[np.uint64]
    src_lo: NDArray[np.uint64]
    dst_hi: NDArray[np.uint64]
    dst_lo: NDArray[np.uint64]
    src_port: NDArray[np.uint16]
    dst_port: NDArray[np.uint16]
    flags: NDArray[np.uint8]
    seq: NDArray[np.uint32]
    ack: NDArray[np.uint32]
    window: NDArray[np.uint16]
    ts_value: NDArray[np.uint32]
    ts_echo: NDArray[np.uint32]
    ip_bytes: Ints
    payload_bytes: Ints
    inner_at: Ints
    inner_link: Ints
    src_vm: NDArray[np.int32]
    dst_vm: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.time_ns)


@dataclass(frozen=True, slots=True)
class Losses:
    """What a tap knows that it didn't give: frames dropped before it, and what ended it early.

    `dropped`: frames that the capturing side reported lost (of flow collectors: datagrams). `unread_bytes`: bytes of the
    source after the point where it could not be read further; `ended`: why, in words, "" for a clean end. `freezes`: how
    often a ring was full, so that frames were dropped. `filtered`: datagrams that its own filter turned away (other VNIs).
    """

    dropped: int = 0
    unread_bytes: int = 0
    ended: str = ""
    freezes: int = 0
    filtered: int = 0


@dataclass(frozen=True, slots=True)
class Accounts:
    """Where every frame of an observation went. `outcomes` by reason; the rest are parts of the parsed ones.

    offered = sum of outcomes. attributed + foreign + unclaimed = parsed. `late` and `untracked` are attributed packets
    whose bytes or whose connection could not be metered; `transport_unread` had a truncated or malformed TCP header;
    `uncounted`: peers, requests and times that found their tables full. `scanners`: foreign sources that were called
    scanners; `scanned_attempts`: attempts that were theirs or background radiation. `evicted_attempts`: unanswered attempts
    that gave way to new connections in a full table; `evicted_sources`: sources forgotten because theirs was full.
    `exports`: of flow exporters, what became of their datagrams, sets and records, by the names in decode.flow_exports.
    """

    offered: int
    outcomes: Mapping[str, int]
    attributed: int
    foreign: int
    unclaimed: int
    late: int
    untracked: int
    transport_unread: int
    uncounted: int
    losses: Losses = field(default_factory=Losses)
    scanners: int = 0
    scanned_attempts: int = 0
    evicted_attempts: int = 0
    evicted_sources: int = 0
    exports: Mapping[str, int] = field(default_factory=dict)

    @property
    def parsed(self) -> int:
        return self.outcomes.get(Outcome.PARSED.name.lower(), 0)


@dataclass(frozen=True, slots=True)
class Requests:
    """Inferred requests to VMs, ordered by (vm, time). All columns have one length.

    time_ns int64, when the request's first byte was seen; vm int32, row of the network's VMs; opens bool, whether it was
    the first on its connection.
    """

    time_ns: Ints
    vm: NDArray[np.int32]
    opens: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.time_ns)


@dataclass(frozen=True, slots=True)
class Intervals:
    """Closed intervals, in order: what was observed and inferred of each VM in each.

    start_ns: int64[k], the intervals' beginnings, each `interval_ns` long, increasing, with gaps where nothing watched;
    columns: name -> array [k, V] (int64 for whole columns, float64 with NaN otherwise); one_sided: bool[k, V], whether
    only one direction of the VM's traffic was seen; requests: those whose first byte lies in these intervals.
    """

    interval_ns: int
    start_ns: Ints
    columns: Mapping[str, NDArray[np.generic]]
    one_sided: NDArray[np.bool_]
    requests: Requests

    def __len__(self) -> int:
        return len(self.start_ns)


class Origin(StrEnum):
    """Which machine a row speaks of: the shadow's emulated VM, or the real one."""

    SHADOW = "shadow"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class MetricBatch:
    """Rows for a metric store: every catalogue column of k intervals and V VMs.

    start_ns int64[k]; vms: V names; columns: name -> [k, V], int64 or float64 (NaN: not known); one_sided bool[k, V];
    source: what was observed, such as "pcap:shop.pcap"; subnets, roles: of each VM, or () where that is not told.
    before: of columns that are counts, float64[V]: what was counted in the intervals right before the first one, NaN where it
    follows none. Told by whoever sends a batch to another process, which need not remember it then; empty where nobody tells.
    """

    network: str
    interval_s: float
    vms: tuple[str, ...]
    start_ns: Ints
    columns: Mapping[str, NDArray[np.generic]]
    one_sided: NDArray[np.bool_]
    source: str
    origin: Origin = Origin.SHADOW
    subnets: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    before: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.start_ns)

    @classmethod
    def joined(cls, batches: Sequence[MetricBatch]) -> MetricBatch:
        """Batches that follow each other as one. Raises ValueError for none, or for batches of different networks."""
        first = batches[0] if batches else None
        if first is None or any((b.network, b.vms, b.origin) != (first.network, first.vms, first.origin) for b in batches):
            raise ValueError("only batches of one network, its VMs and one origin can be joined; give at least one")
        return replace(
            first,
            start_ns=np.concatenate([b.start_ns for b in batches]),
            columns={name: np.concatenate([b.columns[name] for b in batches]) for name in first.columns},
            one_sided=np.concatenate([b.one_sided for b in batches]),
        )


@dataclass(frozen=True, slots=True)
class SeriesQuery:
    """What to read: columns of some VMs (none: all) from start_ns up to, but without, end_ns (none: all there is).

    step_s: the grid; a multiple of the stored interval rolls up as the catalogue says; None: the stored interval.
    """

    network: str
    columns: tuple[str, ...]
    vms: tuple[str, ...] = ()
    start_ns: int | None = None
    end_ns: int | None = None
    step_s: float | None = None
    origin: Origin = Origin.SHADOW


@dataclass(frozen=True, slots=True)
class Series:
    """Columns on a regular grid. values: name -> float64[V, T]; gaps are NaN. one_sided: float64[V, T], NaN in gaps.

    Step t begins at start_ns + t * step_s seconds. T is 0 where nothing is stored.
    """

    network: str
    vms: tuple[str, ...]
    start_ns: int
    step_s: float
    values: Mapping[str, Floats]
    one_sided: Floats

    @property
    def steps(self) -> int:
        return int(self.one_sided.shape[1])


@dataclass(frozen=True, slots=True)
class Panel:
    """One resource of many VMs on a regular grid: values float64[V, T], in the resource's unit; gaps are NaN."""

    resource: str
    vms: tuple[str, ...]
    start_ns: int
    step_s: float
    values: Floats


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A forecast: values float64[V, H, L], at `levels` (L, increasing), for H steps of step_s from start_ns on."""

    resource: str
    vms: tuple[str, ...]
    start_ns: int
    step_s: float
    levels: tuple[float, ...]
    values: Floats

    def to_dict(self) -> dict[str, Any]:
        """Plain data: values as lists, NaN where a quantile isn't known."""
        return {
            "resource": self.resource, "vms": list(self.vms), "start_ns": self.start_ns, "step_s": self.step_s,
            "levels": list(self.levels), "values": self.values.tolist(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Quantiles:
        """What `to_dict` gave, through JSON or not (null: NaN). Raises KeyError or ValueError for anything else."""
        vms, levels = tuple(plain["vms"]), tuple(map(float, plain["levels"]))
        values = np.array(plain["values"], np.float64).reshape(len(vms), -1, len(levels))
        return cls(plain["resource"], vms, int(plain["start_ns"]), float(plain["step_s"]), levels, values)
