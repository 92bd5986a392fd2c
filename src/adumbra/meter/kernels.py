"""The meter's compiled inner loops: attribution, the connection table, interval counters. No allocation, no clock."""

from __future__ import annotations

import numpy as np
from numba import njit

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
    "transport_unread", "foreign", "unclaimed", "attributed", "peers_used", "peers_uncounted", "samples", "requests",
    "rows_dropped", "missed_unplaced",
)  # fmt: skip
(
    CLOCK,  # latest packet time seen, ns
    OLDEST,  # index of the oldest open interval
    EARLIEST,  # index of the first interval in which anything was seen
    LATEST,  # index of the latest interval in which anything happened
    CLOSE_TO,  # the interval that must become open
    GAP,  # 1 where nothing watched between LATEST and CLOSE_TO
    FILL_BUDGET,  # quiet intervals that may still be filled with zeros
    FREE,  # head of the list of free entries, -1 for none
    USED,  # entries in use
    LATE, UNTRACKED, TRANSPORT_UNREAD, FOREIGN, UNCLAIMED, ATTRIBUTED,  # packets
    PEERS_USED, PEERS_UNCOUNTED,  # slots of the peers' table, and peers that found it full
    SAMPLES, REQUEST_ROWS, ROWS_DROPPED,  # rows in use, and rows that found no room
    MISSED_UNPLACED,  # missed packets that no interval has taken yet
) = range(21)  # fmt: skip
NOT_STARTED = -(1 << 62)

DONE, CLOSE = 0, 1  # what the kernel tells its caller

# ---- what is asked of it, in one array -------------------------------------------------------------------------------
INTERVAL_NS, GRACE, MAX_QUIET, SEED, PENDING_NS, STREAM_NS, DATAGRAM_NS = range(7)
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

SYN_SEEN, ANSWERED, OPEN, CLOSED, CLIENT_IS_B, FIN_A, FIN_B, SEQ_A, SEQ_B, ASKED, REPLIED = (1 << bit for bit in range(11))
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_TCP, _UDP, _SCTP = 6, 17, 132

# ---- queues of entries to look at again ------------------------------------------------------------------------------
PENDING, STREAM, DATAGRAM = 0, 1, 2  # a TCP connection's first look, its later ones, any look at another flow


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _mix(x):
    x ^= x >> _S33
    x *= _M1
    x ^= x >> _S29
    x *= _M2
    return x ^ (x >> _S32)


