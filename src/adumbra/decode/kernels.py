"""Decodes headers over raw bytes, one pass, every read checked against the captured length. Compiled; no state.

All of it stands in one file, since Numba looks at no other when it asks whether what it compiled is still good.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

# Nothing is allocated here, so that references to arrays need not be counted: doing so at each call took a third of the time.
compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
# What gives many values at once is put into its caller, as they would go through memory; with fewer, LLVM does it itself.
inlined = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, inline="always")

PARSED, NOT_IP, UNKNOWN_LINK, LINK_TRUNCATED, IP_TRUNCATED, IP_MALFORMED, ELSEWHERE = 0, 1, 2, 3, 4, 5, 6

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN = (0x8100, 0x88A8, 0x9100, 0x9200)
_MPLS, _MPLS_MULTICAST, _PPPOE = 0x8847, 0x8848, 0x8864
_TCP, _UDP, _SCTP = 6, 17, 132
_IPV4_IN_IP, _IPV6_IN_IP, _GRE = 4, 41, 47
_VXLAN_PORT, _LINUX_VXLAN_PORT, _GENEVE_PORT = 4789, 8472, 6081
_ETHERNET, _TRANSPARENT_ETHERNET, _ERSPAN, _ERSPAN_3 = 1, 0x6558, 0x88BE, 0x22EB
_RAW_LINK, _IPV4_LINK, _IPV6_LINK = 101, 228, 229
_VXLAN_LINK, _GENEVE_LINK, _GRE_LINK = 0x10001, 0x10002, 0x10003  # Link's
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION, _MOBILITY, _HIP, _SHIM6 = 0, 43, 44, 51, 60, 135, 139, 140
_NO_NEXT_HEADER = 59
_NOP_NOP_TIMESTAMPS = 0x0101080A
_MAX_TAGS = 8
_MAX_EXTENSIONS = 16
_ANY_IP = -1  # the link says only that IP follows; its version nibble says which


class Columns(NamedTuple):
    """The columns of Packets that are written here, by their names there."""

    outcome: Any
    version: Any
    protocol: Any
    src_hi: Any
    src_lo: Any
    dst_hi: Any
    dst_lo: Any
    src_port: Any
    dst_port: Any
    flags: Any
    seq: Any
    ack: Any
    window: Any
    ts_value: Any
    ts_echo: Any
    ip_bytes: Any
    payload_bytes: Any
    inner_at: Any
    inner_link: Any


class Shares(NamedTuple):
    """Whose packets are decoded: one worker's of several, told apart by ranges of addresses, as share.Share has them."""

    worker: Any
    workers: Any
    edges4: Any
    edges6_hi: Any
    edges6_lo: Any


WRITTEN = Columns._fields
SHARE_FACTOR = 0x9E3779B1  # 2^32 divided by the golden ratio, odd (Knuth, The Art of Computer Programming 3, 6.4)
SHARE_SHIFT = 16

# Unsigned positions: they can't count from an array's end, so that the bytes of a field become one load.
_U1, _U2, _U3 = np.uint64(1), np.uint64(2), np.uint64(3)


@compiled
def _u8(data, at):
    return np.int64(data[np.uint64(at)])


@compiled
def _be16(data, at):
    u = np.uint64(at)
    return np.int64(data[u]) << 8 | np.int64(data[u + _U1])


@compiled
def _be32(data, at):
    u = np.uint64(at)
    return np.int64(data[u]) << 24 | np.int64(data[u + _U1]) << 16 | np.int64(data[u + _U2]) << 8 | np.int64(data[u + _U3])


@compiled
def _be64(data, at):
    return np.uint64(_be32(data, at)) << np.uint64(32) | np.uint64(_be32(data, at + 4))


