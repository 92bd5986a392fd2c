"""Finds flow exports (NetFlow, IPFIX, sFlow) among a capture's frames: UDP payloads that begin like one. Compiled.

Checks every read. Reads no further than says what a payload is; puts no fragments together.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, check-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit

compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
inlined = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, inline="always")

OTHER = 0  # anything else
EXPORT = 1
FRAGMENT = 2  # the first part of a fragmented one

NETFLOW, SFLOW = 0, 1

_UDP = 17
_ETHERNET, _NULL, _LOOP, _SLL, _SLL2 = 1, 0, 108, 113, 276
_RAW = (12, 14, 101, 228, 229)
_MOST_TAGS = 4
_MOST_EXTENSIONS = 8


@inlined
def _u16(data, at):
    return np.int64(data[at]) << 8 | np.int64(data[at + 1])


@compiled
def find_exports(data, offset, captured, link, kind, verdict, at, size, version, address, port):
    """For each frame its verdict, and for exports where the payload lies and who sent it.

    verdict: uint8[n]; at, size: int64[n], what there is of the payload; version: uint8[n], 4 or 6; address: uint8[n, 16],
    the sender's, IPv4 in the first four; port: int64[n], the sender's.
    """
    for i in range(len(offset)):
        verdict[i] = OTHER
        begin, end = offset[i], offset[i] + captured[i]
        packet = _network(data, begin, end, link[i])
        if packet < 0 or end - packet < 20:
            continue
        version[i] = data[packet] >> 4
        if version[i] == 4:
            segment, fragment = _past_ipv4(data, packet, end)
            for k in range(4):
                address[i, k] = data[packet + 12 + k]
        elif version[i] == 6 and end - packet >= 40:
            segment, fragment = _past_ipv6(data, packet, end)
            for k in range(16):
                address[i, k] = data[packet + 8 + k]
        else:
            continue
        if segment < 0 or end - segment < 8:
            continue
        told = _u16(data, segment + 4) - 8
        at[i], size[i], port[i] = segment + 8, min(told, end - segment - 8), _u16(data, segment)
        if _is_export(data, at[i], size[i], told, _u16(data, segment + 2), kind):
            verdict[i] = FRAGMENT if fragment else EXPORT


@compiled
def _network(data, at, end, link):
    """Where the IP packet begins, -1 if there is none that can be found."""
    if link in _RAW:
        return at
    if link in (_NULL, _LOOP):
        return at + 4
    if link == _SLL:
        kind_at = at + 14
    elif link == _SLL2:
        if end - at < 20 or _u16(data, at) not in (0x0800, 0x86DD):
            return -1
        return at + 20
    elif link == _ETHERNET:
        kind_at = at + 12
    else:
        return -1
    for _ in range(_MOST_TAGS + 1):
        if end - kind_at < 2:
            return -1
        kind = _u16(data, kind_at)
        if kind in (0x0800, 0x86DD):
            return kind_at + 2
        if kind not in (0x8100, 0x88A8, 0x9100):
            return -1
        kind_at += 4
    return -1


@compiled
def _past_ipv4(data, at, end):
    """Where the UDP header begins, -1 if there is none; whether more fragments follow."""
    header, parts = np.int64(data[at] & 15) * 4, _u16(data, at + 6)
    if header < 20 or data[at + 9] != _UDP or parts & 0x1FFF or end - at < header:
        return -1, False
    return at + header, parts & 0x2000 != 0


@compiled
def _past_ipv6(data, at, end):
    kind, at, fragment = np.int64(data[at + 6]), at + 40, False
    for _ in range(_MOST_EXTENSIONS):
        if kind == _UDP:
            return at, fragment
        if end - at < 8:
            break
        if kind in (0, 43, 60):
            step = (np.int64(data[at + 1]) + 1) * 8
        elif kind == 44:
            parts, step = _u16(data, at + 2), 8
            if parts & 0xFFF8:
                break
            fragment = parts & 1 != 0
        elif kind == 51:
            step = (np.int64(data[at + 1]) + 2) * 4
        else:
            break
        kind, at = np.int64(data[at]), at + step
    return -1, False


@compiled
def _is_export(data, at, have, told, port, kind):
    """Whether a payload begins as an export does. On the usual ports its version says so, on others its lengths must fit.

    have: bytes of it in the capture; told: its length by the UDP header.
    """
    if have < 4:
        return False
    version = _u16(data, at)
    if kind == SFLOW:
        if version != 0 or _u16(data, at + 2) != 5:
            return False
        if port == 6343:
            return True
        return have >= 28 and _u16(data, at + 4) == 0 and _u16(data, at + 6) in (1, 2)
    if version not in (5, 9, 10):
        return False
    if port in (2055, 2056, 4739, 9995, 9996):
        return True
    if have < 24:
        return False
    count = _u16(data, at + 2)
    if version == 5:
        return 1 <= count <= 30 and told >= 24 + 48 * count
    if version == 10:
        first = _u16(data, at + 16)
        return 16 <= count <= told and (first in (2, 3) or first >= 256)
    first, length = _u16(data, at + 20), _u16(data, at + 22)
    return count > 0 and (first in (0, 1) or first >= 256) and 4 <= length <= told - 20
