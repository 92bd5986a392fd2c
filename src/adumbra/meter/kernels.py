"""The meter's compiled inner loops: attribution, the connection table, interval counters. No allocation, no clock."""

from __future__ import annotations

import numpy as np
from numba import njit

# Nothing is allocated here, so that references to arrays need not be counted: doing so at each call took a third of the time.
compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
inlined = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, inline="always")

IPV4_HIGH = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE = np.uint64(1)
_M1, _M2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_S33, _S29, _S32 = np.uint64(33), np.uint64(29), np.uint64(32)

# ---- what is counted per interval and VM -----------------------------------------------------------------------------
COUNTERS = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "connections_initiated",
    "connections_established", "connections_failed", "active_change", "peers", "requests", "retransmitted_packets",
    "segments", "missed_packets",
)  # fmt: skip
(
    RX_BYTES, TX_BYTES, RX_PACKETS, TX_PACKETS, ATTEMPTED, INITIATED, ESTABLISHED, FAILED, ACTIVE, PEERS, REQUESTS,
    RETRANSMITTED, SEGMENTS, MISSED,
) = range(14)  # fmt: skip

# ---- the meter's scalars, in one array -------------------------------------------------------------------------------
SCALARS = (
    "clock_ns", "oldest", "earliest", "latest", "close_to", "gap", "fill_budget", "free", "used", "late", "untracked",
    "transport_unread", "foreign", "unclaimed", "attributed", "peers_used", "peers_uncounted", "free_note",
    "notes_used", "notes_dropped", "missed_unplaced",
)  # fmt: skip
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
    FREE_NOTE, NOTES_USED, NOTES_DROPPED,  # head of the free notes (-1: none), notes in use, notes that found no room
    MISSED_UNPLACED,  # missed packets that no interval has taken yet
) = range(21)  # fmt: skip
NOT_STARTED = -(1 << 62)

DONE, CLOSE = 0, 1  # what the kernel tells its caller

# ---- what is asked of it, in one array -------------------------------------------------------------------------------
INTERVAL_NS, GRACE, MAX_QUIET, SEED, MOST, PENDING_NS, STREAM_NS, DATAGRAM_NS = range(8)
_BUDGET_PER_BUSY = 20

# ---- a connection ----------------------------------------------------------------------------------------------------
# What every packet touches fills one cache line. `key` is the whole pair of IPv4 addresses; of IPv6 it is a hash, and ADDRESSES
# holds them. `mark_ns` is the time of the SYN until the connection opens, then that of the last request.
ENTRY = np.dtype(
    [
        ("key", np.uint64), ("last_ns", np.int64), ("mark_ns", np.int64), ("next_a", np.uint32), ("next_b", np.uint32),
        ("isn_client", np.uint32), ("isn_server", np.uint32), ("vm_a", np.int32), ("vm_b", np.int32),
        ("ports", np.uint32), ("chain", np.int32), ("met", np.int32), ("state", np.uint16), ("protocol", np.uint8),
        ("version", np.uint8),
    ],
)  # fmt: skip
ADDRESSES = np.dtype([("a_hi", np.uint64), ("a_lo", np.uint64), ("b_hi", np.uint64), ("b_lo", np.uint64)])

(
    SYN_SEEN, ANSWERED, OPEN, CLOSED, CLIENT_IS_B, FIN_A, FIN_B, SEQ_A, SEQ_B, ASKED, REPLIED,
    RETRIED,  # its SYN was sent again
    GIVEN_UP,  # it counts as failed, and stays only for its next SYN to be known again
    HALF_SEEN,  # it opened out of sight: the client acknowledges an answer that was not seen
) = (1 << bit for bit in range(14))  # fmt: skip
_SETTLED = ANSWERED | OPEN | CLOSED | GIVEN_UP
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_TCP, _UDP, _SCTP = 6, 17, 132
_REPLACED = 255  # reserved by IANA: no packet matches it

UNTRACKED_SIDE, FROM_A, FROM_B = 0, 1, 2  # which end of its connection sent a packet

# ---- queues of entries to look at again ------------------------------------------------------------------------------
PENDING, STREAM, DATAGRAM = 0, 1, 2  # a TCP connection's first look, its later ones, any look at another flow


@inlined
def _mix(x):
    x ^= x >> _S33
    x *= _M1
    x ^= x >> _S29
    x *= _M2
    return x ^ (x >> _S32)