# ---- attribution -----------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, error_model="numpy")
def fill_table(hi, lo, owner, table_hi, table_lo, table_owner):
    """Puts addresses into an open-addressed table whose size is a power of two; an owner of -1 marks an empty slot."""
    mask = np.uint64(len(table_hi) - 1)
    for i in range(len(hi)):
        slot = _mix(hi[i] ^ _mix(lo[i])) & mask
        while table_owner[slot] != -1:
            slot = (slot + _ONE) & mask
        table_hi[slot], table_lo[slot], table_owner[slot] = hi[i], lo[i], owner[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _range_owner(hi, lo, starts_hi, starts_lo, owners):
    """The owner of the last range that begins at or before an address; -1 before the first."""
    low, high = 0, len(owners)
    while low < high:
        middle = (low + high) // 2
        if starts_hi[middle] < hi or (starts_hi[middle] == hi and starts_lo[middle] <= lo):
            low = middle + 1
        else:
            high = middle
    return owners[low - 1] if low else np.int32(-1)


@njit(cache=True, nogil=True, error_model="numpy")
def assign(
    outcome, version, hi, lo, table_hi, table_lo, table_owner, hi4, lo4, owners4, hi6, lo6, owners6, vm
):  # fmt: skip
    """Each address's owner: by exact match first, then by range. Rows that weren't parsed get -1."""
    mask = np.uint64(len(table_hi) - 1)
    for i in range(len(hi)):
        vm[i] = -1
        if outcome[i] != 0:
            continue
        key = IPV4_HIGH if version[i] == 4 else hi[i]
        slot = _mix(key ^ _mix(lo[i])) & mask
        while table_owner[slot] != -1 and not (table_lo[slot] == lo[i] and table_hi[slot] == key):
            slot = (slot + _ONE) & mask
        if table_owner[slot] != -1:
            vm[i] = table_owner[slot]
        elif version[i] == 4:
            vm[i] = _range_owner(hi[i], lo[i], hi4, lo4, owners4)
        else:
            vm[i] = _range_owner(hi[i], lo[i], hi6, lo6, owners6)


# ---- the connection table --------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, error_model="numpy")
def free_entries(entries, bucket_of, scalars):
    """Links all entries that stand in no bucket into the list of free ones, lowest first."""
    scalars[FREE] = -1
    for i in range(len(entries) - 1, -1, -1):
        if bucket_of[i] == -1:
            entries[i].chain = np.int32(scalars[FREE])
            scalars[FREE] = i


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _spread(key, ports, protocol, version, seed):
    """The hash of a connection's key, ports and kind."""
    kind = np.uint64(ports) << np.uint64(16) | np.uint64(protocol) << np.uint64(8) | np.uint64(version)
    return _mix(key ^ seed ^ _mix(kind ^ seed))


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _push(queue, due, heads, which, at, when_ns):
    """Puts an entry at the end of a ring, to be looked at then. An entry stands in one ring at a time: none overflows."""
    slot = heads[which, 0] + heads[which, 1]
    if slot >= queue.shape[1]:
        slot -= queue.shape[1]
    queue[which, slot], due[which, slot] = at, when_ns
    heads[which, 1] += 1


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _count(ring, row, vm_a, vm_b, counter, change):
    """Adds to both ends' counters in a row of the ring, once where they are one VM."""
    if vm_a >= 0:
        ring[row, vm_a, counter] += change
    if vm_b >= 0 and vm_b != vm_a:
        ring[row, vm_b, counter] += change


@njit(cache=True, nogil=True, error_model="numpy")
def _happened(interval, scalars):
    """Notes that something happened in an interval, which earns the right to fill some quiet ones."""
    if interval > scalars[LATEST]:
        scalars[LATEST] = interval
        scalars[FILL_BUDGET] += _BUDGET_PER_BUSY


@njit(cache=True, nogil=True, error_model="numpy")
def _ask_close(interval, scalars, asked):
    """Asks for an interval to be opened; says whether the quiet before it can be filled, or is a gap."""
    quiet = interval - scalars[LATEST] - 1
    scalars[CLOSE_TO] = interval
    scalars[GAP] = 1 if quiet > asked[MAX_QUIET] or quiet > scalars[FILL_BUDGET] else 0
    if not scalars[GAP]:
        scalars[FILL_BUDGET] -= max(np.int64(0), quiet)
    return CLOSE


@njit(cache=True, nogil=True, error_model="numpy")
def _next_due(due, heads):
    """When the next entry is to be looked at; far in the future where none waits."""
    soonest = np.int64(1 << 62)
    for which in range(3):
        if heads[which, 1]:
            soonest = min(soonest, due[which, heads[which, 0]])
    return soonest


@njit(cache=True, nogil=True, error_model="numpy")
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
        now_ns = due[which, heads[which, 0]]
        interval = max(now_ns // asked[INTERVAL_NS], scalars[OLDEST])
        if interval >= scalars[OLDEST] + ring.shape[0]:
            return _ask_close(interval, scalars, asked)
        at = queue[which, heads[which, 0]]
        heads[which, 0] = (heads[which, 0] + 1) % queue.shape[1]
        heads[which, 1] -= 1
        entry = entries[at]
        unanswered = entry.state & SYN_SEEN and not entry.state & (ANSWERED | OPEN)
        # An ended connection stays for a while, so that its last packets don't pass for a new one.
        kind = PENDING if unanswered or entry.state & CLOSED else STREAM if entry.protocol == _TCP else DATAGRAM
        if entry.last_ns + asked[PENDING_NS + kind] > now_ns:
            _push(queue, due, heads, kind, at, now_ns + asked[PENDING_NS + kind])
            continue
        if not entry.state & CLOSED and (unanswered or entry.state & OPEN):
            counter, change = (FAILED, 1) if unanswered else (ACTIVE, -1)
            _count(ring, interval % len(ring), entry.vm_a, entry.vm_b, counter, change)
            _happened(interval, scalars)
        _release(entries, bucket_of, buckets, at, scalars)


# ---- peers -----------------------------------------------------------------------------------------------------------

PEER = np.dtype(
    [("hi", np.uint64), ("lo", np.uint64), ("met", np.uint64), ("last", np.int32), ("vm", np.int32)]
)  # fmt: skip
MET_INTERVALS = 64  # how many intervals, up to the last one, a peer's bits tell of


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _peer_slot(peers, key, lo, vm):
    mask = np.uint64(len(peers) - 1)
    slot = _mix(key ^ _mix(lo ^ (np.uint64(vm) << _S32))) & mask
    while peers[slot].vm != -1 and not (peers[slot].lo == lo and peers[slot].hi == key and peers[slot].vm == vm):
        slot = (slot + _ONE) & mask
    return slot


@njit(cache=True, nogil=True, error_model="numpy")
def _meet(hi, lo, version, vm, interval, peers, scalars):
    """Notes that a VM met a peer in an interval (modulo 2^31); whether for the first time in it."""
    key = IPV4_HIGH if version == 4 else hi
    peer = peers[_peer_slot(peers, key, lo, vm)]
    if peer.vm == -1:
        if scalars[PEERS_USED] * 4 >= len(peers) * 3:
            scalars[PEERS_UNCOUNTED] += 1
            return False
        peer.hi, peer.lo, peer.vm, peer.last, peer.met = key, lo, vm, interval, _ONE
        scalars[PEERS_USED] += 1
        return True
    ahead = interval - peer.last
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


@njit(cache=True, nogil=True, error_model="numpy")
def keep_peers(old, oldest, peers, scalars):
    """Moves the peers that were met in intervals still open into another table."""
    scalars[PEERS_USED] = 0
    for i in range(len(old)):
        if old[i].vm != -1 and np.int64(old[i].last) >= oldest:
            slot = _peer_slot(peers, old[i].hi, old[i].lo, old[i].vm)
            peer = peers[slot]
            peer.hi, peer.lo, peer.vm, peer.last, peer.met = old[i].hi, old[i].lo, old[i].vm, old[i].last, old[i].met
            scalars[PEERS_USED] += 1


# ---- samples and requests --------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, error_model="numpy")
def _sample(samples, scalars, interval, vm, kind, value_ns):
    """Keeps a time of a VM: columns interval, vm, kind, ns."""
    if vm < 0:
        return
    at = scalars[SAMPLES]
    if at >= len(samples):
        scalars[ROWS_DROPPED] += 1
        return
    samples[at, 0], samples[at, 1], samples[at, 2], samples[at, 3] = interval, vm, kind, value_ns
    scalars[SAMPLES] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _request(requests, scalars, interval, vm, time_ns, opens):
    """Keeps a request: columns interval, vm, ns, whether it opens its connection."""
    at = scalars[REQUEST_ROWS]
    if at >= len(requests):
        scalars[ROWS_DROPPED] += 1
        return
    requests[at, 0], requests[at, 1], requests[at, 2], requests[at, 3] = interval, vm, time_ns, opens
    scalars[REQUEST_ROWS] += 1


RTT, RESPONSE = 0, 1

# ---- connections -----------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, error_model="numpy")
def _same_ends(addresses, at, a_hi, a_lo, b_hi, b_lo):
    kept = addresses[at]
    return kept.a_lo == a_lo and kept.b_lo == b_lo and kept.a_hi == a_hi and kept.b_hi == b_hi


@njit(cache=True, nogil=True, error_model="numpy")
def _begin(entries, bucket_of, buckets, bucket, scalars):
    """A fresh entry in a bucket, or -1 where the table is full."""
    at = np.int32(scalars[FREE])
    if at != -1:
        scalars[FREE] = entries[at].chain
        scalars[USED] += 1
        entries[at].chain, bucket_of[at] = buckets[bucket], bucket
        buckets[bucket] = at
    return at


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _after(seq, other):
    """Whether a sequence number lies after another, modulo 2^32 (RFC 9293 section 3.4)."""
    gap = (np.int64(seq) - np.int64(other)) & 0xFFFFFFFF
    return 0 < gap < 0x80000000


@njit(cache=True, nogil=True, error_model="numpy")
def _handshake(entry, from_b, flags, seq, ack, now_ns, interval, row, ring, scalars, samples):
    """SYN, SYN with ACK, the ACK that completes it, RST and FIN: counts what they change. TCP only."""
    vm_a, vm_b, state = entry.vm_a, entry.vm_b, entry.state
    from_client = from_b == ((state & CLIENT_IS_B) != 0)
    if flags & _SYN and not flags & _ACK:
        if state & SYN_SEEN and from_client and seq == entry.isn_client:
            if not state & (ANSWERED | OPEN):
                entry.mark_ns = now_ns  # the round trip is taken from the SYN that was answered
            return
        if state & OPEN and not state & CLOSED:
            _count(ring, row, vm_a, vm_b, ACTIVE, -1)
        entry.state = np.uint16(SYN_SEEN | (CLIENT_IS_B if from_b else 0))
        entry.isn_client, entry.mark_ns = seq, now_ns
        _count(ring, row, vm_a, vm_b, ATTEMPTED, 1)
        client = vm_b if from_b else vm_a
        _count(ring, row, client, client, INITIATED, 1)
    elif state & CLOSED:
        return
    elif flags & _RST:
        if state & SYN_SEEN and not state & OPEN:
            _count(ring, row, vm_a, vm_b, FAILED, 1)
            entry.state |= np.uint16(CLOSED)
        else:
            if state & OPEN:
                _count(ring, row, vm_a, vm_b, ACTIVE, -1)
            entry.state |= np.uint16(CLOSED)
    elif flags & _SYN:
        if state & SYN_SEEN and not from_client and ack == np.uint32(entry.isn_client + np.uint32(1)):
            entry.state |= np.uint16(ANSWERED)
            entry.isn_server = seq
    elif flags & _ACK:
        if state & ANSWERED and not state & OPEN and from_client and _after(ack, entry.isn_server):
            entry.state |= np.uint16(OPEN)
            _count(ring, row, vm_a, vm_b, ESTABLISHED, 1)
            _count(ring, row, vm_a, vm_b, ACTIVE, 1)
            _sample(samples, scalars, interval, vm_a, RTT, now_ns - entry.mark_ns)
            if vm_b != vm_a:
                _sample(samples, scalars, interval, vm_b, RTT, now_ns - entry.mark_ns)
        if flags & _FIN and entry.state & OPEN:
            entry.state |= np.uint16(FIN_B if from_b else FIN_A)
            if entry.state & FIN_A and entry.state & FIN_B:
                entry.state |= np.uint16(CLOSED)
                _count(ring, row, vm_a, vm_b, ACTIVE, -1)


@njit(cache=True, nogil=True, error_model="numpy")
def _sequence(entry, from_b, flags, seq, payload, row, ring):
    """Whether a TCP segment is new, and not what its side has sent already; counts it otherwise."""
    size = payload + (1 if flags & _SYN else 0) + (1 if flags & _FIN else 0)
    if size == 0:
        return True
    _count(ring, row, entry.vm_a, entry.vm_b, SEGMENTS, 1)
    end = np.uint32(np.int64(seq) + size)
    known, nxt = (SEQ_B, entry.next_b) if from_b else (SEQ_A, entry.next_a)
    if not entry.state & known or _after(end, nxt):
        entry.state |= np.uint16(known)
        if from_b:
            entry.next_b = end
        else:
            entry.next_a = end
        return True
    if payload <= 1 and not flags & (_SYN | _FIN) and end == nxt:
        return True  # a keep-alive probe repeats the last byte (RFC 1122, 4.2.3.6)
    _count(ring, row, entry.vm_a, entry.vm_b, RETRANSMITTED, 1)
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _exchange(entry, from_b, now_ns, interval, row, ring, scalars, samples, requests):
    """A side's new data: a request where a client begins to speak, a response time where the server answers."""
    client_is_b = (entry.state & CLIENT_IS_B) != 0
    server = entry.vm_a if client_is_b else entry.vm_b
    if from_b == client_is_b:
        if not entry.state & ASKED:
            if server >= 0:
                _count(ring, row, server, server, REQUESTS, 1)
                _request(requests, scalars, interval, server, now_ns, 0 if entry.state & REPLIED else 1)
            entry.state |= np.uint16(ASKED)
        entry.mark_ns = now_ns
    else:
        if entry.state & ASKED:
            _sample(samples, scalars, interval, server, RESPONSE, now_ns - entry.mark_ns)
        entry.state = np.uint16((entry.state | REPLIED) & ~ASKED)


@njit(cache=True, nogil=True, error_model="numpy")
def meter(
    first, time_ns, outcome, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port,
    flags, seq, ack, ip_bytes, payload_bytes, src_vm, dst_vm,
    entries, bucket_of, addresses, buckets, queue, due, heads, ring, missed, scalars, asked,
    samples, requests, peers,
):  # fmt: skip
    """Meters packets from row `first` on. Returns CLOSE and a row where intervals must be closed before it, or DONE."""
    interval_ns = asked[INTERVAL_NS]
    seed = np.uint64(asked[SEED])
    interval, row, begin_ns = np.int64(0), np.int64(0), np.int64(NOT_STARTED)
    next_due_ns = _next_due(due, heads)
    for i in range(first, len(time_ns)):
        if outcome[i] != 0:
            if outcome[i] >= 3:
                if scalars[OLDEST] == NOT_STARTED:
                    scalars[MISSED_UNPLACED] += 1
                else:
                    missed[max(scalars[CLOCK] // interval_ns, scalars[OLDEST]) % len(missed)] += 1
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
            if interval >= scalars[OLDEST] + len(ring):
                return i, _ask_close(interval, scalars, asked)
            scalars[CLOCK] = now_ns
            _happened(interval, scalars)
        source, target = src_vm[i], dst_vm[i]
        if source < 0 and target < 0:
            if source == -2 or target == -2:
                scalars[UNCLAIMED] += 1
            else:
                scalars[FOREIGN] += 1
            continue
        scalars[ATTRIBUTED] += 1
        if now_ns < scalars[CLOCK] and interval < scalars[CLOCK] // interval_ns - asked[GRACE]:
            oldest = scalars[CLOCK] // interval_ns - asked[GRACE]
            scalars[LATE] += 1
            _count(ring, oldest % len(ring), source, target, MISSED, 1)
            continue
        scalars[EARLIEST] = min(scalars[EARLIEST], interval)
        if source >= 0:
            ring[row, source, TX_BYTES] += ip_bytes[i]
            ring[row, source, TX_PACKETS] += 1
        if target >= 0:
            ring[row, target, RX_BYTES] += ip_bytes[i]
            ring[row, target, RX_PACKETS] += 1

        # The connection: its ends in order of address and port, so that both directions find it.
        kind, payload, at, from_b = protocol[i], payload_bytes[i], np.int32(-1), False
        if payload < 0 and kind == _TCP:
            scalars[TRANSPORT_UNREAD] += 1
        if payload >= 0 and kind in (_TCP, _UDP, _SCTP):
            a_hi, a_lo, b_hi, b_lo = src_hi[i], src_lo[i], dst_hi[i], dst_lo[i]
            ports = np.uint32(src_port[i]) << np.uint32(16) | np.uint32(dst_port[i])
            from_b = a_hi > b_hi or (a_hi == b_hi and (a_lo > b_lo or (a_lo == b_lo and src_port[i] > dst_port[i])))
            if from_b:
                a_hi, a_lo, b_hi, b_lo = b_hi, b_lo, a_hi, a_lo
                ports = np.uint32(dst_port[i]) << np.uint32(16) | np.uint32(src_port[i])
            is_v6 = version[i] == 6
            key = _mix(a_hi ^ _mix(a_lo ^ _mix(b_hi ^ _mix(b_lo ^ seed)))) if is_v6 else a_lo << _S32 | b_lo
            bucket = np.int32(_spread(key, ports, kind, version[i], seed) & np.uint64(len(buckets) - 1))
            at = buckets[bucket]
            while at != -1:
                entry = entries[at]
                alike = entry.key == key and entry.ports == ports and entry.protocol == kind and entry.version == version[i]
                if alike and (not is_v6 or _same_ends(addresses, at, a_hi, a_lo, b_hi, b_lo)):
                    break
                at = entry.chain
            if at == -1 and not (kind == _TCP and flags[i] & _RST):
                at = _begin(entries, bucket_of, buckets, bucket, scalars)
                if at == -1:
                    scalars[UNTRACKED] += 1
                    _count(ring, row, source, target, MISSED, 1)
                else:
                    entry = entries[at]
                    entry.key, entry.ports, entry.protocol, entry.version = key, ports, kind, version[i]
                    entry.met, entry.last_ns = -1, now_ns
                    entry.vm_a, entry.vm_b = (target, source) if from_b else (source, target)
                    kept = addresses[at]
                    kept.a_hi, kept.a_lo, kept.b_hi, kept.b_lo = a_hi, a_lo, b_hi, b_lo
                    # Seen from its middle, or without a handshake: the first speaker is the client of a datagram flow; of
                    # a TCP connection the end with the higher port is.
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
                    next_due_ns = min(next_due_ns, scalars[CLOCK] + asked[PENDING_NS + which])
        short_interval = np.int32(interval & 0x7FFFFFFF)
        if at != -1:
            entry = entries[at]
            entry.last_ns = max(now_ns, entry.last_ns)
            fresh = True
            if kind == _TCP:
                if flags[i] & (_SYN | _RST | _FIN) or not entry.state & OPEN:
                    _handshake(entry, from_b, flags[i], seq[i], ack[i], now_ns, interval, row, ring, scalars, samples)
                fresh = _sequence(entry, from_b, flags[i], seq[i], payload, row, ring)
            if payload > 0 and fresh:
                _exchange(entry, from_b, now_ns, interval, row, ring, scalars, samples, requests)
            if entry.met == short_interval:
                continue
            entry.met = short_interval
        if source >= 0 and _meet(dst_hi[i], dst_lo[i], version[i], source, short_interval, peers, scalars):
            ring[row, source, PEERS] += 1
        if target >= 0 and _meet(src_hi[i], src_lo[i], version[i], target, short_interval, peers, scalars):
            ring[row, target, PEERS] += 1
    return len(time_ns), DONE


# ---- what leaves with the closed intervals -------------------------------------------------------------------------------


@njit(cache=True, nogil=True, error_model="numpy")
def take_rows(rows, used, end, taken):
    """Moves the rows of intervals before `end` to `taken`, and those that stay to the front. Gives how many moved."""
    moved, stayed = 0, 0
    for i in range(used):
        leaves = rows[i, 0] < end
        for column in range(rows.shape[1]):
            if leaves:
                taken[moved, column] = rows[i, column]
            else:
                rows[stayed, column] = rows[i, column]
        moved, stayed = moved + leaves, stayed + (not leaves)
    return moved


@njit(cache=True, nogil=True, error_model="numpy")
def cell_quantiles(cells, values, levels, quantiles):
    """Quantiles of the values in each cell by linear interpolation; quantiles: float64[levels, cells], NaN to begin with."""
    ends = np.zeros(quantiles.shape[1] + 1, np.int64)
    for cell in cells:
        ends[cell + 1] += 1
    ends = np.cumsum(ends)
    at = ends[:-1].copy()
    grouped = np.empty(len(values), values.dtype)
    for i in range(len(values)):
        grouped[at[cells[i]]] = values[i]
        at[cells[i]] += 1
    for cell in range(quantiles.shape[1]):
        if ends[cell + 1] > ends[cell]:
            ordered = np.sort(grouped[ends[cell] : ends[cell + 1]])
            for k in range(len(levels)):
                rank = (len(ordered) - 1) * levels[k]
                low = np.int64(np.floor(rank))
                high = min(low + 1, len(ordered) - 1)
                quantiles[k, cell] = ordered[low] + (ordered[high] - ordered[low]) * (rank - low)
