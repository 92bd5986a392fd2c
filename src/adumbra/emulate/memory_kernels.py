"""Compiled: what a VM holds: clients that it remembers, a cache, resident memory, what was written and is kept. No chance."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import math

from adumbra.emulate.compiled import compiled


@compiled
def forgotten(elapsed_ns, kept_ns):
    """The share that is left of what is kept for kept_ns on the mean (0: not at all; infinite: for good)."""
    return math.exp(-elapsed_ns / kept_ns) if kept_ns > 0.0 else 0.0


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
def remembered(peers, elapsed_ns, session_ns, held, out):
    """`remember` for intervals in turn: peers, elapsed_ns float64[k], since the last one's end; writes out[k]."""
    for i in range(len(peers)):
        out[i] = remember(held, peers[i], elapsed_ns[i], session_ns)


@compiled
def cached(requests, request_bytes, most_bytes):
    """What a cache holds after so many requests: see roles.MemoryPrior."""
    return -most_bytes * math.expm1(-requests * request_bytes / most_bytes) if most_bytes > 0.0 else 0.0


@compiled
def resident(before, needed, elapsed_ns, release_ns):
    """Memory in use: at least what is needed now; what was in use before is given back over the release time."""
    kept = before - needed
    return needed + kept * forgotten(elapsed_ns, release_ns) if kept > 0.0 and release_ns > 0.0 else needed