@compiled
def _after_ethertype(data, at, end, kind):
    """Past VLAN tags, MPLS labels, PPPoE and SNAP from `at` on: outcome, position of the IP header, its version or _ANY_IP."""
    for _ in range(_MAX_TAGS):
        if kind == _IPV4:
            return PARSED, at, np.int64(4)
        if kind == _IPV6:
            return PARSED, at, np.int64(6)
        if kind in _VLAN:
            if end - at < 4:
                return LINK_TRUNCATED, at, np.int64(0)
            kind = _be16(data, at + 2)
            at += 4
        elif kind in (_MPLS, _MPLS_MULTICAST):
            return _after_mpls(data, at, end)
        elif kind == _PPPOE:
            if end - at < 8:
                return LINK_TRUNCATED, at, np.int64(0)
            ppp = _be16(data, at + 6)
            at += 8
            kind = _IPV4 if ppp == 0x0021 else _IPV6 if ppp == 0x0057 else 0
            if kind == 0:
                return NOT_IP, at, np.int64(0)
        elif kind < 0x0600 and _begins_snap(data, at, end):
            if end - at < 8:
                return LINK_TRUNCATED, at, np.int64(0)
            kind = _be16(data, at + 6)
            at += 8
            if kind < 0x0600:
                return NOT_IP, at, np.int64(0)
        else:
            return NOT_IP, at, np.int64(0)
    return NOT_IP, at, np.int64(0)


@compiled
def _begins_snap(data, at, end):
    """Whether LLC and SNAP with an ethertype (IEEE 802.3, RFC 1042) begin here, as far as was captured."""
    alike = True
    for i in range(min(end - at, 5)):
        alike &= data[at + i] == (0xAA if i < 2 else 3 if i == 2 else 0)
    return alike


@compiled
def _after_mpls(data, at, end):
    """Past a label stack (RFC 3032) to the IP packet beneath, if the nibble there says that it is one."""
    for _ in range(_MAX_TAGS):
        if end - at < 4:
            return LINK_TRUNCATED, at, np.int64(0)
        bottom = data[at + 2] & 1
        at += 4
        if bottom:
            if end - at < 1:
                return LINK_TRUNCATED, at, np.int64(0)
            version = np.int64(data[at] >> 4)
            return (PARSED if version in (4, 6) else NOT_IP), at, version
    return NOT_IP, at, np.int64(0)


@compiled
def _after_vxlan(data, at, end):
    """Past a VXLAN header (RFC 7348): outcome, position and link type of what lies within.

    The I flag must be set. Of the others only those may be that are known: of group policies, of flooded frames, and that of
    VXLAN-GPE which says that a protocol is named (draft-ietf-nvo3-vxlan-gpe). Later versions and messages of control are none.
    """
    if end - at < 8:
        return LINK_TRUNCATED, at, np.int64(0)
    flags = data[at]
    if flags & 0x79 != 0x08:
        return NOT_IP, at, np.int64(0)
    if not flags & 0x04:
        return PARSED, at + 8, np.int64(_ETHERNET)
    named = data[at + 3]
    if named not in (1, 2, 3):
        return NOT_IP, at, np.int64(0)
    return PARSED, at + 8, np.int64(_IPV4_LINK if named == 1 else _IPV6_LINK if named == 2 else _ETHERNET)


@compiled
def _after_geneve(data, at, end):
    """Past a Geneve header of version 0 and its options (RFC 8926): outcome, position and link type of what lies within."""
    if end - at < 8:
        return LINK_TRUNCATED, at, np.int64(0)
    if data[at] & 0xC0:
        return NOT_IP, at, np.int64(0)
    size = 8 + np.int64(data[at] & 0x3F) * 4
    link = _link_of(_be16(data, at + 2))
    if link == 0:
        return NOT_IP, at, np.int64(0)
    return (PARSED if end - at >= size else LINK_TRUNCATED), at + size, link


@compiled
def _link_of(kind):
    """The link type of what an ethertype says lies within a tunnel; 0 for what isn't decoded."""
    if kind == _TRANSPARENT_ETHERNET:
        return np.int64(_ETHERNET)
    return np.int64(_IPV4_LINK if kind == _IPV4 else _IPV6_LINK if kind == _IPV6 else 0)


@compiled
def _after_gre(data, at, end):
    """Past a GRE header of version 0 (RFC 2784, 2890) and ERSPAN's behind it: outcome, position, link type of what lies within.

    Source routes (RFC 1701) are not read.
    """
    if end - at < 4:
        return LINK_TRUNCATED, at, np.int64(0)
    bits, kind = _be16(data, at), _be16(data, at + 2)
    if bits & 0x4007:
        return NOT_IP, at, np.int64(0)
    behind = at + 4 + 4 * (bits >> 15 & 1) + 4 * (bits >> 13 & 1) + 4 * (bits >> 12 & 1)
    if kind in (_ERSPAN, _ERSPAN_3):
        return _after_erspan(data, behind, end, kind, bits & 0x1000)
    link = _link_of(kind)
    if link == 0:
        return NOT_IP, at, np.int64(0)
    return (PARSED if end >= behind else LINK_TRUNCATED), behind, link