# ---- the connection table --------------------------------------------------------------------------------------------


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
            bucket = np.int32(_spread(entry.key, entry.ports, entry.protocol, entry.version, seed) & mask)
            entry.chain, bucket_of[i] = buckets[bucket], bucket
            buckets[bucket] = i


@inlined
def _spread(key, ports, protocol, version, seed):
    """The hash of a connection's key, ports and kind."""
    kind = np.uint64(ports) << np.uint64(16) | np.uint64(protocol) << np.uint64(8) | np.uint64(version)
    return _mix((key ^ seed) * _M2 + kind * _M1)


@compiled
def _release(entries, bucket_of, buckets, at, scalars):
    """Takes an entry out of its bucket and frees it."""
    bucket = bucket_of[at]
    before, here = np.int32(-1), buckets[bucket]
    while here != at:
        before, here = here, entries[here].chain
    if before == -1:
        buckets[bucket] = entries[at].chain
    else:
        entries[before].chain = entries[at].chain
    bucket_of[at] = -1
    entries[at].chain = np.int32(scalars[FREE])
    scalars[FREE] = at
    scalars[USED] -= 1


@inlined
def _push(queue, due, heads, which, at, when_ns):
    """Puts an entry at the end of a ring, to be looked at then. An entry stands in one ring at a time: none overflows."""
    slot = heads[which, 0] + heads[which, 1]
    if slot >= queue.shape[1]:
        slot -= queue.shape[1]
    queue[which, slot], due[which, slot] = at, when_ns
    heads[which, 1] += 1


@inlined
def _count(ring, row, vm_a, vm_b, counter, change):
    """Adds to both ends' counters in a row of the ring, once where they are one VM.

    The ring has a column more than there are VMs, the last, for ends that are none: no branch on what can't be foreseen.
    """
    ring[row, max(vm_a, np.int32(-1)), counter] += change
    ring[row, max(vm_b, np.int32(-1)) if vm_b != vm_a else np.int32(-1), counter] += change


@compiled
def _reach(interval, ring, scalars, asked):
    """Notes that something happens in an interval; whether others must be closed before it can be counted there.

    The quiet since the last one is filled if it is short, or if enough happened before to earn it; else it is a gap.
    """
    quiet = interval - scalars[LATEST] - 1
    if quiet >= 0:
        if quiet > len(ring) - asked[GRACE] - 2:
            if quiet > asked[MAX_QUIET] or quiet > scalars[FILL_BUDGET]:
                scalars[GAP] = scalars[LATEST] + 1
            else:
                scalars[FILL_BUDGET] -= quiet
        scalars[LATEST] = interval
        scalars[FILL_BUDGET] += _BUDGET_PER_BUSY
    scalars[CLOSE_TO] = interval
    return scalars[GAP] != 0 or interval >= scalars[OLDEST] + len(ring)


