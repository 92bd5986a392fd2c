"""What the segments of a connection tell: order, repetition, acknowledgements, requests and responses. Compiled.

The definitions are those of docs/decisions/0007-tcp-analysis.md: Wireshark's, as far as a fixed state per connection allows.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.meter.book_kernels import count, note
from adumbra.meter.compiled import compiled, inlined
from adumbra.meter.layout import (
    ACK,
    ACK_A,
    ACK_B,
    ACKNOWLEDGED,
    ASKED,
    CLIENT_IS_B,
    CLOSED,
    DUPLICATE_ACKS,
    FIN,
    HOLE_A,
    HOLE_B,
    OUT_OF_ORDER,
    PROBE_A,
    PROBE_B,
    REPLIED,
    REQUEST,
    REQUESTS,
    RESPONSE,
    RETRANSMITTED,
    RST,
    SAMPLE_A,
    SAMPLE_B,
    SCANNED,
    SEGMENTS,
    SEQ_A,
    SEQ_B,
    SYN,
    TCP,
    WANTED_A,
    WANTED_B,
    ZERO_WINDOWS,
)
from adumbra.meter.scan_kernels import note_completion

_REORDERED_US = 3000  # within which a hole is filled by what was overtaken, where no round trip is known (as Wireshark)
_SAMPLE_NS = 60_000_000_000  # a timestamp's echo later than this tells nothing


@inlined
def _after(seq, other):
    """Whether a sequence number lies after another, modulo 2^32 (RFC 9293 section 3.4)."""
    gap = (np.int64(seq) - np.int64(other)) & 0xFFFFFFFF
    return 0 < gap < 0x80000000


@inlined
def segment(i, at, from_b, columns, row, table, book):
    """What a TCP segment says of order, acknowledgements and windows; whether it brings data that hadn't been seen."""
    entry, flags, payload = table.entries[at], columns.flags[i], columns.payload_bytes[i]
    seq, ack, window, state = columns.seq[i], columns.ack[i], columns.window[i], entry.state
    size = payload + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
    nxt, heard = (entry.next_b if from_b else entry.next_a), (entry.ack_b if from_b else entry.ack_a)
    other_window = entry.window_a if from_b else entry.window_b
    known, acked, other_acked = (SEQ_B, ACK_B, ACK_A) if from_b else (SEQ_A, ACK_A, ACK_B)
    probe, other_probe = (PROBE_B, PROBE_A) if from_b else (PROBE_A, PROBE_B)
    plain, ahead = not flags & (SYN | FIN | RST), np.uint32(seq - nxt)
    fresh, probing = True, False
    if plain and payload <= 1 and state & known and (ahead == np.uint32(0xFFFFFFFF)):
        fresh, probing = False, True  # a keep-alive repeats the last byte (RFC 1122, 4.2.3.6)
    elif plain and payload == 1 and ahead == 0 and state & known and state & other_acked and other_window == 0:
        fresh = False  # a probe of a closed window: it will be sent again (RFC 9293, 3.8.6.1)
    elif size > 0:
        count(book.ring, row, columns.src_vm[i], columns.dst_vm[i], SEGMENTS, 1)
        end = np.uint32(np.int64(seq) + size)
        # What begins with the byte that a probe brought is new (as Wireshark has it).
        if state & known and ahead != 0 and not (ahead == np.uint32(0xFFFFFFFF) and size > 1):
            fresh = _disordered(i, at, from_b, end, columns, row, table, book)
        else:
            entry.state |= np.uint32(known)
            entry.next_a = entry.next_a if from_b else end
            entry.next_b = end if from_b else entry.next_b
    elif plain and flags & ACK and state & known and state & acked:
        last_window = entry.window_b if from_b else entry.window_a
        if ahead == 0 and window != 0 and ack == heard and window == last_window and not state & other_probe:
            count(book.ring, row, columns.src_vm[i], columns.dst_vm[i], DUPLICATE_ACKS, 1)
        elif 0 < ahead < 0x80000000:  # it tells that data before it weren't seen
            _disordered(i, at, from_b, seq, columns, row, table, book)
    if plain and window == 0:
        book.ring[row, max(columns.src_vm[i], np.int32(-1)), ZERO_WINDOWS] += 1
    if flags & ACK:
        entry.ack_a, entry.ack_b = (entry.ack_a, ack) if from_b else (ack, entry.ack_b)
        entry.window_a, entry.window_b = (entry.window_a, window) if from_b else (window, entry.window_b)
    before = entry.state
    after = np.uint32(before | (acked if flags & ACK else 0))
    after = np.uint32(after | probe if probing else after & ~probe)
    if after != before:
        entry.state = after
    return fresh


