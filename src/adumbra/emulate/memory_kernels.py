"""Compiled: what a VM holds: connections, clients that it remembers, a cache, what was written and is kept. No chance."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import math

from adumbra.emulate.compiled import compiled


@compiled
def forgotten(elapsed_ns, kept_ns):
    """The share that is left of what is kept for kept_ns on the mean (0: not at all; infinite: for good)."""
    return math.exp(-elapsed_ns / kept_ns) if kept_ns > 0.0 else 0.0


@compiled
def keep_open(held, connections, elapsed_ns, release_ns):
    """Connections whose memory is in use: those that are open, and of those that closed as many as hold what wasn't given back
    yet, at a constant rate, on the mean after release_ns. `held`: a record with connections.
    """
    held.connections = connections + max(held.connections - connections, 0.0) * forgotten(elapsed_ns, release_ns)
    return held.connections


@compiled
def remember(held, peers, elapsed_ns, session_ns):
    """Clients remembered: those that are there, and those that left and weren't forgotten. `held`: a record with peers,
    gone_peers.

    Intervals tell how many there are (NaN: not told, so as many as before), not who. So as many have left as there are fewer,
    and whoever comes is new: no fewer can have come and gone. Those that left are forgotten at a constant rate, on the mean
    after session_ns, where real ones are after just that time.
    """
    now = held.peers if math.isnan(peers) else peers
    held.gone_peers = held.gone_peers * forgotten(elapsed_ns, session_ns) + max(held.peers - now, 0.0)
    held.peers = now
    return now + (held.gone_peers if session_ns > 0.0 else 0.0)


@compiled
def cached(requests, request_bytes, most_bytes):
    """What a cache holds after so many requests: see roles.MemoryPrior. With request_bytes 1 and most_bytes the requests that
    it has room for: how many of the requests weren't seen before.
    """
    return -most_bytes * math.expm1(-requests * request_bytes / most_bytes) if most_bytes > 0.0 else 0.0


@compiled
def hold(held, asked, elapsed_ns, connections, peers, requests, release_ns, session_ns, room, out):
    """What a VM's memory is held for in intervals in turn: writes out float64[k, 4], by schema.calibration.HOLDINGS. Memory is
    the sum of these times what each of them holds.

    elapsed_ns float64[k]: since the last one's end; connections, peers, requests float64[k]; asked: requests before; room: for
    how many requests the cache has room. Gives the requests up to the end.
    """
    for i in range(len(elapsed_ns)):
        asked += requests[i]
        out[i, 0] = 1.0
        out[i, 1] = keep_open(held, connections[i], elapsed_ns[i], release_ns)
        out[i, 2] = remember(held, peers[i], elapsed_ns[i], session_ns)
        out[i, 3] = cached(asked, 1.0, room)
    return asked
