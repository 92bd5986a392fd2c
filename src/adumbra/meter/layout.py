"""What the meter's kernels share: counters, scalars, records, and the arrays they work on. Computes nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.records import Ints

Records = NDArray[np.void]

IPV4_HIGH = np.uint64(0xFFFFFFFFFFFFFFFF)  # stands for the upper half of an IPv4 address
NOT_STARTED = -(1 << 62)
DONE, CLOSE, GROW = 0, 1, 2  # what the kernel tells its caller: all is done; to close intervals; to make tables larger
NOTES_A_PACKET = 8  # at most, and connections

# ---- what is counted per interval and VM: the most frequent ones first, in one cache line ----------------------------
COUNTERS = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "segments", "requests", "peers", "active_change",
    "connections_attempted", "connections_initiated", "connections_established", "connections_failed",
    "retransmitted_packets", "out_of_order_packets", "duplicate_acks", "zero_windows", "connections_scanned", "scan_bytes",
    "missed_packets",
)  # fmt: skip
(
    RX_BYTES, TX_BYTES, RX_PACKETS, TX_PACKETS, SEGMENTS, REQUESTS, PEERS, ACTIVE, ATTEMPTED, INITIATED, ESTABLISHED, FAILED,
    RETRANSMITTED, OUT_OF_ORDER, DUPLICATE_ACKS, ZERO_WINDOWS, SCANNED_COUNT, SCAN_BYTES, MISSED,
) = range(19)  # fmt: skip

# ---- the meter's scalars, in one array -------------------------------------------------------------------------------
(
    CLOCK,  # latest packet time seen, ns
    OLDEST,  # index of the oldest open interval
    EARLIEST,  # index of the first interval in which anything was seen
    LATEST,  # index of the latest interval in which anything happened
    CLOSE_TO,  # the interval that must become open
    GAP,  # where nothing watched before CLOSE_TO: the first interval of that gap; else 0
    FILL_BUDGET,  # quiet intervals that may still be filled with zeros
    FREE,  # head of the list of free entries, -1 for none
    USED,  # entries in use
    LATE, UNTRACKED, TRANSPORT_UNREAD, FOREIGN, UNCLAIMED, ATTRIBUTED,  # packets
    PEERS_USED, PEERS_UNCOUNTED,  # slots of the peers' table, and peers that found it full
    FREE_CHUNK, CHUNKS_USED, NOTES_DROPPED,  # head of the free chunks (-1: none), chunks in use, notes that found no room
    MISSED_UNPLACED,  # missed packets that no interval has taken yet
    EVICTED,  # unanswered attempts that gave way to new connections
    SCANNERS, SCANNED_ATTEMPTS,  # sources called scanners, and attempts counted as scanned
    SOURCES_EVICTED,  # sources that gave way to others before they were forgotten
    LISTED,  # attempts listed so far
) = range(26)  # fmt: skip
SCALARS = 26

# ---- what is asked of it, in one array -------------------------------------------------------------------------------
(
    INTERVAL_NS, GRACE, MAX_QUIET, SEED, MOST, PENDING_NS, STREAM_NS, DATAGRAM_NS, SCAN_TARGETS, SCAN_BITS, SCAN_PER_MILLION,
    SCAN_MEMORY_NS, MOST_CHUNKS,
) = range(13)  # fmt: skip

# ---- a connection ----------------------------------------------------------------------------------------------------
# What every packet touches fills one cache line. `key` is the whole pair of IPv4 addresses; of IPv6 it is a hash, and ADDRESSES
# holds them. `mark_ns` is the time of the SYN until the connection opens, then that of the last request. `a` and `b` are the
# two ends; next: the sequence number that each would send next; ack, window: what it said last.
ENTRY = np.dtype(
    [
        ("key", np.uint64), ("last_ns", np.int64), ("mark_ns", np.int64), ("next_a", np.uint32), ("next_b", np.uint32),
        ("ack_a", np.uint32), ("ack_b", np.uint32), ("ports", np.uint32), ("chain", np.int32), ("met", np.int32),
        ("state", np.uint32), ("window_a", np.uint16), ("window_b", np.uint16), ("protocol", np.uint8), ("version", np.uint8),
        ("spare", np.uint16),
    ],
)  # fmt: skip
# What some packets touch, in a cache line too. sample: data whose acknowledgement is waited for; hole: sequence numbers that a
# side skipped, and when (us, modulo 2^32).
DETAIL = np.dtype(
    [
        ("sample_ns_a", np.int64), ("sample_ns_b", np.int64),
        ("sample_value_a", np.uint32), ("sample_value_b", np.uint32), ("sample_end_a", np.uint32), ("sample_end_b", np.uint32),
        ("hole_begin_a", np.uint32), ("hole_end_a", np.uint32), ("hole_begin_b", np.uint32), ("hole_end_b", np.uint32),
        ("hole_us_a", np.uint32), ("hole_us_b", np.uint32), ("rtt_us", np.uint32), ("spare", np.uint32),
    ],
)  # fmt: skip
# How it began, and whose it is: the interval and the bytes of the packet that did, both sides' first sequence numbers.
BIRTH = np.dtype(
    [
        ("interval", np.int64), ("bytes", np.uint32), ("isn_client", np.uint32), ("isn_server", np.uint32),
        ("vm_a", np.int32), ("vm_b", np.int32), ("spare", np.uint32),
    ],
)  # fmt: skip
ADDRESSES = np.dtype([("a_hi", np.uint64), ("a_lo", np.uint64), ("b_hi", np.uint64), ("b_lo", np.uint64)])

(
    SYN_SEEN, ANSWERED, OPEN, CLOSED, CLIENT_IS_B, FIN_A, FIN_B, SEQ_A, SEQ_B, ASKED, REPLIED,
    RETRIED,  # its SYN was sent again
    GIVEN_UP,  # it counts as failed, and stays only for its next SYN to be known again
    HALF_SEEN,  # it opened out of sight: the client acknowledges an answer that was not seen
    ACK_A, ACK_B,  # a side has acknowledged something: its ack and window are known
    HOLE_A, HOLE_B,  # a side skipped sequence numbers that haven't come yet
    PROBE_A, PROBE_B,  # the last segment of a side was a keep-alive
    WANTED_A, WANTED_B,  # a side's next data in this interval is to be timed
    SAMPLE_A, SAMPLE_B,  # a side's data waits for its acknowledgement
    SCANNED,  # it comes from a scanner, or is background radiation
    UNDECLARED,  # as long as it stays a single SYN it is background radiation
) = (1 << bit for bit in range(26))  # fmt: skip
SETTLED = ANSWERED | OPEN | CLOSED | GIVEN_UP
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
TCP, UDP, SCTP = 6, 17, 132
REPLACED = 255  # a protocol number reserved by IANA: no packet matches it

UNTRACKED_SIDE, FROM_A, FROM_B = 0, 1, 2  # which end of its connection sent a packet

# Queues of entries to look at again.
PENDING, STREAM, DATAGRAM = 0, 1, 2  # a TCP connection's first look, its later ones, any look at another flow

# ---- peers, notes, sources of attempts -------------------------------------------------------------------------------
PEER = np.dtype([("hi", np.uint64), ("lo", np.uint64), ("met", np.uint64), ("last", np.int32), ("vm", np.int32)])
MET_INTERVALS = 64  # how many intervals, up to the last one, a peer's bits tell of

CHUNK = 128  # notes in a chunk; the lists are of chunks
KINDS = 4
ROUND_TRIP, RESPONSE, ACKNOWLEDGED, REQUEST = range(KINDS)  # a request's value is twice its time, and one more where it opens

# `targets`: one of 64 bits for each (VM's address, port) that it tried, by hash (linear counting); `last`: the number of the
# attempt listed last, which tells of the one before.
SOURCE = np.dtype(
    [
        ("hi", np.uint64), ("lo", np.uint64), ("targets", np.uint64), ("last_ns", np.int64), ("last", np.int64),
        ("attempts", np.uint32), ("completions", np.uint32), ("listed", np.uint16), ("standing", np.uint8),
        ("called", np.uint8), ("spare", np.uint32),
    ]
)  # fmt: skip
UNKNOWN, ORDINARY, SCANNER = 0, 1, 2  # a source's standing; UNKNOWN: an empty slot
WAYS = 8  # slots in which a source may stand
ATTEMPT = np.dtype(
    [
        ("before", np.int64), ("interval", np.int64), ("entry", np.int32), ("vm", np.int32), ("bytes", np.uint32),
        ("count", np.int32),
    ]
)  # fmt: skip


class Columns(NamedTuple):
    """Packets, as the kernel takes them: the columns of the record of that name, and what identifies their connections."""

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
    src_vm: NDArray[np.int32]
    dst_vm: NDArray[np.int32]
    side: NDArray[np.uint8]
    key: NDArray[np.uint64]
    ports: NDArray[np.uint32]
    spread: NDArray[np.uint64]


class Table(NamedTuple):
    """Connections: entries and what belongs to each, hash buckets over them, and the rings in which they wait."""

    entries: Records
    details: Records
    births: Records
    addresses: Records
    bucket_of: NDArray[np.int32]
    buckets: NDArray[np.int32]
    queue: NDArray[np.int32]
    due: Ints
    heads: Ints


class Book(NamedTuple):
    """What is written down: counters of the open intervals int64[rows, VMs + 1, counters], notes, scalars; what is asked.

    values, noted: int64 and int32[chunks, CHUNK], the notes and their VMs; following: int32[chunks], the chunk before in its
    list (-1: none); lists: int64[rows, kinds, 2], the newest chunk (-1: none) and how many notes. The last column, beyond the
    VMs', takes what belongs to none: no branch on what can't be foreseen.
    """

    ring: Ints
    missed: Ints
    values: Ints
    noted: NDArray[np.int32]
    following: NDArray[np.int32]
    lists: Ints
    scalars: Ints
    asked: Ints


class Origins(NamedTuple):
    """Where attempts come from: sources, a ring of their latest attempts, and the ports that each VM declares.

    A VM declares the ports[starts[vm] : starts[vm + 1]]; none where it says nothing.
    """

    sources: Records
    attempts: Records
    starts: Ints
    ports: NDArray[np.uint16]


COLUMN_TYPES = {
    "time_ns": np.int64, "outcome": np.uint8, "version": np.uint8, "protocol": np.uint8, "src_hi": np.uint64,
    "src_lo": np.uint64, "dst_hi": np.uint64, "dst_lo": np.uint64, "src_port": np.uint16, "dst_port": np.uint16,
    "flags": np.uint8, "seq": np.uint32, "ack": np.uint32, "window": np.uint16, "ts_value": np.uint32, "ts_echo": np.uint32,
    "ip_bytes": np.int64, "payload_bytes": np.int64, "src_vm": np.int32, "dst_vm": np.int32, "side": np.uint8,
    "key": np.uint64, "ports": np.uint32, "spread": np.uint64,
}  # fmt: skip
