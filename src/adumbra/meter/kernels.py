"""The meter's inner loop: each packet's time, counters, connection and peers. Compiled; allocates nothing, reads no clock."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.meter.book_kernels import begin_time, note_late, note_missed, reach
from adumbra.meter.compiled import compiled, inlined
from adumbra.meter.connection_kernels import expire, handshake, new_connection, next_due, replace, same_ends
from adumbra.meter.layout import (
    ACK,
    ATTRIBUTED,
    CHUNKS_USED,
    CLIENT_IS_B,
    CLOCK,
    CLOSE,
    DATAGRAM_NS,
    DONE,
    EARLIEST,
    FIN,
    FOREIGN,
    FREE,
    FROM_B,
    GRACE,
    GROW,
    HALF_SEEN,
    INTERVAL_NS,
    LATEST,
    MOST,
    MOST_CHUNKS,
    NOT_STARTED,
    NOTES_A_PACKET,
    OLDEST,
    OPEN,
    PEERS,
    PENDING_NS,
    RST,
    RX_BYTES,
    RX_PACKETS,
    SAMPLE_A,
    SAMPLE_B,
    SCAN_BYTES,
    SCANNED,
    SEED,
    SYN,
    SYN_SEEN,
    TCP,
    TRANSPORT_UNREAD,
    TX_BYTES,
    TX_PACKETS,
    UNCLAIMED,
    UNTRACKED_SIDE,
    WANTED_A,
    WANTED_B,
)
from adumbra.meter.peer_kernels import first_slot, meet
from adumbra.meter.prefetch import prefetch
from adumbra.meter.segment_kernels import exchange, segment, time_acknowledgement, time_data

_BUCKETS_AHEAD, _ENTRIES_AHEAD, _DETAILS_AHEAD = 16, 10, 5  # packets
_TIMED = SAMPLE_A | SAMPLE_B | WANTED_A | WANTED_B
_PARSED, _MALFORMED_FROM, _ELSEWHERE = 0, 3, 6  # outcomes; those from 3 on may have hidden a packet of the network


@inlined
def _lookup(i, columns, bucket, from_b, table):
    """The entry of a packet's connection, -1 where there is none."""
    at = table.buckets[bucket]
    while at != -1:
        entry = table.entries[at]
        alike = (
            entry.key == columns.key[i] and entry.ports == columns.ports[i] and entry.protocol == columns.protocol[i]
            and entry.version == columns.version[i]
        )  # fmt: skip
        if alike and (columns.version[i] == 4 or same_ends(
            table.addresses, at, columns.src_hi[i], columns.src_lo[i], columns.dst_hi[i], columns.dst_lo[i], from_b
        )):  # fmt: skip
            break
        at = entry.chain
    return at


@inlined
def _connection(i, columns, from_b, row, interval, table, origins, book):
    """The entry of a packet's connection, which it may begin; -1 where there is none or no room for it."""
    kind, flags = columns.protocol[i], columns.flags[i]
    bucket = np.int32(columns.spread[i] & np.uint64(len(table.buckets) - 1))
    at = _lookup(i, columns, bucket, from_b, table)
    if at != -1 and kind == TCP and flags & (SYN | ACK) == SYN:
        state = table.entries[at].state
        again = state & SYN_SEEN and columns.seq[i] == table.births[at].isn_client and from_b == ((state & CLIENT_IS_B) != 0)
        if not again:
            replace(at, row, columns.src_vm[i], columns.dst_vm[i], table, book)
            at = np.int32(-1)
    if at == -1 and not (kind == TCP and flags & RST):
        at = new_connection(i, columns, bucket, row, interval, table, origins, book)
    return at


@inlined
def _follow(i, at, from_b, columns, row, interval, table, origins, book):
    """What a packet changes in its connection; whether it is the first of it in this interval."""
    entry, now_ns, payload = table.entries[at], columns.time_ns[i], columns.payload_bytes[i]
    short_interval = np.int32(interval & 0x7FFFFFFF)
    first, fresh = entry.met != short_interval, True
    entry.last_ns = max(now_ns, entry.last_ns)
    if first:
        entry.met = short_interval
        ours, theirs = (WANTED_B, WANTED_A) if from_b else (WANTED_A, WANTED_B)
        entry.state |= np.uint32((ours if columns.src_vm[i] >= 0 else 0) | (theirs if columns.dst_vm[i] >= 0 else 0))
    if columns.protocol[i] == TCP:
        flags = columns.flags[i]
        if flags & (SYN | RST | FIN) or entry.state & (OPEN | HALF_SEEN) != OPEN:
            handshake(i, at, columns, row, interval, table, origins, book)
        fresh = segment(i, at, from_b, columns, row, table, book)
        if entry.state & (SAMPLE_A if from_b else SAMPLE_B) and flags & ACK and columns.ts_echo[i]:
            time_acknowledgement(i, at, from_b, columns, row, table, book)
        if payload > 0 and fresh and entry.state & (WANTED_B if from_b else WANTED_A) and columns.ts_value[i]:
            time_data(i, at, from_b, columns, table)
    if payload > 0 and fresh:
        exchange(i, at, from_b, columns, row, table, origins, book)
    if entry.state & SCANNED and from_b == ((entry.state & CLIENT_IS_B) != 0):
        book.ring[row, max(columns.dst_vm[i], np.int32(-1)), SCAN_BYTES] += columns.ip_bytes[i]
    return first


@inlined
def _wants_room(table, book):
    """Whether a packet might find no room in a table that may still grow."""
    scalars, asked = book.scalars, book.asked
    entries = scalars[FREE] == -1 and len(table.entries) < asked[MOST]
    return entries or (scalars[CHUNKS_USED] + NOTES_A_PACKET > len(book.following) and len(book.following) < asked[MOST_CHUNKS])


