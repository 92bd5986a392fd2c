"""The running totals of counts. Compiled; keeps nothing."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import math

from adumbra.store.compiled import compiled


@compiled
def run_on(counts, starts_ns, ends_ns, running, known_ns, totals, bases):
    """Totals and bases, float64[k, V] each, of counts [k, V] with NaN where not known.

    running: float64[V] and known_ns: int64[V], the totals so far and the end of the last interval that each knows of; both are
    brought up to the end. A total begins at 0, and its base is told, where the interval doesn't follow that one. Returns how
    many bases there are. One addition a count, in order: how the counts are cut into batches changes no bit.
    """
    begun = 0
    for row in range(counts.shape[0]):
        for vm in range(counts.shape[1]):
            bases[row, vm] = math.nan
            count = float(counts[row, vm])
            if math.isnan(count):
                totals[row, vm] = math.nan
                continue
            if known_ns[vm] != starts_ns[row]:
                running[vm] = 0.0
                bases[row, vm] = 0.0
                begun += 1
            running[vm] += count
            known_ns[vm] = ends_ns[row]
            totals[row, vm] = running[vm]
    return begun
