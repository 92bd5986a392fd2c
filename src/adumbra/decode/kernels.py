"""Decodes headers over raw bytes, one pass, every read checked against the captured length. Compiled; no state."""

from __future__ import annotations

import numpy as np
from numba import njit

# Nothing is allocated here, so that references to arrays need not be counted: doing so at each call took a third of the time.
compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
inlined = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, inline="always")

PARSED, NOT_IP, UNKNOWN_LINK, LINK_TRUNCATED, IP_TRUNCATED, IP_MALFORMED = 0, 1, 2, 3, 4, 5

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN = (0x8100, 0x88A8, 0x9100, 0x9200)
_MPLS, _MPLS_MULTICAST, _PPPOE = 0x8847, 0x8848, 0x8864
_TCP, _UDP, _SCTP = 6, 17, 132
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION, _MOBILITY, _HIP, _SHIM6 = 0, 43, 44, 51, 60, 135, 139, 140
_NO_NEXT_HEADER = 59
_MAX_TAGS = 8
_MAX_EXTENSIONS = 16
_ANY_IP = -1  # the link says only that IP follows; its version nibble says which


# Unsigned positions: they can't count from an array's end, so that the bytes of a field become one load.
_U1, _U2, _U3 = np.uint64(1), np.uint64(2), np.uint64(3)


@inlined
def _be16(data, at):
    u = np.uint64(at)
    return np.int64(data[u]) << 8 | np.int64(data[u + _U1])


@inlined
def _be32(data, at):
    u = np.uint64(at)
    return np.int64(data[u]) << 24 | np.int64(data[u + _U1]) << 16 | np.int64(data[u + _U2]) << 8 | np.int64(data[u + _U3])


@inlined
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
def _network_header(data, at, end, link):
    """Where a frame's IP header begins: outcome, position, version."""
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
def decode(
    data, offset, captured, length, frame_ns, link,
    time_ns, outcome, version, protocol, src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port,
    flags, seq, ack, ip_bytes, payload_bytes,
):  # fmt: skip
    """Fills the columns of Packets (see there) from frames, whatever they held before."""
    for i in range(len(offset)):
        time_ns[i], outcome[i], version[i], protocol[i] = frame_ns[i], PARSED, 0, 0
        src_hi[i], src_lo[i], dst_hi[i], dst_lo[i] = 0, 0, 0, 0
        src_port[i], dst_port[i], flags[i], seq[i], ack[i] = 0, 0, 0, 0, 0
        ip_bytes[i], payload_bytes[i] = 0, -1
        begin, end = offset[i], offset[i] + captured[i]
        if link[i] == 1 and end - begin >= 34 and _be16(data, begin + 12) == _IPV4:  # by far the most frequent case
            result, at, ip_version = PARSED, begin + 14, np.int64(4)
        else:
            result, at, ip_version = _network_header(data, begin, end, link[i])
        if result != PARSED:
            outcome[i] = result
            continue
        if end - at < 1:
            outcome[i] = IP_TRUNCATED
            continue
        nibble = np.int64(data[at] >> 4)
        if ip_version not in (_ANY_IP, nibble) or nibble not in (4, 6):
            outcome[i] = IP_MALFORMED
            continue
        header = 20 if nibble == 4 else 40
        if end - at < header:
            outcome[i] = IP_TRUNCATED
            continue
        if nibble == 4:
            header = np.int64(data[at] & 0x0F) * 4
            total = _be16(data, at + 2)
            total = total if total else begin + length[i] - at
            if header < 20 or total < header:
                outcome[i] = IP_MALFORMED
                continue
            src_lo[i], dst_lo[i] = np.uint64(_be32(data, at + 12)), np.uint64(_be32(data, at + 16))
            kind = np.int64(data[at + 9])
            transport = at + header if _be16(data, at + 6) & 0x1FFF == 0 else np.int64(-1)
        else:
            total = _be16(data, at + 4)
            total = total + 40 if total or data[at + 6] == _NO_NEXT_HEADER else begin + length[i] - at
            result, transport, kind = _skip_extensions(data, at + 40, end, np.int64(data[at + 6]))
            if result != PARSED:
                outcome[i] = result
                continue
            src_hi[i], src_lo[i] = _be64(data, at + 8), _be64(data, at + 16)
            dst_hi[i], dst_lo[i] = _be64(data, at + 24), _be64(data, at + 32)
        version[i], protocol[i], ip_bytes[i] = nibble, kind, total
        if transport < 0 or transport > at + total:
            continue
        left = at + total - transport
        if kind == _TCP:
            if end - transport < 20 or left < 20:
                continue
            size = np.int64(data[transport + 12] >> 4) * 4
            if size < 20 or size > left:
                continue
            src_port[i], dst_port[i] = _be16(data, transport), _be16(data, transport + 2)
            seq[i], ack[i] = _be32(data, transport + 4), _be32(data, transport + 8)
            flags[i] = data[transport + 13]
            payload_bytes[i] = left - size
        elif kind == _UDP:
            if end - transport < 8 or left < 8:
                continue
            src_port[i], dst_port[i] = _be16(data, transport), _be16(data, transport + 2)
            payload_bytes[i] = left - 8
        elif kind == _SCTP and end - transport >= 12 and left >= 12:
            src_port[i], dst_port[i] = _be16(data, transport), _be16(data, transport + 2)
            payload_bytes[i] = left - 12
