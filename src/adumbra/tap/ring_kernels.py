# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Walks a block of a TPACKET_V3 ring: where each frame lies, and when it was taken. Compiled; checks every field it reads."""

from __future__ import annotations

import sys

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
inlined = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, inline="always")

DONE = 0  # the block has no more frames
FULL = 1  # as many frames as there was room for: the same block again
CORRUPT = 2  # the block's next frame can't be where its header says

BLOCK_HEADER_BYTES = 48  # struct tpacket_block_desc, whose status stands at 8
FRAME_HEADER_BYTES = 48  # struct tpacket3_hdr
STATUS_AT = 8

_BIG = sys.byteorder == "big"
_U1, _U2, _U3 = np.uint64(1), np.uint64(2), np.uint64(3)  # unsigned, so that the bytes of a field become one load


@inlined
def _u16(data, at):
    u = np.uint64(at)
    if _BIG:
        return np.int64(data[u]) << 8 | np.int64(data[u + _U1])
    return np.int64(data[u + _U1]) << 8 | np.int64(data[u])


@inlined
def _u32(data, at):
    u = np.uint64(at)
    if _BIG:
        return np.int64(data[u]) << 24 | np.int64(data[u + _U1]) << 16 | np.int64(data[u + _U2]) << 8 | np.int64(data[u + _U3])
    return np.int64(data[u + _U3]) << 24 | np.int64(data[u + _U2]) << 16 | np.int64(data[u + _U1]) << 8 | np.int64(data[u])


@compiled
def walk_block(data, start, size, at, left, found, offset, captured, length, time_ns):
    """Finds the frames of the block data[start:start + size], from row `found` of the columns on.

    `at`: where in the block the next frame's header stands, 0 to begin with its first; `left`: frames still to come, as it
    was returned. The fields, in the machine's byte order, are those of linux/if_packet.h. A tag that only the header has
    (tp_vlan_tci) is not part of the frame: neither its bytes nor its length. Returns rows filled, at, left, state.
    """
    if start < 0 or size < BLOCK_HEADER_BYTES or start + size > len(data):
        return found, at, left, CORRUPT
    end = min(_u32(data, start + 20), size)
    if at == 0:
        left, at = _u32(data, start + 12), _u32(data, start + 16)
        if left == 0:
            return found, at, left, DONE
    while found < len(offset):
        if at < BLOCK_HEADER_BYTES or at > end - FRAME_HEADER_BYTES:
            return found, at, left, CORRUPT
        head = start + at
        ahead, snap, wire, mac = _u32(data, head), _u32(data, head + 12), _u32(data, head + 16), _u16(data, head + 24)
        last = left == 1
        room = end - at if last else ahead
        if room > end - at or mac < FRAME_HEADER_BYTES or mac + snap > room:
            return found, at, left, CORRUPT
        time_ns[found] = _u32(data, head + 4) * 1_000_000_000 + _u32(data, head + 8)
        offset[found], captured[found], length[found] = head + mac, snap, max(wire, snap)
        found, left, at = found + 1, left - 1, at + ahead
        if last:
            return found, at, left, DONE
    return found, at, left, FULL


@intrinsic
def _fence(_typing_context):
    def generate(context, builder, _signature, _arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), generate


@compiled
def fence():
    """No load or store moves across: what the kernel wrote before a block's status is read after it, and the reverse."""
    _fence()