@compiled
def _after_erspan(data, at, end, kind, numbered):
    """Past ERSPAN's header: none in type I, whose GRE header has no sequence number, 8 bytes in II, 12 or 20 in III.

    draft-foschiano-erspan-03. In type III the frame type says whether an Ethernet frame or an IP packet follows.
    """
    if kind == _ERSPAN and not numbered:
        return (PARSED if end >= at else LINK_TRUNCATED), at, np.int64(_ETHERNET)
    if end - at < (8 if kind == _ERSPAN else 12):
        return LINK_TRUNCATED, at, np.int64(0)
    version = data[at] >> 4
    if kind == _ERSPAN:
        return (PARSED if version == 1 else NOT_IP), at + 8, np.int64(_ETHERNET)
    size = 20 if data[at + 11] & 1 else 12
    frame_type = data[at + 10] >> 2 & 0x1F
    if version != 2 or frame_type not in (0, 2):
        return NOT_IP, at, np.int64(0)
    return (PARSED if end - at >= size else LINK_TRUNCATED), at + size, np.int64(_RAW_LINK if frame_type else _ETHERNET)


@compiled
def _carried(data, at, end, kind, dst_port):
    """What a packet carries through a tunnel, by its transport header at `at`: outcome, position, link type.

    PARSED only where the tunnel's headers and a byte of what lies within end before `end`.
    """
    result, link = NOT_IP, np.int64(0)
    if kind == _UDP:
        if dst_port in (_VXLAN_PORT, _LINUX_VXLAN_PORT):
            result, at, link = _after_vxlan(data, at + 8, end)
        elif dst_port == _GENEVE_PORT:
            result, at, link = _after_geneve(data, at + 8, end)
    elif kind == _GRE:
        result, at, link = _after_gre(data, at, end)
    elif kind == _IPV4_IN_IP:
        result, link = PARSED, np.int64(_IPV4_LINK)
    elif kind == _IPV6_IN_IP:
        result, link = PARSED, np.int64(_IPV6_LINK)
    return result == PARSED and at < end, at, link


@compiled
def _network_header(data, at, end, link):
    """Where a frame's IP header begins: outcome, position, version."""
    if link in (_VXLAN_LINK, _GENEVE_LINK, _GRE_LINK):
        result, at, link = (
            _after_vxlan(data, at, end) if link == _VXLAN_LINK
            else _after_geneve(data, at, end) if link == _GENEVE_LINK
            else _after_gre(data, at, end)
        )  # fmt: skip
        if result != PARSED:
            return result, at, np.int64(0)
    if link == 1:
        if end - at < 14:
            return LINK_TRUNCATED, at, np.int64(0)
        return _after_ethertype(data, at + 14, end, _be16(data, at + 12))
    if link in (12, 14, 101, 228, 229):
        if end - at < 1:
            return LINK_TRUNCATED, at, np.int64(0)
        return PARSED, at, np.int64(4 if link == 228 else 6 if link == 229 else _ANY_IP)
    if link in (0, 108):
        if end - at < 4:
            return LINK_TRUNCATED, at, np.int64(0)
        family = _be32(data, at)
        if family > 0xFFFF:  # NULL is in the byte order of the machine that captured
            family = np.int64(data[at]) | np.int64(data[at + 1]) << 8
        if family == 2:
            return PARSED, at + 4, np.int64(4)
        return (PARSED if family in (10, 23, 24, 28, 30) else NOT_IP), at + 4, np.int64(6)
    if link == 113:
        if end - at < 16:
            return LINK_TRUNCATED, at, np.int64(0)
        return _after_ethertype(data, at + 16, end, _be16(data, at + 14))
    if link == 276:
        if end - at < 20:
            return LINK_TRUNCATED, at, np.int64(0)
        return _after_ethertype(data, at + 20, end, _be16(data, at))
    return UNKNOWN_LINK, at, np.int64(0)


