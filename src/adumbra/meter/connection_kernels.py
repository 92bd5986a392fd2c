"""The connection table: its entries' beginnings and ends, handshakes, and what is never answered. Compiled."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.meter.book_kernels import count, note, reach
from adumbra.meter.compiled import compiled, inlined
from adumbra.meter.hash_kernels import spread_of
from adumbra.meter.layout import (
    ACK,
    ACTIVE,
    ANSWERED,
    ATTEMPTED,
    CLIENT_IS_B,
    CLOCK,
    CLOSE,
    CLOSED,
    DATAGRAM,
    DONE,
    ESTABLISHED,
    EVICTED,
    FAILED,
    FIN,
    FIN_A,
    FIN_B,
    FREE,
    FROM_B,
    GIVEN_UP,
    HALF_SEEN,
    INITIATED,
    INTERVAL_NS,
    MISSED,
    MOST,
    OLDEST,
    OPEN,
    PENDING,
    PENDING_NS,
    REPLACED,
    REPLIED,
    RETRIED,
    ROUND_TRIP,
    RST,
    SETTLED,
    STREAM,
    SYN,
    SYN_SEEN,
    TCP,
    UNDECLARED,
    UNTRACKED,
    USED,
)
from adumbra.meter.scan_kernels import note_attempt, note_completion, note_persistence

_MOST_LOOKS = 16  # entries that are looked at for one that can give way


@compiled
def free_entries(entries, bucket_of, scalars):
    """Links all entries that stand in no bucket into the list of free ones, lowest first."""
    scalars[FREE] = -1
    for i in range(len(entries) - 1, -1, -1):
        if bucket_of[i] == -1:
            entries[i].chain = np.int32(scalars[FREE])
            scalars[FREE] = i


@compiled
def rehash(entries, bucket_of, buckets, seed):
    """Puts the entries that are in use (bucket_of >= 0) into other buckets."""
    mask = np.uint64(len(buckets) - 1)
    buckets[:] = -1
    for i in range(len(entries)):
        if bucket_of[i] >= 0:
            entry = entries[i]
            bucket = np.int32(spread_of(entry.key, entry.ports, entry.protocol, entry.version, seed) & mask)
            entry.chain, bucket_of[i] = buckets[bucket], bucket
            buckets[bucket] = i


@compiled
def _release(at, table, scalars):
    """Takes an entry out of its bucket and frees it."""
    entries, bucket = table.entries, table.bucket_of[at]
    before, here = np.int32(-1), table.buckets[bucket]
    while here != at:
        before, here = here, entries[here].chain
    if before == -1:
        table.buckets[bucket] = entries[at].chain
    else:
        entries[before].chain = entries[at].chain
    table.bucket_of[at] = -1
    entries[at].chain = np.int32(scalars[FREE])
    scalars[FREE] = at
    scalars[USED] -= 1


# ---- the rings in which entries wait -------------------------------------------------------------------------------------


@inlined
def _push(which, at, when_ns, table):
    """Puts an entry at the end of a ring, to be looked at then. An entry stands in one ring at a time: none overflows."""
    slot = table.heads[which, 0] + table.heads[which, 1]
    if slot >= table.queue.shape[1]:
        slot -= table.queue.shape[1]
    table.queue[which, slot], table.due[which, slot] = at, when_ns
    table.heads[which, 1] += 1


@inlined
def _pop(which, table):
    """Takes the first entry out of a ring."""
    at = table.queue[which, table.heads[which, 0]]
    table.heads[which, 0] = (table.heads[which, 0] + 1) % table.queue.shape[1]
    table.heads[which, 1] -= 1
    return at


@compiled
def next_due(due, heads):
    """When the next entry is to be looked at; far in the future where none waits."""
    soonest = np.int64(1 << 62)
    for which in range(3):
        if heads[which, 1]:
            soonest = min(soonest, due[which, heads[which, 0]])
    return soonest


@inlined
def _unanswered(state):
    return state & SYN_SEEN and not state & SETTLED


@inlined
def _waits_in(entry, unanswered):
    """The ring in which an entry waits next. What has ended stays a while, lest its last packets pass for a new connection."""
    if unanswered or entry.state & CLOSED:
        return PENDING
    given_up = entry.state & GIVEN_UP and not entry.state & OPEN
    return DATAGRAM if given_up or entry.protocol != TCP else STREAM


@compiled
def expire(until_ns, table, book):
    """Looks at each entry whose time comes by `until_ns`: never answered, ended, or idle.

    What it finds counts in the interval of that moment. Returns CLOSE where this interval isn't open yet, to be called
    again.
    """
    due, heads, scalars, asked = table.due, table.heads, book.scalars, book.asked
    while True:
        which = -1
        for each in range(3):
            if heads[each, 1] and (which < 0 or due[each, heads[each, 0]] < due[which, heads[which, 0]]):
                which = each
        if which < 0 or due[which, heads[which, 0]] > until_ns:
            return DONE
        now_ns, at = due[which, heads[which, 0]], table.queue[which, heads[which, 0]]
        entry, birth = table.entries[at], table.births[at]
        unanswered = _unanswered(entry.state)
        kind = _waits_in(entry, unanswered)
        idle = entry.last_ns + asked[PENDING_NS + kind] <= now_ns
        if idle and (unanswered or (entry.state & OPEN and not entry.state & CLOSED)):
            interval = max(now_ns // asked[INTERVAL_NS], scalars[OLDEST])
            if reach(interval, book):
                return CLOSE
            counter, change = (FAILED, 1) if unanswered else (ACTIVE, -1)
            count(book.ring, interval % len(book.ring), birth.vm_a, birth.vm_b, counter, change)
            if unanswered and (entry.state & RETRIED or 2 * scalars[USED] < asked[MOST]):
                entry.state |= np.uint32(GIVEN_UP)
                kind, idle = DATAGRAM, False
        _pop(which, table)
        if idle:
            _release(at, table, scalars)
        else:
            _push(kind, at, now_ns + asked[PENDING_NS + kind], table)


@compiled
def _evict(row, table, book):
    """Frees the oldest entry that nobody answered, or that has ended, where the table is full. Looks at a few only.

    What waits before it is put where it would wait next.
    """
    scalars, asked = book.scalars, book.asked
    for which in (PENDING, DATAGRAM):
        for _ in range(min(_MOST_LOOKS, table.heads[which, 1])):
            at = _pop(which, table)
            entry, birth = table.entries[at], table.births[at]
            unanswered = _unanswered(entry.state)
            spoken_for = entry.state & REPLIED if entry.protocol not in (TCP, REPLACED) else entry.state & OPEN
            if not spoken_for or entry.state & CLOSED:
                if unanswered:
                    count(book.ring, row, birth.vm_a, birth.vm_b, FAILED, 1)
                if not entry.state & (CLOSED | GIVEN_UP):
                    scalars[EVICTED] += 1
                _release(at, table, scalars)
                return
            kind = _waits_in(entry, unanswered)
            _push(kind, at, scalars[CLOCK] + asked[PENDING_NS + kind], table)


# ---- beginnings and ends -------------------------------------------------------------------------------------------------


@compiled
def same_ends(addresses, at, src_hi, src_lo, dst_hi, dst_lo, from_b):
    """Whether an entry is of these two IPv6 addresses."""
    kept = addresses[at]
    if from_b:
        return kept.a_lo == dst_lo and kept.b_lo == src_lo and kept.a_hi == dst_hi and kept.b_hi == src_hi
    return kept.a_lo == src_lo and kept.b_lo == dst_lo and kept.a_hi == src_hi and kept.b_hi == dst_hi


@compiled
def _keep_ends(addresses, at, src_hi, src_lo, dst_hi, dst_lo, from_b):
    kept = addresses[at]
    if from_b:
        kept.a_hi, kept.a_lo, kept.b_hi, kept.b_lo = dst_hi, dst_lo, src_hi, src_lo
    else:
        kept.a_hi, kept.a_lo, kept.b_hi, kept.b_lo = src_hi, src_lo, dst_hi, dst_lo


@inlined
def _begin(bucket, row, table, book):
    """A fresh entry in a bucket, or -1 where the table is full of connections that are spoken for."""
    scalars = book.scalars
    if scalars[FREE] == -1:
        _evict(row, table, book)
    at = np.int32(scalars[FREE])
    if at != -1:
        scalars[FREE] = table.entries[at].chain
        scalars[USED] += 1
        table.entries[at].chain, table.bucket_of[at] = table.buckets[bucket], bucket
        table.buckets[bucket] = at
    return at


@inlined
def new_connection(i, columns, bucket, row, interval, table, origins, book):
    """An entry for the connection that packet `i` is the first of, or -1 where there is no room: then it counts as missed."""
    source, target = columns.src_vm[i], columns.dst_vm[i]
    at = _begin(bucket, row, table, book)
    if at == -1:
        book.scalars[UNTRACKED] += 1
        count(book.ring, row, source, target, MISSED, 1)
        return at
    entry, birth = table.entries[at], table.births[at]
    from_b, kind, flags, now_ns = columns.side[i] == FROM_B, columns.protocol[i], columns.flags[i], columns.time_ns[i]
    entry.key, entry.ports, entry.protocol, entry.version = columns.key[i], columns.ports[i], kind, columns.version[i]
    entry.met, entry.last_ns = -1, now_ns
    birth.vm_a, birth.vm_b = (target, source) if from_b else (source, target)
    birth.interval, birth.bytes, table.details[at].rtt_us = interval, columns.ip_bytes[i], 0
    if columns.version[i] == 6:
        hi, lo, to_hi, to_lo = columns.src_hi[i], columns.src_lo[i], columns.dst_hi[i], columns.dst_lo[i]
        _keep_ends(table.addresses, at, hi, lo, to_hi, to_lo, from_b)
    # Seen from its middle, or without a handshake: the first speaker is the client of a datagram flow; of a TCP connection
    # the end with the higher port is.
    client_is_b = from_b
    if kind == TCP and not flags & SYN:
        client_is_b = from_b == (columns.src_port[i] >= columns.dst_port[i])
    if kind == TCP and flags & SYN and flags & ACK:
        client_is_b = not from_b
    entry.state = np.uint32(CLIENT_IS_B if client_is_b else 0)
    if kind == TCP and (not flags & SYN or flags & ACK):
        entry.state |= np.uint32(OPEN)
        count(book.ring, row, source, target, ACTIVE, 1)
    # A foreign server's late answer begins a flow too: only what looks like a client's is an attempt.
    if kind != TCP and source < 0 and target >= 0 and columns.src_port[i] > columns.dst_port[i]:
        _attempt(i, at, columns, interval, table, origins, book)
    which = PENDING if kind == TCP else DATAGRAM
    _push(which, at, book.scalars[CLOCK] + book.asked[PENDING_NS + which], table)
    return at


@inlined
def _attempt(i, at, columns, interval, table, origins, book):
    note_attempt(
        at, columns.src_hi[i], columns.src_lo[i], columns.dst_port[i], columns.dst_vm[i], columns.time_ns[i], interval,
        columns.ip_bytes[i], origins, table, book,
    )  # fmt: skip


@inlined
def replace(at, row, source, target, table, book):
    """Ends an entry whose ends begin another connection. It matches no packet more, and goes when its time comes."""
    entry = table.entries[at]
    if entry.state & OPEN and not entry.state & CLOSED:
        count(book.ring, row, source, target, ACTIVE, -1)
    elif _unanswered(entry.state):
        count(book.ring, row, source, target, FAILED, 1)
    entry.state |= np.uint32(CLOSED)
    entry.protocol = REPLACED


# ---- handshakes ----------------------------------------------------------------------------------------------------------


@inlined
def _after(seq, other):
    """Whether a sequence number lies after another, modulo 2^32 (RFC 9293 section 3.4)."""
    gap = (np.int64(seq) - np.int64(other)) & 0xFFFFFFFF
    return 0 < gap < 0x80000000


@inlined
def handshake(i, at, columns, row, interval, table, origins, book):
    """SYN, SYN with ACK, the ACK that completes it, RST and FIN: counts what they change. TCP only."""
    entry, birth, ring = table.entries[at], table.births[at], book.ring
    source, target, flags, from_b = columns.src_vm[i], columns.dst_vm[i], columns.flags[i], columns.side[i] == FROM_B
    state, now_ns = entry.state, columns.time_ns[i]
    from_client = from_b == ((state & CLIENT_IS_B) != 0)
    if flags & SYN and not flags & ACK:
        if state & SYN_SEEN:  # the same SYN again
            _syn_again(i, at, columns, table, origins, book)
            return
        entry.state |= np.uint32(SYN_SEEN)
        birth.isn_client, entry.mark_ns = columns.seq[i], now_ns
        birth.interval, birth.bytes = interval, columns.ip_bytes[i]
        count(ring, row, source, target, ATTEMPTED, 1)
        count(ring, row, source, source, INITIATED, 1)
        if source < 0 and target >= 0:
            _attempt(i, at, columns, interval, table, origins, book)
    elif state & CLOSED:
        return
    elif flags & RST:
        if state & OPEN:
            count(ring, row, source, target, ACTIVE, -1)
        elif state & SYN_SEEN and not state & GIVEN_UP:
            count(ring, row, source, target, FAILED, 1)
        entry.state |= np.uint32(CLOSED)
    elif flags & SYN:
        if state & SYN_SEEN and not from_client and columns.ack[i] == np.uint32(birth.isn_client + np.uint32(1)):
            entry.state |= np.uint32(ANSWERED)
            birth.isn_server = columns.seq[i]
            if state & UNDECLARED:
                note_persistence(at, columns.dst_hi[i], columns.dst_lo[i], source, now_ns, origins, table, book)
    elif flags & ACK:
        if state & SYN_SEEN and from_client:
            _acknowledged(i, at, columns, row, table, origins, book)
        if flags & FIN and entry.state & OPEN:
            # Where the server's side is out of sight, the client's end is all that will be seen.
            seen = FIN_A | FIN_B if entry.state & HALF_SEEN else FIN_B if from_b else FIN_A
            entry.state |= np.uint32(seen)
            if entry.state & FIN_A and entry.state & FIN_B:
                entry.state |= np.uint32(CLOSED)
                count(ring, row, source, target, ACTIVE, -1)


@inlined
def _syn_again(i, at, columns, table, origins, book):
    """A SYN that was seen before: the round trip is taken from the last one, as tshark takes it."""
    entry, now_ns = table.entries[at], columns.time_ns[i]
    state = entry.state
    if not state & OPEN:
        entry.mark_ns = now_ns
    if not state & (ANSWERED | OPEN):
        # After a reset, which counted, an answer may still come: to a port that was used shortly before.
        entry.state = np.uint32((state | RETRIED | (GIVEN_UP if state & CLOSED else 0)) & ~CLOSED)
    if state & UNDECLARED:
        hi, lo = columns.src_hi[i], columns.src_lo[i]
        note_persistence(at, hi, lo, columns.dst_vm[i], now_ns, origins, table, book)


@inlined
def _acknowledged(i, at, columns, row, table, origins, book):
    """The client acknowledges: the handshake is completed, or the server's answer to it was out of sight."""
    entry, now_ns = table.entries[at], columns.time_ns[i]
    source, target, state = columns.src_vm[i], columns.dst_vm[i], entry.state
    completed = (
        state & ANSWERED and (not state & OPEN or state & HALF_SEEN) and _after(columns.ack[i], table.births[at].isn_server)
    )
    if completed:
        count(book.ring, row, source, target, ESTABLISHED, 1)
        if not state & HALF_SEEN:
            took_ns = now_ns - entry.mark_ns
            table.details[at].rtt_us = np.uint32(min(max(took_ns // 1000, 1), 0xFFFFFFFF))
            note(book, row, ROUND_TRIP, source, took_ns)
            if target != source:
                note(book, row, ROUND_TRIP, target, took_ns)
        entry.state = np.uint32((entry.state | OPEN) & ~HALF_SEEN)
    elif not state & (ANSWERED | OPEN):
        entry.state |= np.uint32(OPEN | HALF_SEEN)
    if entry.state & OPEN and not state & OPEN:
        count(book.ring, row, source, target, ACTIVE, 1)
        if source < 0 and target >= 0:
            note_completion(at, columns.src_hi[i], columns.src_lo[i], target, now_ns, origins, table, book)
