"""The peers that each VM met, in an open-addressed table with a bit for each of the latest intervals. Compiled."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.meter.compiled import compiled, inlined
from adumbra.meter.hash_kernels import mix
from adumbra.meter.layout import IPV4_HIGH, MET_INTERVALS, PEERS_UNCOUNTED, PEERS_USED

_ONE = np.uint64(1)
_M1, _M2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)


@inlined
def first_slot(hi, lo, version, vm, peers, seed):
    """The first place to look for a peer of a VM."""
    key = IPV4_HIGH if version == 4 else hi
    return np.int64(mix((lo ^ seed) * _M2 + (key ^ np.uint64(vm)) * _M1) & np.uint64(len(peers) - 1))


@inlined
def _peer_slot(peers, key, lo, vm, seed):
    mask = np.uint64(len(peers) - 1)
    slot = mix((lo ^ seed) * _M2 + (key ^ np.uint64(vm)) * _M1) & mask
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
def meet(hi, lo, version, vm, interval, peers, scalars, seed):
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
