"""Hashes: what spreads keys over the meter's tables, and the connection that each packet is of. Compiled; no state."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.meter.compiled import compiled, inlined
from adumbra.meter.layout import FROM_A, FROM_B, SCTP, TCP, UDP, UNTRACKED_SIDE

_M1, _M2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_S33, _S29, _S32 = np.uint64(33), np.uint64(29), np.uint64(32)


@inlined
def mix(x):
    """Mixes 64 bits so that each depends on all."""
    x ^= x >> _S33
    x *= _M1
    x ^= x >> _S29
    x *= _M2
    return x ^ (x >> _S32)


@inlined
def spread_of(key, ports, protocol, version, seed):
    """The hash of a connection's key, ports and kind."""
    kind = np.uint64(ports) << np.uint64(16) | np.uint64(protocol) << np.uint64(8) | np.uint64(version)
    return mix((key ^ seed) * _M2 + kind * _M1)


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
        if outcome[i] != 0 or payload_bytes[i] < 0 or kind not in (TCP, UDP, SCTP) or (src_vm[i] < 0 and dst_vm[i] < 0):
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
            key[i] = mix(a_hi ^ mix(a_lo ^ mix(b_hi ^ mix(b_lo ^ seed))))
        spread[i] = spread_of(key[i], ports[i], kind, version[i], seed)
