"""Checks that a metric batch hangs together before a store takes it. Pure; touches no database."""

from __future__ import annotations

import numpy as np

from adumbra.schema.metrics import BY_NAME
from adumbra.schema.records import NANOSECONDS, MetricBatch


def check_batch(batch: MetricBatch) -> int:
    """The batch's interval in ns, where its columns fit its keys. Raises ValueError saying what doesn't.

    A batch comes from this program, never from a user: whatever is wrong here is a mistake in the stage that made it.
    """
    shape = (len(batch.start_ns), len(batch.vms))
    interval_ns = round(batch.interval_s * NANOSECONDS)
    if interval_ns <= 0:
        raise ValueError(f"a batch of {batch.network} has intervals of {batch.interval_s} s")
    if len(set(batch.vms)) != len(batch.vms):
        raise ValueError(f"a batch of {batch.network} names a VM twice")
    if np.any(np.diff(batch.start_ns) < interval_ns):
        raise ValueError(f"the intervals of a batch of {batch.network} overlap or don't increase")
    if unknown := set(batch.columns) - set(BY_NAME):
        raise ValueError(f"a batch of {batch.network} has columns that the catalogue doesn't: {', '.join(sorted(unknown))}")
    for name, values in {**batch.columns, "one_sided": batch.one_sided}.items():
        if values.shape != shape:
            raise ValueError(f"column {name} of a batch of {batch.network} is {values.shape}, not {shape}: intervals x VMs")
    for name, totals in batch.before.items():
        if name not in batch.columns or totals.shape != shape[1:]:
            raise ValueError(f"what was counted of {name} before a batch of {batch.network} is not one number a VM")
    return interval_ns