@compiled
def _skip_extensions(data, at, end, kind):
    """Past IPv6 extension headers (RFC 8200): outcome, position or -1 where the transport header isn't here, protocol."""
    for _ in range(_MAX_EXTENSIONS):
        if kind in (_HOP_BY_HOP, _ROUTING, _DESTINATION, _MOBILITY, _HIP, _SHIM6):
            if end - at < 2:
                return PARSED, np.int64(-1), kind
            kind, size = np.int64(data[at]), (np.int64(data[at + 1]) + 1) * 8
        elif kind == _AH:
            if end - at < 2:
                return PARSED, np.int64(-1), kind
            kind, size = np.int64(data[at]), (np.int64(data[at + 1]) + 2) * 4
        elif kind == _FRAGMENT:
            if end - at < 8:
                return PARSED, np.int64(-1), kind
            later = _be16(data, at + 2) & 0xFFF8
            kind, size = np.int64(data[at]), np.int64(8)
            if later:
                return PARSED, np.int64(-1), kind
        else:
            return PARSED, at, kind
        at += size
        if at > end:
            return PARSED, np.int64(-1), kind
    return IP_MALFORMED, np.int64(-1), kind


@compiled
def _timestamps(data, at, end):
    """TCP's timestamps (RFC 7323) among the options from `at` to `end`: value and echo, 0 and 0 where there are none."""
    while end - at >= 2:
        kind = data[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        size = np.int64(data[at + 1])
        if kind == 8:
            if size == 10 and end - at >= 10:
                return _be32(data, at + 2), _be32(data, at + 6)
            break
        if size < 2:
            break
        at += size
    return np.int64(0), np.int64(0)


@inlined
def _tcp_options(data, at, end, size):
    """The timestamps of a TCP header of `size` bytes, as far as it was captured."""
    if size == 20:
        return np.int64(0), np.int64(0)
    if size == 32 and end - at >= 32 and _be32(data, at + 20) == _NOP_NOP_TIMESTAMPS:  # by far the most frequent
        return _be32(data, at + 24), _be32(data, at + 28)
    return _timestamps(data, at + 20, min(at + size, end))


@inlined
def _write_transport(i, out, ports, tcp, timestamps, payload):
    out.src_port[i], out.dst_port[i] = ports
    out.flags[i], out.seq[i], out.ack[i], out.window[i] = tcp
    out.ts_value[i], out.ts_echo[i] = timestamps
    out.payload_bytes[i] = payload


@inlined
def _transport(i, data, at, end, left, kind, out):
    """Writes the columns of a transport header at `at`, -1 where there is none, of which the packet leaves `left` bytes.

    Returns the destination's port, 0 where there is none. Each branch writes its own, so that nothing waits in the stack.
    """
    if at >= 0:
        if kind == _TCP:
            if end - at >= 20 and left >= 20:
                size = (_u8(data, at + 12) >> 4) * 4
                if 20 <= size <= left:
                    tcp = _u8(data, at + 13), _be32(data, at + 4), _be32(data, at + 8), _be16(data, at + 14)
                    ports = _be16(data, at), _be16(data, at + 2)
                    _write_transport(i, out, ports, tcp, _tcp_options(data, at, end, size), left - size)
                    return ports[1]
        elif kind in (_UDP, _SCTP):
            size = 8 if kind == _UDP else 12
            if end - at >= size and left >= size:
                ports = _be16(data, at), _be16(data, at + 2)
                _write_transport(i, out, ports, (0, 0, 0, 0), (0, 0), left - size)
                return ports[1]
    _write_transport(i, out, (0, 0), (0, 0, 0, 0), (0, 0), -1)
    return np.int64(0)


@inlined
def _ip(data, at, end, wire_end, ip_version):
    """An IP header: outcome, version, protocol, addresses, IP bytes, position of the transport header or -1."""
    nothing, none = np.int64(0), np.uint64(0)
    if end - at < 1:
        return IP_TRUNCATED, nothing, nothing, none, none, none, none, nothing, nothing
    nibble = _u8(data, at) >> 4
    if ip_version not in (_ANY_IP, nibble) or nibble not in (4, 6):
        return IP_MALFORMED, nothing, nothing, none, none, none, none, nothing, nothing
    if nibble == 4:
        if end - at < 20:
            return IP_TRUNCATED, nothing, nothing, none, none, none, none, nothing, nothing
        header = (_u8(data, at) & 0x0F) * 4
        total = _be16(data, at + 2)
        total = total if total else wire_end - at
        if header < 20 or total < header:
            return IP_MALFORMED, nothing, nothing, none, none, none, none, nothing, nothing
        transport = at + header if _be16(data, at + 6) & 0x1FFF == 0 else np.int64(-1)
        src, dst = np.uint64(_be32(data, at + 12)), np.uint64(_be32(data, at + 16))
        return PARSED, nibble, _u8(data, at + 9), none, src, none, dst, total, transport
    if end - at < 40:
        return IP_TRUNCATED, nothing, nothing, none, none, none, none, nothing, nothing
    total = _be16(data, at + 4)
    total = total + 40 if total or _u8(data, at + 6) == _NO_NEXT_HEADER else wire_end - at
    result, transport, kind = PARSED, at + 40, _u8(data, at + 6)
    if kind not in (_TCP, _UDP):  # which it would give back as they are
        result, transport, kind = _skip_extensions(data, transport, end, kind)
    if result != PARSED:
        return result, nothing, nothing, none, none, none, none, nothing, nothing
    return (
        PARSED, nibble, kind, _be64(data, at + 8), _be64(data, at + 16), _be64(data, at + 24), _be64(data, at + 32), total,
        transport,
    )  # fmt: skip


@compiled
def _inside4(address, edges):
    """Whether as many ranges have begun as not ended: `edges` holds first addresses and those behind last ones, in order.

    At least four: what fills them up is above any address.
    """
    if len(edges) == 4:  # almost always
        return (address >= edges[0]) ^ (address >= edges[1]) ^ (address >= edges[2]) ^ (address >= edges[3])
    low, high = 0, len(edges)
    while low < high:
        middle = (low + high) // 2
        if edges[middle] <= address:
            low = middle + 1
        else:
            high = middle
    return low & 1 == 1


@compiled
def _inside6(hi, lo, edges_hi, edges_lo):
    low, high = 0, len(edges_hi)
    while low < high:
        middle = (low + high) // 2
        if edges_hi[middle] < hi or (edges_hi[middle] == hi and edges_lo[middle] <= lo):
            low = middle + 1
        else:
            high = middle
    return low & 1 == 1


@compiled
def _spread(src, dst, from_inside, to_inside, workers):
    """share.share_of from two addresses folded to 64 bits; without branches, since no one could foretell them."""
    word = src * np.uint64(to_inside | (not from_inside)) ^ dst * np.uint64(from_inside | (not to_inside))
    word ^= word >> np.uint64(32)
    spread = np.uint32(np.uint32(word) * np.uint32(SHARE_FACTOR)) >> np.uint32(SHARE_SHIFT)
    return np.int64(np.uint32(spread) % np.uint32(workers))


@compiled
def _owner(version, src_hi, src_lo, dst_hi, dst_lo, shares):
    """The worker whose share a packet is: see share.share_of."""
    if version == 4:
        from_inside, to_inside = _inside4(src_lo, shares.edges4), _inside4(dst_lo, shares.edges4)
    else:
        from_inside = _inside6(src_hi, src_lo, shares.edges6_hi, shares.edges6_lo)
        to_inside = _inside6(dst_hi, dst_lo, shares.edges6_hi, shares.edges6_lo)
    return _spread(src_hi ^ src_lo, dst_hi ^ dst_lo, from_inside, to_inside, shares.workers)


@inlined
def _may_own(data, begin, captured, link, shares):
    """Whether half a frame's header tells whose share it is, and whether it may be the worker's own."""
    sure, mine = np.uint64(0), True
    if link == _ETHERNET and captured >= 38 and _be16(data, begin + 12) == _IPV4:
        kind, port = _u8(data, begin + 23), _be16(data, begin + 36)
        no_tunnel = (port != _VXLAN_PORT) & (port != _LINUX_VXLAN_PORT) & (port != _GENEVE_PORT)
        plain = (_u8(data, begin + 14) == 0x45) & (_be16(data, begin + 16) >= 20)
        plain &= (kind == _TCP) | ((kind == _UDP) & no_tunnel)
        src, dst = np.uint64(_be32(data, begin + 26)), np.uint64(_be32(data, begin + 30))
        owner = _spread(src, dst, _inside4(src, shares.edges4), _inside4(dst, shares.edges4), shares.workers)
        mine = (owner == shares.worker) | (not plain)
        sure = np.uint64(plain)
    return sure, mine


@compiled
def own_rows(data, given, shares, interval_ns, until_ns, taken):
    """Puts the columns of frames that may be the worker's own into `taken`, and those of others with which time goes on.

    given, taken: offset, captured, length, time_ns and link of frames. A frame of others is kept where it is the first of an
    interval that lies after all before: `until_ns` is where the last such interval ends. Returns how many, and that end.
    """
    offset, captured, length, time_ns, link = given
    to_offset, to_captured, to_length, to_time_ns, to_link = taken
    count = np.uint64(0)
    for i in range(len(offset)):
        _, mine = _may_own(data, offset[i], captured[i], link[i], shares)
        if time_ns[i] >= until_ns:
            until_ns, mine = (time_ns[i] // interval_ns + 1) * interval_ns, True
        to_offset[count], to_captured[count], to_length[count] = offset[i], captured[i], length[i]
        to_time_ns[count], to_link[count] = time_ns[i], link[i]
        count += np.uint64(mine)
    return count, until_ns


@compiled
def _choose(data, offset, captured, link, shares, outcome, chosen):
    """Puts the rows that may be of the worker's share into `chosen`, marks all as elsewhere, and returns how many it chose.

    Decides on plain packets, of which half a header tells all: Ethernet, IPv4 without options, TCP or UDP to no tunnel. An
    entry is a row's number, doubled, plus 1 where that is decided. Which it is is anybody's guess: nothing branches on it.
    """
    count = np.uint64(0)
    for i in range(len(offset)):
        sure, mine = _may_own(data, offset[i], captured[i], link[i], shares)
        outcome[i] = ELSEWHERE
        chosen[count] = np.uint64(i) << _U1 | sure
        count += np.uint64(mine)
    return count


@inlined
def _row(i, data, place, shares, unsure, again, keep, out):
    """Decodes one frame into row i of the columns, all but its time.

    Returns whether it did, whether the packet carries another, and what of its addresses is beyond 64 bits.
    place: where the row's whole frame begins, where this one begins in it, ends as captured and on the wire, its link type.
    again: whether the row held another packet before; where not, columns that are 0 for most are 0 already (see Decoder).
    unsure: whether it is yet to be seen whose share this is.
    keep: the row stays as it was, without what it carries, where what is here isn't IP or can't be read.
    """
    origin, begin, end, wire_end, link = place
    if link == _ETHERNET and end - begin >= 34 and _be16(data, begin + 12) == _IPV4:  # by far the most frequent case
        result, at, ip_version = PARSED, begin + 14, np.int64(4)
    else:
        result, at, ip_version = _network_header(data, begin, end, link)
    version, protocol, ip_bytes, transport = np.int64(0), np.int64(0), np.int64(0), np.int64(-1)
    src_hi, src_lo, dst_hi, dst_lo = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    if result == PARSED:
        result, version, protocol, src_hi, src_lo, dst_hi, dst_lo, ip_bytes, transport = _ip(
            data, at, end, wire_end, ip_version
        )
    elsewhere = False
    if unsure:
        owner = _owner(version, src_hi, src_lo, dst_hi, dst_lo, shares) if result == PARSED else 0
        elsewhere = owner != shares.worker
    if again:
        out.inner_at[i], out.inner_link[i] = -1, 0
        if keep and result != PARSED:
            return False, False, src_hi | dst_hi
    out.outcome[i], out.version[i], out.protocol[i], out.ip_bytes[i] = result, version, protocol, ip_bytes
    out.src_lo[i], out.dst_lo[i] = src_lo, dst_lo
    if again or version == 6:
        out.src_hi[i], out.dst_hi[i] = src_hi, dst_hi
    left = at + ip_bytes - transport
    dst_port = _transport(i, data, transport if left >= 0 else -1, end, left, protocol, out)
    if protocol != _TCP and transport >= 0 and left >= 0:
        carries, inner, link = _carried(data, transport, min(end, transport + left), protocol, dst_port)
        if carries:
            out.inner_at[i], out.inner_link[i] = inner - origin, link
            return True, True, src_hi | dst_hi
    if elsewhere:
        out.outcome[i] = ELSEWHERE
    return True, False, src_hi | dst_hi


@compiled
def decode(
    data, offset, captured, length, link, carriers, worker, workers, edges4, edges6_hi, edges6_lo,
    outcome, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port, flags, seq, ack, window, ts_value, ts_echo,
    ip_bytes, payload_bytes, inner_at, inner_link,
):  # fmt: skip
    """Fills the columns of Packets (see there) from frames; all but times and VMs.

    Before, inner_at must be -1, and inner_link, src_hi and dst_hi 0; what else they held doesn't matter. Puts the rows that
    carry a packet into `carriers`; returns how many there are, and whether src_hi or dst_hi was set.
    """
    out = Columns(
        outcome, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port, flags, seq, ack, window, ts_value,
        ts_echo, ip_bytes, payload_bytes, inner_at, inner_link,
    )  # fmt: skip
    shares = Shares(worker, workers, edges4, edges6_hi, edges6_lo)
    carrying, high = 0, np.uint64(0)
    for i in range(np.uint64(len(offset))):
        begin = offset[i]
        place = (begin, begin, begin + captured[i], begin + length[i], link[i])
        _, carries, beyond = _row(i, data, place, shares, False, False, False, out)
        high |= beyond
        if carries:
            carriers[carrying] = i
            carrying += 1
    return carrying, high != 0


@compiled
def decode_share(
    data, offset, captured, length, link, carriers, worker, workers, edges4, edges6_hi, edges6_lo, chosen,
    outcome, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port, flags, seq, ack, window, ts_value, ts_echo,
    ip_bytes, payload_bytes, inner_at, inner_link,
):  # fmt: skip
    """The same for one worker of several: rows of others get no more than their outcome.

    But for those that carry a packet: whose these are is settled later. chosen: room for a number a row.
    """
    out = Columns(
        outcome, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port, flags, seq, ack, window, ts_value,
        ts_echo, ip_bytes, payload_bytes, inner_at, inner_link,
    )  # fmt: skip
    shares = Shares(worker, workers, edges4, edges6_hi, edges6_lo)
    carrying, high = 0, np.uint64(0)
    for entry in chosen[: _choose(data, offset, captured, link, shares, outcome, chosen)]:
        i = entry >> _U1
        begin = offset[i]
        place = (begin, begin, begin + captured[i], begin + length[i], link[i])
        _, carries, beyond = _row(i, data, place, shares, entry & _U1 == 0, False, False, out)
        high |= beyond
        if carries:
            carriers[carrying] = i
            carrying += 1
    return carrying, high != 0


@compiled
def unwrap(
    data, offset, captured, length, carriers, outside_only, src_vm, dst_vm, worker, workers, edges4, edges6_hi, edges6_lo,
    outcome, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port, flags, seq, ack, window, ts_value, ts_echo,
    ip_bytes, payload_bytes, inner_at, inner_link,
):  # fmt: skip
    """Decodes what the rows of `carriers` carry into the same rows; returns how many rows that changed.

    With `outside_only`: only where both ends are outside the network; and the row stays where what it carries can't be read.
    """
    out = Columns(
        outcome, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port, flags, seq, ack, window, ts_value,
        ts_echo, ip_bytes, payload_bytes, inner_at, inner_link,
    )  # fmt: skip
    shares = Shares(worker, workers, edges4, edges6_hi, edges6_lo)
    changed = 0
    for i in carriers:
        if inner_at[i] < 0 or (outside_only and (src_vm[i] != -1 or dst_vm[i] != -1)):
            continue
        begin = offset[i]
        place = (begin, begin + inner_at[i], begin + captured[i], begin + length[i], inner_link[i])
        done, _, _ = _row(i, data, place, shares, False, True, outside_only, out)
        changed += done
    return changed


@compiled
def settle(
    carriers, worker, workers, edges4, edges6_hi, edges6_lo, outcome, version, src_hi, src_lo, dst_hi, dst_lo, src_vm, dst_vm
):  # fmt: skip
    """Leaves to other workers those rows of `carriers` that, as they stand now, are of their share."""
    shares = Shares(worker, workers, edges4, edges6_hi, edges6_lo)
    for i in carriers:
        owner = _owner(version[i], src_hi[i], src_lo[i], dst_hi[i], dst_lo[i], shares) if outcome[i] == PARSED else 0
        if owner != worker:
            outcome[i], src_vm[i], dst_vm[i] = ELSEWHERE, -1, -1