@compiled
def _disordered(i, at, from_b, end, columns, row, table, book):
    """A segment that doesn't begin where its side stands: it skips a part, fills one, or repeats. Whether it is new."""
    entry, detail, seq = table.entries[at], table.details[at], columns.seq[i]
    nxt, now_us = (entry.next_b if from_b else entry.next_a), np.uint32(columns.time_ns[i] // 1000 & 0xFFFFFFFF)
    hole = HOLE_B if from_b else HOLE_A
    begin, stop = (detail.hole_begin_b, detail.hole_end_b) if from_b else (detail.hole_begin_a, detail.hole_end_a)
    since = detail.hole_us_b if from_b else detail.hole_us_a
    beyond, fresh = _after(end, nxt), _after(end, nxt)
    if _after(seq, nxt):
        # Several holes pass for one, from the first's beginning to the last's end.
        begin, stop, since = (begin if entry.state & hole else nxt), seq, now_us
        entry.state |= np.uint32(hole)
    else:
        counter = RETRANSMITTED
        acked, other_ack = (ACK_A, entry.ack_a) if from_b else (ACK_B, entry.ack_b)
        had = entry.state & acked and not _after(end, other_ack)  # the other end has acknowledged it already
        if entry.state & hole and not _after(begin, seq) and _after(stop, seq):
            if not had and np.uint32(now_us - since) < (detail.rtt_us if detail.rtt_us else np.uint32(_REORDERED_US)):
                counter = OUT_OF_ORDER
            fresh = True
            if seq == begin:
                begin = end
            elif not _after(stop, end):
                stop = seq
            else:
                begin = end  # what lies before it is forgotten
            if not _after(stop, begin):
                entry.state = np.uint32(entry.state & ~hole)
        count(book.ring, row, columns.src_vm[i], columns.dst_vm[i], counter, 1)
    if from_b:
        detail.hole_begin_b, detail.hole_end_b, detail.hole_us_b = begin, stop, since
        entry.next_b = end if beyond else nxt
    else:
        detail.hole_begin_a, detail.hole_end_a, detail.hole_us_a = begin, stop, since
        entry.next_a = end if beyond else nxt
    return fresh


@inlined
def time_data(i, at, from_b, columns, table):
    """Notes a VM's data, the first in an interval, to be timed until the other end acknowledges it with its timestamp."""
    entry, detail, now_ns = table.entries[at], table.details[at], columns.time_ns[i]
    wanted, waiting = (WANTED_B, SAMPLE_B) if from_b else (WANTED_A, SAMPLE_A)
    begun_ns = detail.sample_ns_b if from_b else detail.sample_ns_a
    entry.state = np.uint32(entry.state & ~wanted)
    if entry.state & CLOSED or (entry.state & waiting and now_ns - begun_ns <= _SAMPLE_NS):
        return
    entry.state |= np.uint32(waiting)
    end = np.uint32(np.int64(columns.seq[i]) + columns.payload_bytes[i])
    if from_b:
        detail.sample_ns_b, detail.sample_value_b, detail.sample_end_b = now_ns, columns.ts_value[i], end
    else:
        detail.sample_ns_a, detail.sample_value_a, detail.sample_end_a = now_ns, columns.ts_value[i], end


@inlined
def time_acknowledgement(i, at, from_b, columns, row, table, book):
    """Ends the wait for the acknowledgement of the other side's data, where this segment is it (RFC 7323 section 4)."""
    entry, detail = table.entries[at], table.details[at]
    value, end = (detail.sample_value_a, detail.sample_end_a) if from_b else (detail.sample_value_b, detail.sample_end_b)
    if _after(end, columns.ack[i]) or _after(value, columns.ts_echo[i]):
        return
    entry.state = np.uint32(entry.state & ~(SAMPLE_A if from_b else SAMPLE_B))
    took_ns = columns.time_ns[i] - (detail.sample_ns_a if from_b else detail.sample_ns_b)
    if 0 <= took_ns <= _SAMPLE_NS:
        note(book, row, ACKNOWLEDGED, columns.dst_vm[i], took_ns)


@inlined
def exchange(i, at, from_b, columns, row, table, origins, book):
    """A side's new data: a request where a client begins to speak, a response time where the server answers."""
    entry, now_ns = table.entries[at], columns.time_ns[i]
    state = entry.state
    if from_b == ((state & CLIENT_IS_B) != 0):
        if not state & ASKED:
            server = columns.dst_vm[i]
            if server >= 0 and not state & SCANNED:
                book.ring[row, server, REQUESTS] += 1
                note(book, row, REQUEST, server, 2 * now_ns + (0 if state & REPLIED else 1))
            entry.state = np.uint32(state | ASKED)
        entry.mark_ns = now_ns
    elif state & ASKED or not state & REPLIED:
        server = columns.src_vm[i]
        if not state & REPLIED and entry.protocol != TCP and server >= 0 and columns.dst_vm[i] < 0:
            note_completion(at, columns.dst_hi[i], columns.dst_lo[i], server, now_ns, origins, table, book)
            state = entry.state
        if state & ASKED and not state & SCANNED:
            note(book, row, RESPONSE, server, now_ns - entry.mark_ns)
        entry.state = np.uint32((state | REPLIED) & ~ASKED)