@compiled
def note_missed(packets, missed, scalars, asked):
    """Notes packets that were any VM's, of now: in the newest interval, or in the first that is given at all."""
    if scalars[OLDEST] == NOT_STARTED:
        scalars[MISSED_UNPLACED] += packets
    else:
        interval = max(scalars[CLOCK] // asked[INTERVAL_NS], scalars[OLDEST])
        scalars[LATEST] = max(scalars[LATEST], interval)
        missed[interval % len(missed)] += packets


@compiled
def _next_due(due, heads):
    """When the next entry is to be looked at; far in the future where none waits."""
    soonest = np.int64(1 << 62)
    for which in range(3):
        if heads[which, 1]:
            soonest = min(soonest, due[which, heads[which, 0]])
    return soonest


@inlined
def _waits_in(entry, unanswered):
    """The ring in which an entry waits next. What has ended stays a while, lest its last packets pass for a new connection."""
    if unanswered or entry.state & CLOSED:
        return PENDING
    given_up = entry.state & GIVEN_UP and not entry.state & OPEN
    return DATAGRAM if given_up or entry.protocol != _TCP else STREAM


@compiled
def expire(until_ns, entries, bucket_of, buckets, queue, due, heads, ring, scalars, asked):
    """Looks at each entry whose time comes by `until_ns`: never answered, ended, or idle.

    What it finds counts in the interval of that moment. Returns CLOSE where this interval isn't open yet, to be called
    again.
    """
    while True:
        which = -1
        for each in range(3):
            if heads[each, 1] and (which < 0 or due[each, heads[each, 0]] < due[which, heads[which, 0]]):
                which = each
        if which < 0 or due[which, heads[which, 0]] > until_ns:
            return DONE
        now_ns, at = due[which, heads[which, 0]], queue[which, heads[which, 0]]
        entry = entries[at]
        unanswered = entry.state & SYN_SEEN and not entry.state & _SETTLED
        kind = _waits_in(entry, unanswered)
        idle = entry.last_ns + asked[PENDING_NS + kind] <= now_ns
        if idle and (unanswered or (entry.state & OPEN and not entry.state & CLOSED)):
            interval = max(now_ns // asked[INTERVAL_NS], scalars[OLDEST])
            if _reach(interval, ring, scalars, asked):
                return CLOSE
            counter, change = (FAILED, 1) if unanswered else (ACTIVE, -1)
            _count(ring, interval % len(ring), entry.vm_a, entry.vm_b, counter, change)
            if unanswered and (entry.state & RETRIED or 2 * scalars[USED] < asked[MOST]):
                entry.state |= np.uint16(GIVEN_UP)
                kind, idle = DATAGRAM, False
        heads[which, 0] = (heads[which, 0] + 1) % queue.shape[1]
        heads[which, 1] -= 1
        if idle:
            _release(entries, bucket_of, buckets, at, scalars)
        else:
            _push(queue, due, heads, kind, at, now_ns + asked[PENDING_NS + kind])


# ---- peers -----------------------------------------------------------------------------------------------------------

PEER = np.dtype(
    [("hi", np.uint64), ("lo", np.uint64), ("met", np.uint64), ("last", np.int32), ("vm", np.int32)]
)  # fmt: skip
MET_INTERVALS = 64  # how many intervals, up to the last one, a peer's bits tell of


@inlined
def _peer_slot(peers, key, lo, vm, seed):
    mask = np.uint64(len(peers) - 1)
    slot = _mix((lo ^ seed) * _M2 + (key ^ np.uint64(vm)) * _M1) & mask
    while peers[slot].vm != -1 and not (peers[slot].lo == lo and peers[slot].hi == key and peers[slot].vm == vm):
        slot = (slot + _ONE) & mask
    return slot


@inlined
def _ahead(interval, other):
    """How far an interval lies after another, both modulo 2^31."""
    return ((np.int64(interval) - np.int64(other) + 0x40000000) & 0x7FFFFFFF) - 0x40000000


@compiled
def count_met(peers, oldest):
    """How many peers were met in intervals from `oldest` on."""
    met = 0
    for i in range(len(peers)):
        met += peers[i].vm != -1 and _ahead(peers[i].last, oldest) >= 0
    return met


@inlined
def _meet(hi, lo, version, vm, interval, peers, scalars, seed):
    """Notes that a VM met a peer in an interval (modulo 2^31); whether for the first time in it."""
    key = IPV4_HIGH if version == 4 else hi
    peer = peers[_peer_slot(peers, key, lo, vm, seed)]
    if peer.vm == -1:
        if scalars[PEERS_USED] * 4 >= len(peers) * 3:
            scalars[PEERS_UNCOUNTED] += 1
            return False
        peer.hi, peer.lo, peer.vm, peer.last, peer.met = key, lo, vm, interval, _ONE
        scalars[PEERS_USED] += 1
        return True
    ahead = _ahead(interval, peer.last)
    if ahead == 0:
        return False
    if ahead > 0:
        peer.met = peer.met << np.uint64(ahead) | _ONE if ahead < MET_INTERVALS else _ONE
        peer.last = interval
        return True
    bit = _ONE << np.uint64(-ahead)
    if ahead <= -MET_INTERVALS or peer.met & bit:
        return False
    peer.met |= bit
    return True


@compiled
def keep_peers(old, oldest, peers, scalars, seed):
    """Moves the peers that were met in intervals still open into another table."""
    scalars[PEERS_USED] = 0
    for i in range(len(old)):
        if old[i].vm != -1 and _ahead(old[i].last, oldest) >= 0:
            slot = _peer_slot(peers, old[i].hi, old[i].lo, old[i].vm, seed)
            peer = peers[slot]
            peer.hi, peer.lo, peer.vm, peer.last, peer.met = old[i].hi, old[i].lo, old[i].vm, old[i].last, old[i].met
            scalars[PEERS_USED] += 1


# ---- notes: times and requests, in a list for each open interval ---------------------------------------------------------

NOTE = np.dtype([("value", np.int64), ("vm", np.int32), ("next", np.int32)])
RTT, RESPONSE, REQUEST = 0, 1, 2  # the lists; a request's value is twice its time, and one more where it opens its connection


@inlined
def _note(notes, lists, scalars, row, kind, vm, value):
    """Keeps a value of a VM in a list of an interval. lists: int64[rows, kinds, 2], the newest note (-1: none), how many."""
    at = scalars[FREE_NOTE]
    if vm >= 0 and at == -1:
        scalars[NOTES_DROPPED] += 1
    elif vm >= 0:
        note = notes[at]
        scalars[FREE_NOTE] = note.next
        scalars[NOTES_USED] += 1
        note.value, note.vm, note.next = value, vm, lists[row, kind, 0]
        lists[row, kind, 0] = at
        lists[row, kind, 1] += 1


# ---- connections -----------------------------------------------------------------------------------------------------


@compiled
def _same_ends(addresses, at, src_hi, src_lo, dst_hi, dst_lo, from_b):
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


@compiled
def _begin(entries, bucket_of, buckets, bucket, scalars):
    """A fresh entry in a bucket, or -1 where the table is full."""
    at = np.int32(scalars[FREE])
    if at != -1:
        scalars[FREE] = entries[at].chain
        scalars[USED] += 1
        entries[at].chain, bucket_of[at] = buckets[bucket], bucket
        buckets[bucket] = at
    return at


@inlined
def _after(seq, other):
    """Whether a sequence number lies after another, modulo 2^32 (RFC 9293 section 3.4)."""
    gap = (np.int64(seq) - np.int64(other)) & 0xFFFFFFFF
    return 0 < gap < 0x80000000


@compiled
def _handshake(entry, from_b, flags, seq, ack, now_ns, row, ring, scalars, notes, lists):
    """SYN, SYN with ACK, the ACK that completes it, RST and FIN: counts what they change. TCP only."""
    vm_a, vm_b, state = entry.vm_a, entry.vm_b, entry.state
    from_client = from_b == ((state & CLIENT_IS_B) != 0)
    if flags & _SYN and not flags & _ACK:
        if state & SYN_SEEN:  # the same SYN again
            if not state & OPEN:
                entry.mark_ns = now_ns  # the round trip is taken from the last SYN, as tshark takes it
            if not state & (ANSWERED | OPEN):
                # After a reset, which counted, an answer may still come: to a port that was used shortly before.
                entry.state = np.uint16((state | RETRIED | (GIVEN_UP if state & CLOSED else 0)) & ~CLOSED)
            return
        entry.state |= np.uint16(SYN_SEEN)
        entry.isn_client, entry.mark_ns = seq, now_ns
        _count(ring, row, vm_a, vm_b, ATTEMPTED, 1)
        client = vm_b if from_b else vm_a
        _count(ring, row, client, client, INITIATED, 1)
    elif state & CLOSED:
        return
    elif flags & _RST:
        if state & OPEN:
            _count(ring, row, vm_a, vm_b, ACTIVE, -1)
        elif state & SYN_SEEN and not state & GIVEN_UP:
            _count(ring, row, vm_a, vm_b, FAILED, 1)
        entry.state |= np.uint16(CLOSED)
    elif flags & _SYN:
        if state & SYN_SEEN and not from_client and ack == np.uint32(entry.isn_client + np.uint32(1)):
            entry.state |= np.uint16(ANSWERED)
            entry.isn_server = seq
    elif flags & _ACK:
        if state & SYN_SEEN and from_client:
            _acknowledged(entry, ack, now_ns, row, ring, scalars, notes, lists)
        if flags & _FIN and entry.state & OPEN:
            # Where the server's side is out of sight, the client's end is all that will be seen.
            seen = FIN_A | FIN_B if entry.state & HALF_SEEN else FIN_B if from_b else FIN_A
            entry.state |= np.uint16(seen)
            if entry.state & FIN_A and entry.state & FIN_B:
                entry.state |= np.uint16(CLOSED)
                _count(ring, row, vm_a, vm_b, ACTIVE, -1)


@compiled
def _acknowledged(entry, ack, now_ns, row, ring, scalars, notes, lists):
    """The client acknowledges: the handshake is completed, or the server's answer to it was out of sight."""
    vm_a, vm_b, state = entry.vm_a, entry.vm_b, entry.state
    completed = state & ANSWERED and (not state & OPEN or state & HALF_SEEN) and _after(ack, entry.isn_server)
    if completed:
        _count(ring, row, vm_a, vm_b, ESTABLISHED, 1)
        if not state & HALF_SEEN:
            _note(notes, lists, scalars, row, RTT, vm_a, now_ns - entry.mark_ns)
        if vm_b != vm_a and not state & HALF_SEEN:
            _note(notes, lists, scalars, row, RTT, vm_b, now_ns - entry.mark_ns)
        entry.state = np.uint16((entry.state | OPEN) & ~HALF_SEEN)
    elif not state & (ANSWERED | OPEN):
        entry.state |= np.uint16(OPEN | HALF_SEEN)
    if entry.state & OPEN and not state & OPEN:
        _count(ring, row, vm_a, vm_b, ACTIVE, 1)


@compiled
def _replace(entry, row, ring):
    """Ends an entry whose ends begin another connection. It matches no packet more, and goes when its time comes."""
    if entry.state & OPEN and not entry.state & CLOSED:
        _count(ring, row, entry.vm_a, entry.vm_b, ACTIVE, -1)
    elif entry.state & SYN_SEEN and not entry.state & _SETTLED:
        _count(ring, row, entry.vm_a, entry.vm_b, FAILED, 1)
    entry.state |= np.uint16(CLOSED)
    entry.protocol = _REPLACED


@inlined
def _sequence(entry, from_b, flags, seq, payload, row, ring):
    """Whether a TCP segment is new, and not what its side has sent already; counts it otherwise."""
    size = payload + (1 if flags & _SYN else 0) + (1 if flags & _FIN else 0)
    if size == 0:
        return True
    end = np.uint32(np.int64(seq) + size)
    next_a, next_b = entry.next_a, entry.next_b
    known = SEQ_B if from_b else SEQ_A
    nxt = next_b if from_b else next_a
    if payload == 1 and size == 1 and entry.state & known and end == nxt:
        return False  # a keep-alive probe repeats the last byte (RFC 1122, 4.2.3.6)
    _count(ring, row, entry.vm_a, entry.vm_b, SEGMENTS, 1)
    if not entry.state & known or _after(end, nxt):
        entry.state |= np.uint16(known)
        entry.next_a = next_a if from_b else end
        entry.next_b = end if from_b else next_b
        return True
    _count(ring, row, entry.vm_a, entry.vm_b, RETRANSMITTED, 1)
    return False


@inlined
def _exchange(entry, from_b, now_ns, row, ring, scalars, notes, lists):
    """A side's new data: a request where a client begins to speak, a response time where the server answers."""
    client_is_b = (entry.state & CLIENT_IS_B) != 0
    server = entry.vm_a if client_is_b else entry.vm_b
    if from_b == client_is_b:
        if not entry.state & ASKED:
            if server >= 0:
                _count(ring, row, server, server, REQUESTS, 1)
                _note(notes, lists, scalars, row, REQUEST, server, 2 * now_ns + (0 if entry.state & REPLIED else 1))
            entry.state |= np.uint16(ASKED)
        entry.mark_ns = now_ns
    else:
        if entry.state & ASKED:
            _note(notes, lists, scalars, row, RESPONSE, server, now_ns - entry.mark_ns)
        entry.state = np.uint16((entry.state | REPLIED) & ~ASKED)


@compiled
def identify(
    outcome, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port, payload_bytes, src_vm, dst_vm, seed,
    side, key, ports, spread,
):  # fmt: skip
    """The connection that each packet is of, by what identifies it: its ends in order of address and port, so that both
    directions give the same.

    side: FROM_A or FROM_B, the end that sent it, or UNTRACKED_SIDE for a packet of no connection.
    """
    for i in range(len(outcome)):
        kind = protocol[i]
        if outcome[i] != 0 or payload_bytes[i] < 0 or kind not in (_TCP, _UDP, _SCTP) or (src_vm[i] < 0 and dst_vm[i] < 0):
            side[i] = UNTRACKED_SIDE
            continue
        s_hi, s_lo, d_hi, d_lo = src_hi[i], src_lo[i], dst_hi[i], dst_lo[i]
        s_port, d_port = np.uint32(src_port[i]), np.uint32(dst_port[i])
        # Selections, not branches: which end sent a packet can't be foreseen.
        swap = (s_hi > d_hi) | ((s_hi == d_hi) & ((s_lo > d_lo) | ((s_lo == d_lo) & (s_port > d_port))))
        side[i] = FROM_B if swap else FROM_A
        a_lo, b_lo = (d_lo if swap else s_lo), (s_lo if swap else d_lo)
        ports[i] = (d_port << np.uint32(16) | s_port) if swap else (s_port << np.uint32(16) | d_port)
        key[i] = a_lo << _S32 | b_lo
        if version[i] == 6:
            a_hi, b_hi = (d_hi if swap else s_hi), (s_hi if swap else d_hi)
            key[i] = _mix(a_hi ^ _mix(a_lo ^ _mix(b_hi ^ _mix(b_lo ^ seed))))
        spread[i] = _spread(key[i], ports[i], kind, version[i], seed)


@compiled
def _new_connection(
    i, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port, flags, time_ns, src_vm, dst_vm,
    side, key, ports, bucket, row, entries, bucket_of, addresses, buckets, queue, due, heads, ring, scalars, asked,
):  # fmt: skip
    """An entry for the connection that packet `i` is the first of, or -1 where the table is full: then it counts as missed."""
    at = _begin(entries, bucket_of, buckets, bucket, scalars)
    if at == -1:
        scalars[UNTRACKED] += 1
        _count(ring, row, src_vm[i], dst_vm[i], MISSED, 1)
        return at
    entry, from_b, kind = entries[at], side[i] == FROM_B, protocol[i]
    entry.key, entry.ports, entry.protocol, entry.version = key[i], ports[i], kind, version[i]
    entry.met, entry.last_ns = -1, time_ns[i]
    entry.vm_a, entry.vm_b = (dst_vm[i], src_vm[i]) if from_b else (src_vm[i], dst_vm[i])
    _keep_ends(addresses, at, src_hi[i], src_lo[i], dst_hi[i], dst_lo[i], from_b)
    # Seen from its middle, or without a handshake: the first speaker is the client of a datagram flow; of a TCP connection
    # the end with the higher port is.
    client_is_b = from_b
    if kind == _TCP and not flags[i] & _SYN:
        client_is_b = from_b == (src_port[i] >= dst_port[i])
    if kind == _TCP and flags[i] & _SYN and flags[i] & _ACK:
        client_is_b = not from_b
    entry.state = np.uint16(CLIENT_IS_B if client_is_b else 0)
    if kind == _TCP and (not flags[i] & _SYN or flags[i] & _ACK):
        entry.state |= np.uint16(OPEN)
        _count(ring, row, entry.vm_a, entry.vm_b, ACTIVE, 1)
    which = PENDING if kind == _TCP else DATAGRAM
    _push(queue, due, heads, which, at, scalars[CLOCK] + asked[PENDING_NS + which])
    return at


@compiled
def meter(
    first, time_ns, outcome, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port,
    flags, seq, ack, ip_bytes, payload_bytes, src_vm, dst_vm, side, key, ports, spread,
    entries, bucket_of, addresses, buckets, queue, due, heads, ring, missed, scalars, asked,
    notes, lists, peers,
):  # fmt: skip
    """Meters packets from row `first` on. Returns CLOSE and a row where intervals must be closed before it, or DONE."""
    interval_ns, seed = asked[INTERVAL_NS], np.uint64(asked[SEED])
    interval, row, begin_ns = np.int64(0), np.int64(0), np.int64(NOT_STARTED)
    next_due_ns = _next_due(due, heads)
    for i in range(first, len(time_ns)):
        if outcome[i] != 0:
            if outcome[i] >= 3:
                note_missed(1, missed, scalars, asked)
            continue
        now_ns = time_ns[i]
        if not 0 <= now_ns - begin_ns < interval_ns:
            interval = now_ns // interval_ns
            begin_ns, row = interval * interval_ns, interval % len(ring)
        if scalars[OLDEST] == NOT_STARTED:
            scalars[CLOCK], scalars[LATEST], scalars[EARLIEST] = now_ns, interval, interval
            scalars[OLDEST] = interval - asked[GRACE]
        if now_ns > scalars[CLOCK]:
            if now_ns >= next_due_ns:
                if expire(now_ns, entries, bucket_of, buckets, queue, due, heads, ring, scalars, asked) == CLOSE:
                    return i, CLOSE
                next_due_ns = _next_due(due, heads)
            if interval > scalars[LATEST] and _reach(interval, ring, scalars, asked):
                return i, CLOSE
            scalars[CLOCK] = now_ns
        source, target = src_vm[i], dst_vm[i]
        if source < 0 and target < 0:
            if source == -2 or target == -2:
                scalars[UNCLAIMED] += 1
            else:
                scalars[FOREIGN] += 1
            continue
        scalars[ATTRIBUTED] += 1
        if interval < scalars[OLDEST] or (now_ns < scalars[CLOCK] and interval < scalars[CLOCK] // interval_ns - asked[GRACE]):
            still_open = max(scalars[CLOCK] // interval_ns - asked[GRACE], scalars[OLDEST], scalars[EARLIEST])
            scalars[LATE] += 1
            scalars[LATEST] = max(scalars[LATEST], still_open)
            _count(ring, still_open % len(ring), source, target, MISSED, 1)
            continue
        scalars[EARLIEST] = min(scalars[EARLIEST], interval)
        sender, receiver = max(source, np.int32(-1)), max(target, np.int32(-1))
        ring[row, sender, TX_BYTES] += ip_bytes[i]
        ring[row, sender, TX_PACKETS] += 1
        ring[row, receiver, RX_BYTES] += ip_bytes[i]
        ring[row, receiver, RX_PACKETS] += 1

        kind, payload, at, from_b = protocol[i], payload_bytes[i], np.int32(-1), side[i] == FROM_B
        if payload < 0 and kind == _TCP:
            scalars[TRANSPORT_UNREAD] += 1
        if side[i] != UNTRACKED_SIDE:
            bucket = np.int32(spread[i] & np.uint64(len(buckets) - 1))
            at = buckets[bucket]
            while at != -1:
                entry = entries[at]
                alike = (
                    entry.key == key[i] and entry.ports == ports[i] and entry.protocol == kind and entry.version == version[i]
                )
                if alike and (version[i] == 4 or _same_ends(addresses, at, src_hi[i], src_lo[i], dst_hi[i], dst_lo[i], from_b)):
                    break
                at = entry.chain
            if at != -1 and kind == _TCP and flags[i] & (_SYN | _ACK) == _SYN:
                entry = entries[at]
                again = entry.state & SYN_SEEN and seq[i] == entry.isn_client and from_b == ((entry.state & CLIENT_IS_B) != 0)
                if not again:
                    _replace(entry, row, ring)
                    at = np.int32(-1)
            if at == -1 and not (kind == _TCP and flags[i] & _RST):
                at = _new_connection(
                    i, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port, flags, time_ns, src_vm, dst_vm,
                    side, key, ports, bucket, row, entries, bucket_of, addresses, buckets, queue, due, heads, ring, scalars,
                    asked,
                )  # fmt: skip
                next_due_ns = min(next_due_ns, scalars[CLOCK] + min(asked[PENDING_NS], asked[DATAGRAM_NS]))
        short_interval = np.int32(interval & 0x7FFFFFFF)
        if at != -1:
            entry = entries[at]
            entry.last_ns = max(now_ns, entry.last_ns)
            fresh = True
            if kind == _TCP:
                if flags[i] & (_SYN | _RST | _FIN) or entry.state & (OPEN | HALF_SEEN) != OPEN:
                    _handshake(entry, from_b, flags[i], seq[i], ack[i], now_ns, row, ring, scalars, notes, lists)
                fresh = _sequence(entry, from_b, flags[i], seq[i], payload, row, ring)
            if payload > 0 and fresh:
                _exchange(entry, from_b, now_ns, row, ring, scalars, notes, lists)
            if entry.met == short_interval:
                continue
            entry.met = short_interval
        if source >= 0 and _meet(dst_hi[i], dst_lo[i], version[i], source, short_interval, peers, scalars, seed):
            ring[row, source, PEERS] += 1
        if target >= 0 and _meet(src_hi[i], src_lo[i], version[i], target, short_interval, peers, scalars, seed):
            ring[row, target, PEERS] += 1
    return len(time_ns), DONE