@inlined
def _count_packet(i, columns, row, ring):
    sender, receiver = max(columns.src_vm[i], np.int32(-1)), max(columns.dst_vm[i], np.int32(-1))
    ring[row, sender, TX_BYTES] += columns.ip_bytes[i]
    ring[row, sender, TX_PACKETS] += 1
    ring[row, receiver, RX_BYTES] += columns.ip_bytes[i]
    ring[row, receiver, RX_PACKETS] += 1


@inlined
def _meet_ends(i, columns, row, interval, peers, book):
    source, target, seed = columns.src_vm[i], columns.dst_vm[i], np.uint64(book.asked[SEED])
    short_interval = np.int32(interval & 0x7FFFFFFF)
    version, scalars = columns.version[i], book.scalars
    if source >= 0 and meet(columns.dst_hi[i], columns.dst_lo[i], version, source, short_interval, peers, scalars, seed):
        book.ring[row, source, PEERS] += 1
    if target >= 0 and meet(columns.src_hi[i], columns.src_lo[i], version, target, short_interval, peers, scalars, seed):
        book.ring[row, target, PEERS] += 1


@inlined
def _fetch_ahead(i, columns, interval, table, peers, seed):
    """Asks for what the packets after `i` will need: first a bucket, then its entry, then what the first in an interval takes.

    Most of the time went by in waiting for these (docs/decisions/0006).
    """
    mask, last = np.uint64(len(table.buckets) - 1), len(columns.time_ns) - 1
    prefetch(table.buckets, np.int64(columns.spread[min(i + _BUCKETS_AHEAD, last)] & mask))
    at = table.buckets[np.int64(columns.spread[min(i + _ENTRIES_AHEAD, last)] & mask)]
    if at != -1:
        prefetch(table.entries, at)
    soon = min(i + _DETAILS_AHEAD, last)
    at = table.buckets[np.int64(columns.spread[soon] & mask)]
    if at == -1:
        return
    if table.entries[at].state & _TIMED:
        prefetch(table.details, at)
    if table.entries[at].met != np.int32(interval & 0x7FFFFFFF):
        if columns.src_vm[soon] >= 0:
            slot = first_slot(
                columns.dst_hi[soon], columns.dst_lo[soon], columns.version[soon], columns.src_vm[soon], peers, seed
            )
            prefetch(peers, slot)
        if columns.dst_vm[soon] >= 0:
            slot = first_slot(
                columns.src_hi[soon], columns.src_lo[soon], columns.version[soon], columns.dst_vm[soon], peers, seed
            )
            prefetch(peers, slot)


@compiled
def meter(first, columns, table, origins, peers, book):
    """Meters packets from row `first` on. Gives a row and CLOSE, where intervals must be closed before it, or GROW; or DONE."""
    scalars, asked, ring = book.scalars, book.asked, book.ring
    interval_ns, interval, row, begin_ns = asked[INTERVAL_NS], np.int64(0), np.int64(0), np.int64(NOT_STARTED)
    least_wait_ns = min(asked[PENDING_NS], asked[DATAGRAM_NS])
    next_due_ns = next_due(table.due, table.heads)
    for i in range(first, len(columns.time_ns)):
        outcome = columns.outcome[i]
        if outcome not in (_PARSED, _ELSEWHERE):
            if outcome >= _MALFORMED_FROM:
                note_missed(1, book.missed, scalars, asked)
            continue
        if _wants_room(table, book):
            return i, GROW
        now_ns = columns.time_ns[i]
        if not 0 <= now_ns - begin_ns < interval_ns:
            interval = now_ns // interval_ns
            begin_ns, row = interval * interval_ns, interval % len(ring)
        if scalars[OLDEST] == NOT_STARTED:
            begin_time(now_ns, interval, scalars, asked)
        if now_ns > scalars[CLOCK]:
            if now_ns >= next_due_ns:
                if expire(now_ns, table, book) == CLOSE:
                    return i, CLOSE
                next_due_ns = next_due(table.due, table.heads)
            if interval > scalars[LATEST] and reach(interval, book):
                return i, CLOSE
            scalars[CLOCK] = now_ns
        if outcome == _ELSEWHERE:
            continue
        _fetch_ahead(i, columns, interval, table, peers, np.uint64(asked[SEED]))
        source, target = columns.src_vm[i], columns.dst_vm[i]
        if source < 0 and target < 0:
            scalars[UNCLAIMED if source == -2 or target == -2 else FOREIGN] += 1
            continue
        scalars[ATTRIBUTED] += 1
        if interval < scalars[OLDEST] or (now_ns < scalars[CLOCK] and interval < scalars[CLOCK] // interval_ns - asked[GRACE]):
            note_late(source, target, book)
            continue
        scalars[EARLIEST] = min(scalars[EARLIEST], interval)
        _count_packet(i, columns, row, ring)
        at, from_b = np.int32(-1), columns.side[i] == FROM_B
        if columns.payload_bytes[i] < 0 and columns.protocol[i] == TCP:
            scalars[TRANSPORT_UNREAD] += 1
        if columns.side[i] != UNTRACKED_SIDE:
            at = _connection(i, columns, from_b, row, interval, table, origins, book)
            next_due_ns = min(next_due_ns, scalars[CLOCK] + least_wait_ns)
        if at == -1 or _follow(i, at, from_b, columns, row, interval, table, origins, book):
            _meet_ends(i, columns, row, interval, peers, book)
    return len(columns.time_ns), DONE
